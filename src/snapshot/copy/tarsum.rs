//! The digest that BuildKit gives to the files that a path stands for, so that steps can be found in its caches.
//!
//! A file counts by what a tar header would say of it, without name and time, and its bytes; a directory by its own
//! header and by the names and digests of what is in it; a pattern by the paths and digests of all that it matches. A
//! digest is None where there is something in the tree that this is not known to be right for: a wrong one would be a
//! wrong result. Files of contexts only, whose owners are root's.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};

use super::{
    CopyError,
    error::Context,
    select::{Decision, Include, Match, Rules, join, matches},
    shown,
    tree::MAX_DEPTH,
    view::View,
};
use crate::{
    dockerfile::{glob::has_wildcard, ignore::Matcher},
    oci::{Digest, Sha256},
    snapshot::layered::{Directory, Kind, LayeredRoot, Metadata, xattrs},
};

/// What of a context counts.
pub struct Selection<'a> {
    /// A path, or a pattern.
    pub path: &'a str,
    /// Whether it is a pattern.
    pub wildcard: bool,
    /// Whether a link that it names stands for what it leads to.
    pub follow: bool,
    /// Of what is below it, only what this matches, if anything is said.
    pub include: &'a [String],
    /// And not what this matches.
    pub exclude: &'a [String],
}

/// The digest of what is selected of a context.
pub fn tarsum(tree: &LayeredRoot, ignore: Option<&Matcher>, selection: &Selection<'_>) -> Result<Option<Digest>, CopyError> {
    let view = View::new(tree, ignore, true);
    let sums = Sums { view: &view };
    let Selection { path, wildcard, follow, include, exclude } = selection;
    if !wildcard && include.is_empty() && exclude.is_empty() {
        return sums.of_path(path, *follow);
    }
    let ([] | [_]) = include else { return Ok(None) };
    let include = include.first().map_or(Ok(None), |pattern| Include::new(pattern))?;
    let matcher = (!exclude.is_empty()).then(|| Matcher::new(*exclude)).transpose();
    let Ok(exclude) = matcher else { return Ok(None) };
    sums.of_list(selection, Rules { include: include.as_ref(), exclude: exclude.as_ref() })
}

struct Sums<'a> {
    view: &'a View<'a>,
}

/// Paths and their digests, in the order of the tree; whether all of them have one.
#[derive(Default)]
struct List {
    sums: Vec<(Vec<u8>, Digest)>,
    /// What is left out of the paths.
    prefix: String,
    incomplete: bool,
}

impl List {
    fn push(&mut self, path: Vec<u8>, digest: Option<Digest>) {
        self.incomplete |= digest.is_none();
        self.sums.extend(digest.map(|digest| (path, digest)));
    }

    /// The digest of the list; that of the only entry if it has the name that was asked for.
    fn finish(self, asked: &str) -> Option<Digest> {
        if self.incomplete {
            return None;
        }
        if let [(path, digest)] = self.sums.as_slice()
            && Path::new(OsStr::from_bytes(path)).file_name() == Path::new(asked).file_name()
        {
            return Some(digest.clone());
        }
        let prefix = self.prefix.as_bytes();
        let mut hasher = Sha256::new();
        for (path, digest) in &self.sums {
            let path = path.strip_prefix(prefix).unwrap_or(path);
            let key: Vec<u8> = path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
            hasher.update(if key.is_empty() { b"\0" } else { &key });
            hasher.update(digest.as_str().as_bytes());
        }
        Some(hasher.finish())
    }
}

