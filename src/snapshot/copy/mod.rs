//! COPY and ADD: files from a context, a stage, a heredoc or a download into a root filesystem, with BuildKit's rules.
//!
//! The rules that surprise: a directory source means its contents; the destination's links are followed inside the
//! root, a trailing slash makes it a directory; an existing destination directory keeps owner and mode but takes the
//! source's time, directories below it take the source's mode too; links inside a copied directory stay links, the
//! named source itself is followed. Works on the layers' directories in user space: nothing is mounted. Into a sketch of
//! a layer ([`LayeredRoot::sketched`]) the same walk notes what there is to be copied; the bytes go from the source into
//! the layer's tar ([`super::write_sketch`]).
//! Unaware of Dockerfiles, caches and of where downloads come from.

mod crew;
mod digest;
mod error;
mod files;
mod listing;
mod owner;
mod select;
#[cfg(test)]
mod sketch_tests;
mod tarsum;
#[cfg(test)]
mod tests;
mod tree;
mod view;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use digest::{FileDigest, digest, digest_listed, hash_file};
pub(crate) use error::Context;
pub use error::CopyError;
use listing::Listed;
pub use listing::{FileChange, Listing};
pub use owner::resolve_chown;
pub use tarsum::{Selection, tarsum};

use super::{
    archive::{ArchiveOptions, add_archive, is_archive},
    layered::{Directory, Kind, LayeredRoot, NewDirectory, Place, Timestamp, clean, ensure_directory, needs_directory},
};
use crate::dockerfile::{chmod::Chmod, glob, ignore::Matcher};
use files::{Pen, Writer};
use select::{Include, Match, Rules};
use view::View;

/// What a COPY or ADD does.
pub struct CopyRequest<'a> {
    /// What is copied, in order; a later source wins over an earlier one.
    pub sources: Vec<Source<'a>>,
    /// Absolute, as written otherwise: a trailing `/` or `/.` makes it a directory.
    pub destination: &'a str,
    /// How the copied and made entries are to look.
    pub style: Style<'a>,
    /// `--exclude`, relative to each source.
    pub exclude: Option<&'a Matcher>,
}

/// Metadata that a COPY gives instead of the source's.
#[derive(Clone, Copy, Default)]
pub struct Style<'a> {
    /// `--chown`, for copied and for made entries.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`, for copied entries but links.
    pub mode: Option<&'a Chmod>,
    /// Time for everything copied or made.
    pub time: Option<Timestamp>,
    /// Time for what has none of its own: made directories, heredocs. Now, if not given.
    pub made_time: Option<Timestamp>,
}

impl Style<'_> {
    fn apply_mode(&self, mode: u32, is_directory: bool) -> u32 {
        self.mode.map_or(mode, |change| change.apply(mode, is_directory))
    }

    fn new_directory(&self) -> NewDirectory {
        let mode = if let Some(Chmod::Octal(mode)) = self.mode { mode & 0o777 } else { 0o755 };
        NewDirectory { mode, owner: self.owner, time: self.time.or(self.made_time) }
    }
}

/// One source of a COPY or ADD.
pub struct Source<'a> {
    /// Where it lies.
    pub root: SourceRoot<'a>,
    /// Path in there, with wildcards; nothing for bytes and files.
    pub path: &'a str,
    /// What to do with an archive.
    pub unpack: bool,
    /// `--parents`: the directories of `path`, from its `/./` on, are kept.
    pub parents: bool,
}

/// Where a source comes from.
#[derive(Clone, Copy)]
pub enum SourceRoot<'a> {
    /// A directory outside: owners become root's, ignored paths do not exist.
    Context {
        /// Opened by [`LayeredRoot::plain`].
        tree: &'a LayeredRoot,
        /// `.dockerignore`.
        ignore: Option<&'a Matcher>,
    },
    /// A stage or image; owners are kept.
    Layers(&'a LayeredRoot),
    /// A tree fetched from git: like a context, but the directory itself is the source.
    Checkout(&'a LayeredRoot),
    /// A heredoc.
    Bytes {
        /// File name in a directory destination.
        name: &'a str,
        /// All of it.
        bytes: &'a [u8],
    },
    /// A download.
    File {
        /// File name in a directory destination.
        name: &'a str,
        /// Read from its start.
        file: &'a File,
        /// Permission bits.
        mode: u32,
        /// Time of the last change.
        modified: Timestamp,
    },
}

impl<'a> SourceRoot<'a> {
    fn view(&self) -> Option<View<'a>> {
        match self {
            Self::Context { tree, ignore } => Some(View::new(tree, *ignore, true)),
            Self::Checkout(tree) => Some(View::new(tree, None, true)),
            Self::Layers(tree) => Some(View::new(tree, None, false)),
            Self::Bytes { .. } | Self::File { .. } => None,
        }
    }

    fn is_checkout(&self) -> bool {
        matches!(self, Self::Checkout(_))
    }
}

