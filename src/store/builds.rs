//! What a build leaves to be read later: its report and the whole output of each step. Unaware of what they say.

use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    Store,
    error::{IoContext, Result, StoreError},
    lease::{Lease, LeaseKind},
    temporary::unique,
};

/// The directory of one build.
#[derive(Debug)]
pub struct BuildDir {
    id: String,
    path: PathBuf,
    store: Store,
    /// Held by the build that writes here.
    _lease: Option<Lease>,
}

impl BuildDir {
    /// `20260131-235959-0a1b2c3d`: the time it began, and something to tell apart what began together.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for one step's output, opened to append.
    pub fn step_log(&self, number: usize) -> Result<File> {
        let path = self.step_log_path(number);
        File::options().append(true).create(true).open(&path).at("open", path)
    }

    /// Where one step's output is.
    pub fn step_log_path(&self, number: usize) -> PathBuf {
        self.path.join("steps").join(format!("{number:02}.log"))
    }

    /// Writes the report as a whole.
    pub fn write_report(&self, json: &[u8]) -> Result<()> {
        self.store.replace(&self.path.join("report.json"), json)
    }

    /// The report; None while the build runs, or if it was killed.
    pub fn report(&self) -> Result<Option<Vec<u8>>> {
        let path = self.path.join("report.json");
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", path),
        }
    }
}

impl Store {
    /// Starts the directory of a build.
    pub fn new_build_log(&self) -> Result<BuildDir> {
        let now = jiff::Timestamp::now();
        // Microseconds in the suffix: ids sort by time also within a second.
        let id = format!("{}-{:05x}{}", now.strftime("%Y%m%d-%H%M%S"), now.subsec_nanosecond() / 1000, &unique()[..3]);
        let lease = self.lease(LeaseKind::Build, &id)?;
        let path = self.path("builds").join(&id);
        for directory in [path.clone(), path.join("steps")] {
            fs::DirBuilder::new().mode(0o700).create(&directory).at("create", directory)?;
        }
        Ok(BuildDir { id, path, store: self.clone(), _lease: Some(lease) })
    }

    /// The builds there are, newest first.
    pub fn builds(&self) -> Result<Vec<BuildDir>> {
        let top = self.path("builds");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&top).at("list", &top)? {
            ids.push(entry.at("list", &top)?.file_name().to_string_lossy().into_owned());
        }
        ids.sort();
        Ok(ids.into_iter().rev().map(|id| self.build_dir(id)).collect())
    }

    /// The newest build whose id begins with `text`, or ends with it; an empty text is the newest of all.
    pub fn open_build(&self, text: &str) -> Result<BuildDir> {
        let mut builds = self.builds()?.into_iter();
        let found = builds.find(|build| build.id.starts_with(text) || build.id.ends_with(text));
        found.ok_or_else(|| StoreError::NoSuchBuild { text: text.to_owned() })
    }

    fn build_dir(&self, id: String) -> BuildDir {
        BuildDir { path: self.path("builds").join(&id), id, store: self.clone(), _lease: None }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_build_is_found_by_a_part_of_its_id() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        assert!(matches!(store.open_build(""), Err(StoreError::NoSuchBuild { .. })));
        let build = store.new_build_log().unwrap();
        writeln!(build.step_log(3).unwrap(), "one").unwrap();
        writeln!(build.step_log(3).unwrap(), "two").unwrap();
        assert_eq!(build.report().unwrap(), None);
        build.write_report(b"{}").unwrap();
        let id = build.id().to_owned();
        drop(build);
        for text in ["", &id, &id[..10], &id[16..]] {
            let found = store.open_build(text).unwrap();
            assert_eq!(found.id(), id);
            assert_eq!(found.report().unwrap().unwrap(), b"{}");
            assert_eq!(fs::read_to_string(found.step_log_path(3)).unwrap(), "one\ntwo\n");
        }
        assert!(store.open_build("../..").is_err());
    }
}
