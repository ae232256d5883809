//! A context that is a directory of the user's: opened once, everything else beneath it; and the text files that steer
//! the build, which may be anything but what is expected. Unaware of what the texts mean.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags};

use super::ContextError;
use crate::sys::root::RootDir;

/// Dockerfiles and ignore files are written by people.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

const DOCKERFILE: &str = "Dockerfile";
const LOWERCASE_DOCKERFILE: &str = "dockerfile";
const IGNORE_FILE: &str = ".dockerignore";

/// A directory as build context.
#[derive(Debug)]
pub struct LocalContext {
    path: PathBuf,
    root: RootDir,
}

/// A text file that steers the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// As the user would name it: relative where the context was given so.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

/// The Dockerfile and the ignore file that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileSource {
    /// What to parse.
    pub dockerfile: SourceText,
    /// `<Dockerfile>.dockerignore` beside it; where present, it replaces the context's own.
    pub ignore: Option<SourceText>,
}

impl LocalContext {
    /// Opens a directory.
    pub fn open(path: &Path) -> Result<Self, ContextError> {
        match RootDir::open(path) {
            Ok(root) => Ok(Self { path: path.to_owned(), root }),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(ContextError::NotADirectory { path: path.to_owned() }),
            Err(error) => Err(ContextError::io("open the build context", path)(error)),
        }
    }

    /// The root of all its paths.
    pub fn root(&self) -> &RootDir {
        &self.root
    }

    /// As it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Dockerfile `-f` names, relative to the current directory, or else the context's `Dockerfile`; for either,
    /// `dockerfile` when only that exists.
    pub fn read_dockerfile(&self, file: Option<&Path>) -> Result<DockerfileSource, ContextError> {
        let path = file.map_or_else(|| self.path.join(DOCKERFILE), Path::to_owned);
        let path = or_lowercase(path);
        let text = self.read_text("dockerfile", &path)?.ok_or_else(|| ContextError::NoDockerfile { path: path.clone() })?;
        let mut ignore_name = path.file_name().unwrap_or(OsStr::new(DOCKERFILE)).to_owned();
        ignore_name.push(IGNORE_FILE);
        let ignore_path = path.with_file_name(ignore_name);
        let ignore = self.read_text("ignore file", &ignore_path)?;
        Ok(DockerfileSource { dockerfile: SourceText { path, text }, ignore: ignore.map(|text| SourceText { path: ignore_path, text }) })
    }

    /// The context's own `.dockerignore`.
    pub fn read_ignore_file(&self) -> Result<Option<SourceText>, ContextError> {
        let path = self.path.join(IGNORE_FILE);
        let text = self.read_text("ignore file", &path)?;
        Ok(text.map(|text| SourceText { path, text }))
    }

    /// Links may be followed inside the context and inside the file's own directory. Outside of both they would let a
    /// foreign repository show a file of the host in an error message.
    fn read_text(&self, what: &'static str, path: &Path) -> Result<Option<String>, ContextError> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => return Ok(None),
            Err(error) => return Err(ContextError::io("read", path)(error)),
        };
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for allowed in [beside, &self.path] {
            let allowed = fs::canonicalize(allowed).map_err(ContextError::io("open", allowed))?;
            if let Ok(inside) = real.strip_prefix(&allowed) {
                let root = RootDir::open(&allowed).map_err(ContextError::io("open", &allowed))?;
                return read_text_in(&root, inside, what, path).map(Some);
            }
        }
        Err(ContextError::LeadsOut { what, path: path.to_owned() })
    }
}