impl Sums<'_> {
    fn of_path(&self, path: &str, follow: bool) -> Result<Option<Digest>, CopyError> {
        match matches(self.view, path, false, follow)?.first() {
            Some(found) => self.of_match(found),
            None => Ok(None),
        }
    }

    fn of_match(&self, found: &Match) -> Result<Option<Digest>, CopyError> {
        match (found.directory(), found.place.rest.as_slice()) {
            (Some(directory), _) => self.of_directory(directory, &found.metadata, 0),
            (None, [name]) => self.of_entry(&found.place.directory, name, &found.metadata),
            _ => Ok(None),
        }
    }

    /// Whatever is selected counts one by one, directories without what is in them.
    fn of_list(&self, selection: &Selection<'_>, rules: Rules<'_>) -> Result<Option<Digest>, CopyError> {
        let prefix = literal_prefix(selection.path, selection.wildcard);
        let mut list = List { prefix, ..List::default() };
        for found in matches(self.view, selection.path, selection.wildcard, false)? {
            let path = found.path.as_os_str().as_bytes();
            let path = if path == b"/" { Vec::new() } else { path.to_vec() };
            match found.directory() {
                Some(directory) => self.list(directory, &found.metadata, (path, b""), rules, &mut list, 0)?,
                None if rules.decide(b"", false) != Decision::Take => {}
                None if found.metadata.kind == Kind::Symlink && selection.follow => {
                    list.push(path, self.of_path(&found.path.to_string_lossy(), true)?);
                }
                None => list.push(path, self.of_match(&found)?),
            }
        }
        Ok(list.finish(selection.path))
    }

    /// A directory that is only passed through counts if anything in it does; the root never does.
    fn list(
        &self,
        directory: &Arc<Directory>,
        metadata: &Metadata,
        (path, inner): (Vec<u8>, &[u8]),
        rules: Rules<'_>,
        list: &mut List,
        depth: usize,
    ) -> Result<(), CopyError> {
        let decision = match (inner.is_empty(), rules.include) {
            (true, Some(_)) => Decision::Descend,
            (true, None) => Decision::Take,
            _ => rules.decide(inner, true),
        };
        if decision == Decision::Skip {
            return Ok(());
        }
        let before = list.sums.len();
        if !path.is_empty() {
            list.push(path.clone(), self.header_of(directory, metadata)?);
        }
        let own = list.sums.len();
        for (name, metadata) in self.entries(directory, depth)? {
            let below = [path.as_slice(), b"/", name.as_bytes()].concat();
            let inner = join(inner, &name);
            match self.child(directory, &name, &metadata)? {
                Some(child) => self.list(&child, &metadata, (below, &inner), rules, list, depth + 1)?,
                None if rules.decide(&inner, false) == Decision::Take => list.push(below, self.of_entry(directory, &name, &metadata)?),
                None => {}
            }
        }
        if decision == Decision::Descend && list.sums.len() == own {
            list.sums.truncate(before);
        }
        Ok(())
    }

    fn of_directory(&self, directory: &Arc<Directory>, metadata: &Metadata, depth: usize) -> Result<Option<Digest>, CopyError> {
        let Some(header) = self.header_of(directory, metadata)? else { return Ok(None) };
        let mut hasher = Sha256::new();
        hasher.update(b"\0");
        hasher.update(header.as_str().as_bytes());
        for (name, metadata) in self.entries(directory, depth)? {
            let digest = match self.child(directory, &name, &metadata)? {
                Some(child) => self.of_directory(&child, &metadata, depth + 1)?,
                None => self.of_entry(directory, &name, &metadata)?,
            };
            let Some(digest) = digest else { return Ok(None) };
            hasher.update(b"\0");
            hasher.update(name.as_bytes());
            hasher.update(digest.as_str().as_bytes());
        }
        Ok(Some(hasher.finish()))
    }

    /// What is there, by name.
    fn entries(&self, directory: &Arc<Directory>, depth: usize) -> Result<Vec<(std::ffi::OsString, Metadata)>, CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::TooDeep { path: shown(directory, OsStr::new("")) });
        }
        let mut names = directory.names().while_doing("read", shown(directory, OsStr::new("")))?;
        names.sort();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if let Some(metadata) = self.view.stat(directory, &name).while_doing("lstat", shown(directory, &name))? {
                entries.push((name, metadata));
            }
        }
        Ok(entries)
    }

    fn child(&self, directory: &Arc<Directory>, name: &OsStr, metadata: &Metadata) -> Result<Option<Arc<Directory>>, CopyError> {
        match metadata.is_directory() {
            true => directory.child(name).while_doing("open", shown(directory, name)),
            false => Ok(None),
        }
    }

    /// The digest of a directory without what is in it. The context's own is nobody's.
    fn header_of(&self, directory: &Directory, metadata: &Metadata) -> Result<Option<Digest>, CopyError> {
        if directory.path().as_os_str().is_empty() {
            return Ok(Some(Digest::of(b"")));
        }
        let has_more = directory.fd().map_or(true, |fd| self.has_attributes(fd));
        Ok((!has_more).then(|| Digest::of(header(metadata, b'5', 0, b"").as_slice())))
    }

    fn of_entry(&self, directory: &Arc<Directory>, name: &OsStr, metadata: &Metadata) -> Result<Option<Digest>, CopyError> {
        let path = || shown(directory, name);
        match metadata.kind {
            Kind::Symlink => {
                let target = directory.read_link(name).while_doing("readlink", path())?;
                let metadata = Metadata { mode: 0o777, ..*metadata };
                Ok(Some(Digest::of(&header(&metadata, b'2', 0, target.as_bytes()))))
            }
            Kind::File => {
                let file = directory.open_file(name).while_doing("open", path())?;
                if self.has_attributes(file.as_fd()) {
                    return Ok(None);
                }
                let mut hasher = Sha256::new();
                hasher.update(&header(metadata, b'0', metadata.size, b""));
                io::copy(&mut io::BufReader::with_capacity(1 << 16, file), &mut hasher).while_doing("read", path())?;
                Ok(Some(hasher.finish()))
            }
            Kind::Directory | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Ok(None),
        }
    }

    /// Whether there is any attribute that would count: how it was sent is not known.
    fn has_attributes(&self, fd: std::os::fd::BorrowedFd<'_>) -> bool {
        let of_machine = |name: &[u8]| name.starts_with(b"security.") || name.starts_with(b"system.");
        !xattrs::read(fd, |name| self.view.skips_xattr(name) || (of_machine(name) && name != b"security.capability")).is_empty()
    }
}

