//! Which entries of a source a COPY takes: wildcards in the path, and `--parents` and `--exclude` below it.
//! Unaware of what is done with them.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{CopyError, error::Context, view::View};
use crate::{
    dockerfile::{
        glob::{Glob, has_wildcard},
        ignore::Matcher,
    },
    snapshot::layered::{Directory, Metadata, Place, clean},
};

/// One path of a source, resolved.
pub(crate) struct Match {
    /// As asked for, absolute; its last name is the one a directory destination gets.
    pub(crate) path: PathBuf,
    /// Where it really is.
    pub(crate) place: Place,
    /// What is there.
    pub(crate) metadata: Metadata,
}

impl Match {
    /// The directory, if it is one.
    pub(crate) fn directory(&self) -> Option<&Arc<Directory>> {
        self.metadata.is_directory().then_some(&self.place.directory)
    }

    pub(crate) fn name(&self) -> Option<&OsStr> {
        self.path.file_name()
    }
}

/// Resolves a source path: all matches of a wildcard, sorted; exactly one entry of a plain path.
pub(crate) fn matches(view: &View<'_>, path: &str, wildcards: bool, follow: bool) -> Result<Vec<Match>, CopyError> {
    let names = clean(&Path::new("/").join(path.trim_start_matches('/')));
    let first = names.iter().position(|name| wildcards && has_wildcard(&name.to_string_lossy()));
    let Some(first) = first else {
        let path: PathBuf = Path::new("/").join(names.iter().collect::<PathBuf>());
        return resolve(view, path.clone(), follow)?.map(|found| vec![found]).ok_or(CopyError::NotFound { path });
    };
    for name in &names[first..] {
        let pattern = name.to_string_lossy();
        Glob::new(&pattern).map_err(|problem| CopyError::BadPattern { pattern: pattern.into_owned(), problem: problem.to_string() })?;
    }
    let base: PathBuf = Path::new("/").join(names[..first].iter().collect::<PathBuf>());
    let place = view.walk(&base, follow).while_doing("lstat", &base)?;
    if !place.is_directory() {
        return match place.last().while_doing("lstat", &base)? {
            Some(_) => Ok(Vec::new()),
            None => Err(CopyError::NotFound { path: base }),
        };
    }
    let mut paths = Vec::new();
    expand(view, &place.directory, &base, &names[first..], &mut paths).while_doing("read", &base)?;
    let found = paths.into_iter().map(|path| match resolve(view, path.clone(), follow)? {
        Some(found) => Ok(found),
        None => Err(CopyError::NotFound { path }),
    });
    found.collect()
}

/// A path of `--parents` without wildcards: it must be there, and not through a link.
pub(crate) fn require(view: &View<'_>, path: &str) -> Result<(), CopyError> {
    let path: PathBuf = Path::new("/").join(clean(&Path::new("/").join(path)).iter().collect::<PathBuf>());
    let missing = || CopyError::NotFound { path: path.clone() };
    let above: Vec<&Path> = path.ancestors().skip(1).filter(|above| *above != Path::new("/")).collect();
    for directory in above.into_iter().rev() {
        let found = resolve(view, directory.to_owned(), false)?.ok_or_else(missing)?;
        if !found.metadata.is_directory() {
            return Err(missing());
        }
    }
    resolve(view, path.clone(), false)?.map(drop).ok_or_else(missing)
}

fn resolve(view: &View<'_>, path: PathBuf, follow: bool) -> Result<Option<Match>, CopyError> {
    let place = match view.walk(&path, follow) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
        result => result.while_doing("lstat", &path)?,
    };
    let is_root = place.directory.path().as_os_str().is_empty() && place.is_directory();
    let metadata = match place.metadata().while_doing("lstat", &path)? {
        Some(metadata) => view.adopt(metadata),
        None if is_root => empty_root(),
        None => return Ok(None),
    };
    Ok(Some(Match { path, place, metadata }))
}

/// The root of a stage without layers.
fn empty_root() -> Metadata {
    use crate::snapshot::layered::{Kind, Timestamp};
    let time = Timestamp::default();
    Metadata {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        accessed: time,
        modified: time,
        changed: time,
        rdev: 0,
        links: 2,
        device: 0,
        inode: 0,
    }
}

/// Adds the paths below `directory` that the patterns match, one name each; links on the way are not followed.
fn expand(view: &View<'_>, directory: &Arc<Directory>, at: &Path, patterns: &[OsString], found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let Some((pattern, rest)) = patterns.split_first() else { return Ok(()) };
    let Ok(pattern) = Glob::new(&pattern.to_string_lossy()) else { return Ok(()) };
    for name in directory.names()? {
        if !pattern.matches(&name.to_string_lossy()) {
            continue;
        }
        let Some(metadata) = view.stat(directory, &name)? else { continue };
        if rest.is_empty() {
            found.push(at.join(&name));
        } else if metadata.is_directory()
            && let Some(child) = directory.child(&name)?
        {
            expand(view, &child, &at.join(&name), rest, found)?;
        }
    }
    Ok(())
}

/// What is to be done with an entry below a source directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Copy it.
    Take,
    /// A directory that is made only if something in it is taken.
    Descend,
    /// Leave it and all below.
    Skip,
}

/// The pattern of a `--parents` source.
pub(crate) struct Include {
    matcher: Matcher,
    /// Its first names, as far as they mean only themselves.
    literal: Vec<String>,
}

impl Include {
    /// Reads a clean pattern; none at all is everything.
    pub(crate) fn new(pattern: &str) -> Result<Option<Self>, CopyError> {
        if pattern.is_empty() {
            return Ok(None);
        }
        let matcher = Matcher::new([pattern]).map_err(|problem| CopyError::BadPattern { pattern: pattern.to_owned(), problem })?;
        let is_literal = |name: &&str| !has_wildcard(name) && !name.contains('\\');
        let literal = pattern.split('/').take_while(is_literal).map(str::to_owned).collect();
        Ok(Some(Self { matcher, literal }))
    }

    /// Whether it is worth looking into a directory that does not match itself.
    fn may_match_below(&self, directory: &str) -> bool {
        directory.split('/').zip(&self.literal).all(|(name, literal)| name == literal)
    }
}

/// Which entries below a source directory are taken.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// `--parents`: only what matches.
    pub(crate) include: Option<&'a Include>,
    /// `--exclude`: not what matches.
    pub(crate) exclude: Option<&'a Matcher>,
}

impl Rules<'_> {
    pub(crate) fn take_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Decides by the path below the source directory.
    pub(crate) fn decide(&self, inner: &[u8], is_directory: bool) -> Decision {
        if self.take_all() {
            return Decision::Take;
        }
        let inner = String::from_utf8_lossy(inner);
        let included = self.include.is_none_or(|include| include.matcher.matches(&inner));
        let excluded = self.exclude.is_some_and(|patterns| patterns.matches(&inner));
        let taken_back = self.exclude.is_some_and(|patterns| patterns.has_exceptions());
        match (included && !excluded, is_directory) {
            (true, _) => Decision::Take,
            (false, false) => Decision::Skip,
            (false, true) if excluded && !taken_back => Decision::Skip,
            (false, true) if self.include.is_some_and(|include| !include.may_match_below(&inner)) => Decision::Skip,
            (false, true) => Decision::Descend,
        }
    }
}

/// `directory/name`, as bytes, for matching.
pub(crate) fn join(inner: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = OsString::from_vec(inner.to_vec());
    if !inner.is_empty() {
        joined.push("/");
    }
    joined.push(name);
    joined.into_vec()
}
