//! One test's bed: a temporary store, context and home that belong to a user, and the binary run in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::registry::Registry;
use super::user::{User, binary};

/// The checkout that the tests belong to.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A store, a context and a home of one user, gone at the end of the test.
pub struct Bed {
    pub user: User,
    folder: tempfile::TempDir,
}

impl Bed {
    /// One bed for each user that the tests can be.
    pub fn each_user() -> Vec<Bed> {
        User::all().into_iter().map(Bed::of).collect()
    }

    /// A bed of whoever runs the tests.
    pub fn caller() -> Bed {
        Bed::of(User::Caller)
    }

    /// A bed whose builds take docker.io from the stand-in registry.
    pub fn of(user: User) -> Bed {
        let folder = tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["context", "home", "out"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        user.own(folder.path());
        let bed = Bed { user, folder };
        bed.registries(&Registry::stand_in().configuration());
        bed
    }

    /// A path inside the bed.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the store is.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Replaces the user's registries.conf.
    pub fn registries(&self, text: &str) -> &Self {
        self.write(&self.path("home/.config/containers/registries.conf"), text.as_bytes())
    }

    /// Writes a file of the context.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        self.write(&self.path("context").join(name), text.as_ref())
    }

    /// Writes the context's Dockerfile.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    fn write(&self, path: &Path, text: &[u8]) -> &Self {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        let top = path.strip_prefix(self.folder.path()).unwrap().iter().next().unwrap();
        self.user.own(&self.folder.path().join(top));
        self
    }

    /// `rbuild ARGS` in the context, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.user.command(binary(), &self.path("home"));
        command.args(arguments).env("RBUILD_STORE", self.store()).current_dir(self.path("context")).stdin(Stdio::null());
        command
    }

    /// `rbuild ARGS` in the context.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// `rbuild build --progress plain ARGS .` in the context.
    pub fn build(&self, arguments: &[&str]) -> Outcome {
        self.run(&[&["build", "--progress", "plain"], arguments, &["."]].concat())
    }

    /// Builds the Dockerfile as image `name` of the store and gives its manifest digest.
    #[track_caller]
    pub fn image(&self, name: &str, arguments: &[&str]) -> String {
        self.build(&[&["-t", name], arguments].concat()).succeeds();
        self.digest(name)
    }

    /// The digest of a named image in the store's index, as any OCI tool would find it.
    #[track_caller]
    pub fn digest(&self, name: &str) -> String {
        let index = fs::read_to_string(self.store().join("index.json")).expect("the store is an OCI layout");
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let named = |manifest: &&serde_json::Value| {
            manifest["annotations"]["org.opencontainers.image.ref.name"].as_str().is_some_and(|found| is_name(found, name))
        };
        let manifest = index["manifests"].as_array().unwrap().iter().find(named);
        manifest.unwrap_or_else(|| panic!("{name} is not in {index}"))["digest"].as_str().unwrap().to_owned()
    }

    /// What `name` is called in the store's index: `skopeo ... oci:STORE:NAME`.
    pub fn reference(&self, name: &str) -> String {
        let index = fs::read_to_string(self.store().join("index.json")).expect("the store is an OCI layout");
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let names = index["manifests"].as_array().unwrap().iter();
        let mut names = names.filter_map(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"].as_str());
        let found = names.find(|found| is_name(found, name)).unwrap_or_else(|| panic!("{name} is not in {index}"));
        format!("oci:{}:{found}", self.store().display())
    }
}

impl Drop for Bed {
    /// Files of mapped ids go too: rbuild itself can remove them, and root can anyway.
    fn drop(&mut self) {
        if self.store().exists() && !nix::unistd::Uid::effective().is_root() {
            let _ = self.command(&["prune", "--all"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Whether a name in an index means `name`: it may be written with its registry and tag.
fn is_name(found: &str, name: &str) -> bool {
    let plain = found.trim_start_matches("docker.io/").trim_start_matches("library/");
    plain == name || plain.strip_suffix(":latest") == Some(name)
}

/// What a run of the binary came to.
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    command: String,
}

impl Outcome {
    pub fn of(mut command: Command) -> Outcome {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Outcome::from_output(&format!("{command:?}"), &output)
    }

    /// Of a command that the test ran itself.
    pub fn from_output(command: &str, output: &std::process::Output) -> Outcome {
        Outcome {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            command: command.to_owned(),
        }
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Failed in an orderly way: an exit code, neither success nor a panic.
    #[track_caller]
    pub fn fails(&self) -> &Self {
        assert!(self.code.is_some_and(|code| code != 0 && code != 101), "{self}");
        self
    }

    #[track_caller]
    pub fn fails_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    #[track_caller]
    pub fn says(&self, words: &str) -> &Self {
        assert!(self.out.contains(words) || self.err.contains(words), "{words:?} is missing:\n{self}");
        self
    }

    #[track_caller]
    pub fn does_not_say(&self, words: &str) -> &Self {
        assert!(!self.out.contains(words) && !self.err.contains(words), "{words:?} should be missing:\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\nexit code {:?}\n--- out\n{}--- err\n{}", self.command, self.code, self.out, self.err)
    }
}
