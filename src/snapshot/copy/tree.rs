//! A directory and all below it from a source to its place. Unaware of wildcards and of how one entry is written.

use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    CopyError, Target,
    crew::{Crew, Filling, Finish, Job, with_crew},
    error::Context,
    files::{Entry, Writer},
    select::{Decision, Match, Rules, join},
    shown,
};
use crate::snapshot::layered::{Directory, Kind, Metadata};

/// Deeper than any tree that is meant, and within a thread's stack and a process's open files.
pub(crate) const MAX_DEPTH: usize = 256;

/// A directory on the way from the match down to where we are.
struct Level {
    source: Arc<Directory>,
    metadata: Metadata,
    /// Name in the target directory of the level above.
    name: OsString,
    /// Set once it is there; a directory that is only passed through is made when something in it is taken.
    target: Option<Arc<Filling>>,
    /// Whether it gets the source's metadata when all in it is done.
    dressed: bool,
}

struct Walk<'w, 'a, 'r, 's, 'e> {
    writer: &'w mut Writer<'a, 'r>,
    crew: &'w mut Crew<'s, 'e>,
    rules: Rules<'w>,
    levels: Vec<Level>,
}

/// Copies one match to its target.
pub(crate) fn copy_match(writer: &mut Writer<'_, '_>, found: &Match, rules: Rules<'_>, target: Target) -> Result<(), CopyError> {
    match (found.directory(), target) {
        (Some(source), Target::Into(directory)) => {
            let levels = vec![Level::standing(source.clone(), found.metadata.clone(), directory.clone())];
            let usage = with_crew(writer.pen, |crew| Walk { writer, crew, rules, levels }.copy_entries(source, &[]))?;
            writer.count_usage(usage);
            // An existing directory keeps its owner and mode, but takes the source's time.
            writer.pen.date(&found.metadata, &directory).while_doing("utimes", shown(&directory, OsStr::new("")))
        }
        (Some(source), Target::Entry(parent, name)) => {
            let levels = vec![Level::standing(source.clone(), found.metadata.clone(), parent)];
            let usage = with_crew(writer.pen, |crew| {
                let mut walk = Walk { writer, crew, rules, levels };
                walk.copy_directory(source.clone(), &found.metadata, name, &[], Decision::Take, false)
            })?;
            writer.count_usage(usage);
            Ok(())
        }
        (None, Target::Entry(parent, name)) => {
            let [source_name] = found.place.rest.as_slice() else { return Err(CopyError::NotFound { path: found.path.clone() }) };
            let (source, metadata) = (&*found.place.directory, &found.metadata);
            writer.copy(Entry { source, source_name, metadata, target: &parent, name: &name })
        }
        (None, Target::Into(directory)) => Err(CopyError::ReplacesDirectory { path: shown(&directory, OsStr::new("")) }),
    }
}

impl Level {
    fn standing(source: Arc<Directory>, metadata: Metadata, target: Arc<Directory>) -> Self {
        Self { source, metadata, name: OsString::new(), target: Some(Filling::new(target)), dressed: false }
    }
}

impl Walk<'_, '_, '_, '_, '_> {
    fn copy_entries(&mut self, source: &Arc<Directory>, inner: &[u8]) -> Result<(), CopyError> {
        let names = match source.names() {
            // The empty tree.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
            names => names.while_doing("read", shown(source, OsStr::new("")))?,
        };
        for name in names {
            let path = || shown(source, &name);
            // What is ignored, or has gone since the directory was read, is not there.
            let Some(metadata) = self.writer.view.stat(source, &name).while_doing("lstat", path())? else { continue };
            let below = if self.rules.take_all() { Vec::new() } else { join(inner, &name) };
            let decision = self.rules.decide(&below, metadata.is_directory());
            match (decision, metadata.kind) {
                (Decision::Skip, _) => {}
                (_, Kind::Directory) => {
                    let Some(child) = source.child(&name).while_doing("open", path())? else { continue };
                    self.copy_directory(child, &metadata, name, &below, decision, true)?;
                }
                (_, kind) => {
                    let filling = self.target(true)?;
                    if kind != Kind::File || metadata.links > 1 || self.writer.pen.is_sketch() {
                        let target = &filling.target;
                        self.writer.copy(Entry { source, source_name: &name, metadata: &metadata, target, name: &name })?;
                        continue;
                    }
                    // The one thing that two threads must not do at once.
                    filling.target.upper().while_doing("mkdir", shown(&filling.target, OsStr::new("")))?;
                    self.writer.count_file(&metadata);
                    self.crew.copy(Job { source: source.clone(), name, metadata, filling })?;
                }
            }
        }
        Ok(())
    }

    /// Copies a directory and what is in it; `overwrite` gives one that is there already the source's metadata.
    fn copy_directory(
        &mut self,
        source: Arc<Directory>,
        metadata: &Metadata,
        name: OsString,
        inner: &[u8],
        decision: Decision,
        overwrite: bool,
    ) -> Result<(), CopyError> {
        if self.levels.len() > MAX_DEPTH {
            return Err(CopyError::TooDeep { path: shown(&source, OsStr::new("")) });
        }
        self.levels.push(Level { source: source.clone(), metadata: metadata.clone(), name, target: None, dressed: false });
        if decision == Decision::Take {
            self.target(overwrite)?;
            self.levels.last_mut().expect("just pushed").dressed |= overwrite;
        }
        self.copy_entries(&source, inner)?;
        let level = self.levels.pop().expect("pushed above");
        match level.target {
            Some(filling) if level.dressed || !overwrite => {
                self.crew.leave(filling, Finish { source: level.source, metadata: level.metadata, everything: level.dressed })
            }
            _ => Ok(()),
        }
    }

    /// The target directory of the deepest level; those on the way are made now if they were not needed before.
    fn target(&mut self, overwrite: bool) -> Result<Arc<Filling>, CopyError> {
        let first_missing = self.levels.iter().position(|level| level.target.is_none()).unwrap_or(self.levels.len());
        for at in first_missing..self.levels.len() {
            let parent = self.levels[at - 1].target.clone().expect("made before what is in it");
            let (made, target) =
                self.make_directory(&parent.target, &self.levels[at].name.clone(), &self.levels[at].metadata.clone(), overwrite)?;
            self.levels[at].dressed = made;
            self.levels[at].target = Some(Filling::new(target));
        }
        let target = self.levels.last().and_then(|level| level.target.clone());
        Ok(target.expect("the first level is there from the start"))
    }

    fn make_directory(
        &mut self,
        parent: &Arc<Directory>,
        name: &OsStr,
        metadata: &Metadata,
        overwrite: bool,
    ) -> Result<(bool, Arc<Directory>), CopyError> {
        let path = shown(parent, name);
        match parent.stat(name).while_doing("lstat", &path)? {
            None => {
                self.writer.count_entry();
                let made = parent.make_directory(name, metadata.mode).while_doing("mkdir", &path)?;
                Ok((true, made))
            }
            Some(found) if !found.is_directory() => Err(CopyError::NotADirectory { path }),
            Some(_) => {
                let child = parent.child(name).while_doing("open", &path)?;
                let child = child.ok_or(CopyError::NotADirectory { path: path.clone() })?;
                if overwrite {
                    child.set_mode(metadata.mode).while_doing("chmod", &path)?;
                }
                Ok((false, child))
            }
        }
    }
}
