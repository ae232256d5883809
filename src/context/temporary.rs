//! A private directory that goes when nobody needs it. Unaware of what is in it.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::ContextError;
use crate::sys::remove::remove_tree;

/// A directory that only we can enter, removed with all below it when dropped.
#[derive(Debug)]
pub struct TemporaryTree {
    path: PathBuf,
}

impl TemporaryTree {
    /// Creates a directory with a fresh name in `parent`, which is one of our own and is created when missing.
    pub fn create(parent: &Path, prefix: &str) -> Result<Self, ContextError> {
        std::fs::create_dir_all(parent).map_err(ContextError::io("create", parent))?;
        let private = Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(prefix).permissions(private).tempdir_in(parent);
        let made = made.map_err(ContextError::io("create a directory in", parent))?;
        Ok(Self { path: made.keep() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryTree {
    fn drop(&mut self) {
        // What is left over is found by the next clean-up of the directory it is in.
        let _ = remove_tree(&self.path);
    }
}
