//! Removes whole trees: of any depth, with any modes, through directory descriptors only, never following a link.
//! Unaware of what the trees were.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// Deeper directories are first moved up, so that neither the stack nor the descriptors run out.
const MAX_DEPTH: usize = 60;

/// Removes `path` and all below it; a path that isn't there is fine. `path` itself is one of our own, its last
/// component is not followed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no entry", path.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let name = CString::new(name.as_bytes())?;
    remove_at(parent.as_fd(), &name)
}

/// Removes the entry `name` of an open directory, whatever it is.
pub fn remove_at(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_directory(parent, name)?;
    let mut moved = 0;
    empty(top.as_fd(), top.as_fd(), 0, &mut moved)?;
    drop(top);
    ignore_missing(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn empty(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, depth: usize, moved: &mut u64) -> io::Result<()> {
    // Look until nothing is left: deep directories arrive at the top while it is emptied, and on some file systems a
    // listing shifts while we delete.
    loop {
        let names = list(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, is_directory) in &names {
            remove_entry(top, directory, name, *is_directory, depth, moved)?;
        }
    }
}

fn remove_entry(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &CStr,
    is_directory: bool,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    if !is_directory {
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ACCESS) => make_writable(directory)?,
            result => return ignore_missing(result),
        }
        return ignore_missing(rustix::fs::unlinkat(directory, name, AtFlags::empty()));
    }
    if depth >= MAX_DEPTH {
        *moved += 1;
        let higher = format!(".deep-{}-{moved}", std::process::id());
        rustix::fs::renameat(directory, name, top, higher)?;
        return Ok(());
    }
    let child = open_directory(directory, name)?;
    empty(top, child.as_fd(), depth + 1, moved)?;
    drop(child);
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Err(Errno::ACCESS) => make_writable(directory)?,
        result => return ignore_missing(result),
    }
    ignore_missing(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))
}

/// Opens a directory to list it; one that forbids its owner to read is made readable first.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Not AT_SYMLINK_NOFOLLOW, which old kernels lack: a link would have answered ENOTDIR above.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

fn make_writable(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fchmod(directory, Mode::RWXU)?)
}

fn list(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        names.push((name.to_owned(), is_directory));
    }
    Ok(names)
}

fn ignore_missing(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn modes_and_links_do_not_stop_it() {
        let top = tempfile::tempdir().unwrap();
        let outside = top.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        let tree = top.path().join("tree");
        fs::create_dir_all(tree.join("a/closed")).unwrap();
        fs::write(tree.join("a/closed/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        fs::set_permissions(tree.join("a/closed"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn depth_does_not_matter() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        for _ in 0..400 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_file_is_a_tree_of_one() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        remove_tree(&top.path().join("file")).unwrap();
        assert!(!top.path().join("file").exists());
    }
}