/// Reads the Dockerfile of a context that came from elsewhere (git, an archive): beneath its root, links as after a chroot.
/// Such contexts have no ignore file.
pub fn read_dockerfile_in(root: &RootDir, name: Option<&Path>) -> Result<SourceText, ContextError> {
    let wanted = name.unwrap_or(Path::new(DOCKERFILE));
    let lowercase = wanted.with_file_name(LOWERCASE_DOCKERFILE);
    let exists = |path: &Path| root.open_in(path, OFlags::PATH, Mode::empty()).is_ok();
    let is_default = wanted.file_name() == Some(OsStr::new(DOCKERFILE));
    let path = if is_default && !exists(wanted) && exists(&lowercase) { lowercase } else { wanted.to_owned() };
    if !exists(&path) {
        return Err(ContextError::NoDockerfile { path });
    }
    let text = read_text_in(root, &path, "dockerfile", &path)?;
    Ok(SourceText { path, text })
}

/// `shown` is how the user knows `path`.
fn read_text_in(root: &RootDir, path: &Path, what: &'static str, shown: &Path) -> Result<String, ContextError> {
    let fd = root.open_in(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(ContextError::io("read", shown))?;
    let stat = rustix::fs::fstat(&fd).map_err(ContextError::io("read", shown))?;
    if let Some(found) = not_a_file(FileType::from_raw_mode(stat.st_mode)) {
        return Err(ContextError::NotAFile { what, path: shown.to_owned(), found });
    }
    let mut bytes = Vec::new();
    File::from(fd).take(TEXT_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(ContextError::io("read", shown))?;
    if bytes.len() as u64 > TEXT_LIMIT_BYTES {
        return Err(ContextError::TooLarge { what, path: shown.to_owned(), limit_bytes: TEXT_LIMIT_BYTES });
    }
    String::from_utf8(bytes).map_err(|_| ContextError::NotText { what, path: shown.to_owned() })
}

fn not_a_file(found: FileType) -> Option<&'static str> {
    match found {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a named pipe"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("not a regular file"),
    }
}

/// `dockerfile` beside a `Dockerfile` that does not exist. The directory's own listing tells: a file system that ignores
/// case would find either name.
fn or_lowercase(path: PathBuf) -> PathBuf {
    if path.file_name() != Some(OsStr::new(DOCKERFILE)) {
        return path;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let has = |wanted: &str| {
        fs::read_dir(directory).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() == wanted)))
    };
    if !has(DOCKERFILE) && has(LOWERCASE_DOCKERFILE) { path.with_file_name(LOWERCASE_DOCKERFILE) } else { path }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, mknodat};

    use super::*;

    struct Top(tempfile::TempDir);

    impl Top {
        fn with(files: &[(&str, &str)]) -> Self {
            let top = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                let path = top.path(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            top
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn context(&self) -> LocalContext {
            LocalContext::open(&self.path("context")).unwrap()
        }

        fn dockerfile(&self, file: Option<&str>) -> Result<(String, Option<String>), String> {
            let file = file.map(|file| self.path(file));
            match self.context().read_dockerfile(file.as_deref()) {
                Ok(found) => Ok((found.dockerfile.text, found.ignore.map(|ignore| ignore.text))),
                Err(error) => Err(error.to_string().replace(self.0.path().to_str().unwrap(), "")),
            }
        }
    }

    #[test]
    fn default_names() {
        let only_lower = Top::with(&[("context/dockerfile", "lower"), ("context/dockerfile.dockerignore", "i")]);
        assert_eq!(only_lower.dockerfile(None), Ok(("lower".into(), Some("i".into()))));
        let both = Top::with(&[("context/dockerfile", "lower"), ("context/Dockerfile", "upper")]);
        assert_eq!(both.dockerfile(None), Ok(("upper".into(), None)));
        let none = Top::with(&[("context/x", "")]);
        assert_eq!(none.dockerfile(None), Err("failed to read dockerfile: /context/Dockerfile does not exist".into()));
    }

    #[test]
    fn the_file_may_lie_outside_and_brings_its_ignore_file() {
        let top =
            Top::with(&[("context/x", ""), ("other/My.file", "mine"), ("other/My.file.dockerignore", "b"), ("context/.dockerignore", "a")]);
        assert_eq!(top.dockerfile(Some("other/My.file")), Ok(("mine".into(), Some("b".into()))));
        assert_eq!(top.context().read_ignore_file().unwrap().unwrap().text, "a");
        assert_eq!(top.dockerfile(Some("other/missing")), Err("failed to read dockerfile: /other/missing does not exist".into()));
    }

    #[test]
    fn links_are_followed_inside() {
        let top = Top::with(&[("context/docker/real", "real"), ("other/real", "beside")]);
        symlink("docker/real", top.path("context/Dockerfile")).unwrap();
        symlink("real", top.path("other/link")).unwrap();
        assert_eq!(top.dockerfile(None).unwrap().0, "real");
        assert_eq!(top.dockerfile(Some("other/link")).unwrap().0, "beside");
        symlink(top.path("context/docker/real"), top.path("other/into-context")).unwrap();
        assert_eq!(top.dockerfile(Some("other/into-context")).unwrap().0, "real");
    }

    /// Security list 11.
    #[test]
    fn what_is_not_a_file_of_the_context_is_refused() {
        for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
            let top = Top::with(&[("context/Dockerfile", "FROM scratch"), ("canary", "outside")]);
            let path = top.path("context").join(name);
            let read = || match top.context().read_dockerfile(None) {
                Ok(_) => top.context().read_ignore_file().map(|_| ()),
                Err(error) => Err(error),
            };
            let _ = fs::remove_file(&path);
            symlink("../canary", &path).unwrap();
            assert!(matches!(read(), Err(ContextError::LeadsOut { .. })), "{name} -> outside");
            fs::remove_file(&path).unwrap();
            symlink("/dev/zero", &path).unwrap();
            assert!(matches!(read(), Err(ContextError::LeadsOut { .. })), "{name} -> /dev/zero");
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            assert!(matches!(read(), Err(ContextError::NotAFile { found: "a directory", .. })), "{name} is a directory");
            fs::remove_dir(&path).unwrap();
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
            assert!(matches!(read(), Err(ContextError::NotAFile { found: "a named pipe", .. })), "{name} is a FIFO");
        }
    }

    #[test]
    fn a_dockerfile_that_is_no_text_is_refused() {
        let top = Top::with(&[("context/x", "")]);
        fs::write(top.path("context/Dockerfile"), [0xff, 0xfe, 0]).unwrap();
        assert_eq!(top.dockerfile(None), Err("failed to read dockerfile: /context/Dockerfile is not UTF-8 text".into()));
    }

    #[test]
    fn a_context_must_be_a_directory() {
        let top = Top::with(&[("context", "a file")]);
        assert!(matches!(LocalContext::open(&top.path("context")), Err(ContextError::NotADirectory { .. })));
        assert!(matches!(LocalContext::open(&top.path("missing")), Err(ContextError::Io { .. })));
    }

    /// Security list 11, for contexts that came from elsewhere.
    #[test]
    fn a_foreign_context_is_read_as_after_a_chroot() {
        let top = Top::with(&[("context/real", "inside"), ("context/sub/dockerfile", "lower"), ("canary", "outside")]);
        let root = RootDir::open(&top.path("context")).unwrap();
        let read = |name: &str| read_dockerfile_in(&root, Some(Path::new(name))).map(|found| found.text);
        symlink("/real", top.path("context/absolute")).unwrap();
        symlink("../../canary", top.path("context/climbing")).unwrap();
        symlink("/proc/self/environ", top.path("context/environment")).unwrap();
        assert_eq!(read("absolute").unwrap(), "inside");
        assert_eq!(read("sub/Dockerfile").unwrap(), "lower");
        assert_eq!(read("../real").unwrap(), "inside");
        for name in ["climbing", "environment", "../canary"] {
            assert!(matches!(read(name), Err(ContextError::NoDockerfile { .. })), "{name}");
        }
    }
}
