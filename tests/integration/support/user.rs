//! Who runs the binary: root and an unprivileged user when the tests run as root, else whoever runs them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

use super::skip;

/// The account that tests/run makes for the unprivileged half of the tests.
const UNPRIVILEGED: &str = "rbuild-test";

/// A person who runs rbuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests: root under CI.
    Caller,
    /// `rbuild-test`, reached from root.
    Unprivileged { uid: u32, gid: u32 },
}

impl User {
    /// Everyone that the tests can be on this machine.
    pub fn all() -> Vec<User> {
        if !nix::unistd::Uid::effective().is_root() {
            return vec![User::Caller];
        }
        match nix::unistd::User::from_name(UNPRIVILEGED).expect("the user database can be read") {
            Some(account) => vec![User::Caller, User::Unprivileged { uid: account.uid.as_raw(), gid: account.gid.as_raw() }],
            None => {
                skip("there is no user rbuild-test for the unprivileged half (tests/run makes it)");
                vec![User::Caller]
            }
        }
    }

    /// A command that this user runs, with nothing in its environment but a home and a path.
    pub fn command(self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", home).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if let User::Unprivileged { uid, gid } = self {
            command.uid(uid).gid(gid).env("USER", UNPRIVILEGED);
        }
        command
    }

    /// Gives a path and all below it to this user.
    pub fn own(self, path: &Path) {
        let User::Unprivileged { uid, gid } = self else { return };
        chown_tree(path, uid, gid).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

fn chown_tree(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() == 0 {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_tree(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

/// The binary under test, at a place that every user may enter.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_rbuild"));
        if built.ancestors().skip(1).all(open_to_all) {
            return built;
        }
        // One copy per build of the binary, left for the next run: a static is never dropped.
        let modified = fs::metadata(&built).and_then(|metadata| metadata.modified()).expect("the binary was built");
        let age = modified.duration_since(std::time::UNIX_EPOCH).expect("built after 1970").as_nanos();
        let folder = std::env::temp_dir().join("rbuild-tests");
        let copy = folder.join(format!("rbuild-{age}"));
        if !copy.exists() {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
            let part = folder.join(format!("part-{}", std::process::id()));
            fs::copy(&built, &part).unwrap();
            fs::rename(&part, &copy).unwrap();
        }
        copy
    })
}

fn open_to_all(folder: &Path) -> bool {
    folder.as_os_str().is_empty() || fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
}