/// The part of a path before the first name with a wildcard; the root's is empty.
fn literal_prefix(path: &str, wildcard: bool) -> String {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.take_while(|name| !wildcard || !has_wildcard(name)).map(|name| format!("/{name}")).collect()
}

/// The fields of a tar header in the order of docker's tarsum, version 1.
fn header(metadata: &Metadata, kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let Metadata { mode, uid, gid, .. } = metadata;
    let mut text = Vec::new();
    write!(text, "namemode{mode}uid{uid}gid{gid}size{size}typeflag{}linkname", char::from(kind)).expect("memory takes all");
    text.extend(link);
    text.extend(b"unamegnamedevmajor0devminor0");
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::sys::root::RootDir;

    /// The digest of what a path of a folder stands for.
    fn sum(folder: &Path, path: &str, exclude: &[&str]) -> Option<String> {
        let tree = LayeredRoot::plain(&RootDir::open(folder).unwrap()).unwrap();
        let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
        let selection = Selection { path, wildcard: has_wildcard(path), follow: true, include: &[], exclude: &exclude };
        tarsum(&tree, None, &selection).unwrap().map(|digest| digest.to_string())
    }

    #[test]
    fn a_file_counts_by_header_and_bytes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let header = "namemode416uid0gid0size4typeflag0linknameunamegnamedevmajor0devminor0";
        assert_eq!(sum(folder.path(), "/a", &[]), Some(Digest::of(format!("{header}text").as_bytes()).to_string()));
        // The only match by the name that was asked for is that file, any other is a list.
        assert_eq!(sum(folder.path(), "/a", &["x"]), sum(folder.path(), "/a", &[]));
        assert_ne!(sum(folder.path(), "/*", &[]), sum(folder.path(), "/a", &[]));
        assert_eq!(sum(folder.path(), "/b*", &[]), Some(Digest::of(b"").to_string()));
    }

    #[test]
    fn what_is_not_known_to_be_right_has_no_digest_nor_has_what_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/a"), "text").unwrap();
        assert!(sum(folder.path(), "/d", &[]).is_some());
        nix::unistd::mkfifo(&folder.path().join("d/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in ["/d/pipe", "/d", "/", "/d*", "/d/*"] {
            assert_eq!(sum(folder.path(), path, &[]), None, "{path}");
        }
        assert!(sum(folder.path(), "/d", &["pipe"]).is_some());
    }
}
