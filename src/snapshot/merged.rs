//! A directory as overlayfs would show it: the directories of several layers seen as one, in user space.
//!
//! Each level keeps open only the layers that have the directory, so that a look-up costs one call per such layer and
//! not one per layer of the image. As in overlayfs, names are names: links are never followed.
//! Unaware of what the look-ups are for.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::{FileType, Stat};

use super::disk;
use crate::sys::root::RootDir;

/// One directory of the merged tree: the layers that have it, top first.
#[derive(Debug, Default)]
pub struct MergedDir {
    layers: Vec<OwnedFd>,
}

/// An entry of the merged tree, as its topmost layer has it.
#[derive(Debug)]
pub(super) struct MergedEntry<'a> {
    pub stat: Stat,
    /// The directory of that layer in which it lies.
    pub holder: BorrowedFd<'a>,
    /// Index of that directory in this level's list.
    index: usize,
}

impl MergedEntry<'_> {
    pub fn is_directory(&self) -> bool {
        disk::file_type(&self.stat) == FileType::Directory
    }
}

impl MergedDir {
    /// The root of layers, top first.
    pub fn root(layers: &[RootDir]) -> io::Result<Self> {
        let mut open = Vec::with_capacity(layers.len());
        for layer in layers {
            open.push(disk::open_directory(layer, c".")?);
            if disk::is_opaque(&open[open.len() - 1])? {
                break;
            }
        }
        Ok(Self { layers: open })
    }

    /// The topmost layer's own directory: its attributes are the merged directory's.
    pub(super) fn top(&self) -> Option<BorrowedFd<'_>> {
        self.layers.first().map(AsFd::as_fd)
    }

    /// What the merged tree has under `name`.
    pub(super) fn get(&self, name: &CStr) -> io::Result<Option<MergedEntry<'_>>> {
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(stat) = disk::stat_at(layer, name)? {
                let entry = MergedEntry { stat, holder: layer.as_fd(), index };
                return Ok((!disk::is_whiteout(&stat)).then_some(entry));
            }
        }
        Ok(None)
    }

    /// The merged directory `name`; empty if there is none.
    pub(super) fn child(&self, name: &CStr) -> io::Result<Self> {
        match self.get(name)? {
            Some(entry) if entry.is_directory() => self.child_from(name, entry.index),
            _ => Ok(Self::default()),
        }
    }

    fn child_from(&self, name: &CStr, index: usize) -> io::Result<Self> {
        let mut layers = Vec::new();
        for layer in &self.layers[index..] {
            match disk::stat_at(layer, name)? {
                None => continue,
                Some(stat) if disk::file_type(&stat) != FileType::Directory => break,
                Some(_) => layers.push(disk::open_directory(layer, name)?),
            }
            if disk::is_opaque(&layers[layers.len() - 1])? {
                break;
            }
        }
        Ok(Self { layers })
    }

    /// The merged directory at a path of plain names.
    pub(super) fn descend(&self, path: &Path) -> io::Result<Self> {
        let mut here = Self { layers: self.layers.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()? };
        for name in path {
            here = here.child(&disk::c_name(name.as_bytes())?)?;
        }
        Ok(here)
    }

    /// All names of the merged directory, sorted, whited out ones left out.
    pub(super) fn names(&self) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        for layer in &self.layers {
            names.extend(disk::list(layer)?);
        }
        names.sort_unstable();
        names.dedup();
        let mut present = Vec::with_capacity(names.len());
        for name in names {
            if self.get(&name)?.is_some() {
                present.push(name);
            }
        }
        Ok(present)
    }
}