/// What a source's path comes to.
struct Selected {
    matches: Vec<Match>,
    include: Option<Include>,
}

impl Selected {
    fn rules<'s>(&'s self, exclude: Option<&'s Matcher>) -> Rules<'s> {
        Rules { include: self.include.as_ref(), exclude }
    }
}

impl Source<'_> {
    /// All entries of a tree source that its path names.
    fn select(&self, view: &View<'_>) -> Result<Selected, CopyError> {
        let plain = self.root.is_checkout();
        if !self.parents {
            return Ok(Selected { matches: select::matches(view, self.path, !plain, !plain)?, include: None });
        }
        let (base, pattern) = self.path.split_once("/./").unwrap_or(("/", self.path));
        let pattern = glob::clean(&format!("/{pattern}"));
        if pattern == "/" {
            // A pattern of nothing is never there.
            return Err(CopyError::NotFound { path: Path::new("/").join(base.trim_start_matches('/')) });
        }
        if !glob::has_wildcard(base) && !glob::has_wildcard(&pattern) {
            // Without wildcards the path must exist.
            select::require(view, &format!("{base}{pattern}"))?;
        }
        let include = Include::new(pattern.trim_start_matches('/'))?;
        Ok(Selected { matches: select::matches(view, base, true, true)?, include })
    }
}

/// What a COPY did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CopyReport {
    /// Entries made or replaced, of any type; archives' entries too.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// User and system time of other threads than the caller's, in microseconds.
    pub helpers_us: (u64, u64),
}

/// Where one match goes.
enum Target {
    /// The contents go into this directory.
    Into(Arc<Directory>),
    /// It becomes this entry.
    Entry(Arc<Directory>, OsString),
}

/// Copies all sources into the root filesystem.
pub fn copy(request: &CopyRequest<'_>, root: &mut LayeredRoot) -> Result<CopyReport, CopyError> {
    let mut copying = Copying { request, root, report: CopyReport::default(), made: Vec::new() };
    for source in &request.sources {
        match source.root.view() {
            Some(view) => copying.copy_matches(source, &view)?,
            None => copying.copy_single(source)?,
        }
    }
    copying.date_made()?;
    Ok(copying.report)
}

/// Makes the directory of a WORKDIR with what is missing above it, owned by `owner`; what exists stays as it is.
pub fn make_workdir(root: &mut LayeredRoot, path: &Path, owner: (u32, u32), time: Option<Timestamp>) -> Result<(), CopyError> {
    let new = NewDirectory { mode: 0o755, owner: Some(owner), time };
    root.ensure_directory(path, new).map(drop).while_doing("mkdir", path)
}

struct Copying<'a, 'r> {
    request: &'a CopyRequest<'a>,
    root: &'r mut LayeredRoot,
    report: CopyReport,
    /// Directories made for the destination; dated when all is in them.
    made: Vec<Arc<Directory>>,
}

impl<'a> Copying<'a, '_> {
    fn copy_matches(&mut self, source: &Source<'a>, view: &View<'_>) -> Result<(), CopyError> {
        let selected = source.select(view)?;
        for found in &selected.matches {
            if source.unpack && self.unpack_match(found)? {
                continue;
            }
            let target = self.target(found.name(), found.metadata.is_directory(), !source.root.is_checkout())?;
            let pen = Pen::new(self.root, self.request.style, view);
            let mut writer = Writer::new(&pen, view, &mut self.report);
            tree::copy_match(&mut writer, found, selected.rules(self.request.exclude), target)?;
        }
        Ok(())
    }

    /// Unpacks a match that is an archive; says whether it was one.
    fn unpack_match(&mut self, found: &Match) -> Result<bool, CopyError> {
        let [name] = found.place.rest.as_slice() else { return Ok(false) };
        if found.metadata.kind != Kind::File {
            return Ok(false);
        }
        let file = found.place.directory.open_file(name).while_doing("open", &found.path)?;
        self.unpack(&file)
    }

    fn unpack(&mut self, mut file: &File) -> Result<bool, CopyError> {
        if !is_archive(file) {
            return Ok(false);
        }
        let destination = Path::new(self.request.destination);
        if self.root.is_sketch() {
            return Err(needs_directory()).while_doing("unpack to", destination);
        }
        io::Seek::rewind(&mut file).while_doing("read", destination)?;
        let style = &self.request.style;
        let options = ArchiveOptions { owner: style.owner, made_time: style.time.or(style.made_time) };
        let unpacked = add_archive(file, self.root, destination, options)?;
        self.report.entries += unpacked.entries;
        self.report.bytes += unpacked.bytes;
        Ok(true)
    }

    fn copy_single(&mut self, source: &Source<'_>) -> Result<(), CopyError> {
        let name = match source.root {
            SourceRoot::Bytes { name, .. } => name,
            SourceRoot::File { file, .. } if source.unpack && self.unpack(file)? => return Ok(()),
            SourceRoot::File { name, .. } => name,
            SourceRoot::Context { .. } | SourceRoot::Layers(_) | SourceRoot::Checkout(_) => return Ok(()),
        };
        match self.target(Some(OsStr::new(name)), false, false)? {
            Target::Entry(directory, name) => {
                files::write_single(source, &self.request.style, &directory, &name, self.root.ownership(), &mut self.report)
            }
            Target::Into(directory) => Err(CopyError::ReplacesDirectory { path: shown(&directory, OsStr::new("")) }),
        }
    }

    /// Finds where a source goes and makes the directories on the way.
    fn target(&mut self, name: Option<&OsStr>, is_directory: bool, contents: bool) -> Result<Target, CopyError> {
        let names = clean(&Path::new("/").join(self.request.destination));
        let path: PathBuf = Path::new("/").join(names.iter().collect::<PathBuf>());
        let ensured = if names_directory(self.request.destination) { path.as_path() } else { path.parent().unwrap_or(&path) };
        let above = self.root.walk(ensured, true).while_doing("mkdir", ensured)?;
        self.ensure(&above)?;
        let place = self.root.walk(&path, true).while_doing("stat", &path)?;
        if place.is_directory() {
            return Ok(match name {
                Some(name) if !(is_directory && contents) => Target::Entry(place.directory, name.to_owned()),
                _ => Target::Into(place.directory),
            });
        }
        if is_directory && place.last().while_doing("stat", &path)?.is_some() {
            return Err(CopyError::NotADirectory { path: place.path() });
        }
        if is_directory && contents {
            return Ok(Target::Into(self.ensure(&place)?));
        }
        let (last, above) = place.rest.split_last().expect("something is left when it is no directory");
        let parents = Place::missing(place.directory.clone(), above.to_vec());
        Ok(Target::Entry(self.ensure(&parents)?, last.clone()))
    }

    fn ensure(&mut self, place: &Place) -> Result<Arc<Directory>, CopyError> {
        let new = self.request.style.new_directory();
        let (directory, made) = ensure_directory(place, new, self.root.ownership()).while_doing("mkdir", place.path())?;
        self.made.extend(made);
        Ok(directory)
    }

    fn date_made(&self) -> Result<(), CopyError> {
        let Some(time) = self.request.style.new_directory().time else { return Ok(()) };
        let date = |made: &Arc<Directory>| made.set_times(time, time).while_doing("utimes", shown(made, OsStr::new("")));
        self.made.iter().rev().try_for_each(date)
    }
}

/// Whether the text of a destination says "directory".
fn names_directory(destination: &str) -> bool {
    destination.is_empty() || destination.ends_with('/') || destination.ends_with("/.") || destination == "."
}

/// A path in the root filesystem as people write it.
fn shown(directory: &Directory, name: &OsStr) -> PathBuf {
    let path = Path::new("/").join(directory.path());
    if name.is_empty() { path } else { path.join(name) }
}
