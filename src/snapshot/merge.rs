//! One plain tree into another, by renames: each entry is the old or the new one, whenever we are stopped.
//! Unaware of what the trees are for.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::FileType;

use super::{Error, disk, flatten::copy_directory_attributes};
use crate::sys::{remove::remove_at, root::RootDir};

/// Moves everything in `from` into `to`, which lies on the same file system: directories meet directories and take the
/// attributes of `from`'s, everything else of the same name gives way. What only `to` has stays.
pub fn merge_tree(from: &RootDir, to: &RootDir) -> Result<(), Error> {
    merge(from.as_fd(), to.as_fd(), Path::new(""))
}

fn merge(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let listed = disk::open_directory(from, c".").map_err(Error::io("list", path))?;
    for name in disk::list(listed).map_err(Error::io("list", path))? {
        let path = path.join(OsStr::from_bytes(name.as_bytes()));
        let look = |at| disk::stat_at(at, &name).map_err(Error::io("look up", &path));
        let is_directory = |stat: &rustix::fs::Stat| disk::file_type(stat) == FileType::Directory;
        let (Some(new), old) = (look(from)?, look(to)?) else { continue };
        match old {
            Some(old) if is_directory(&old) && is_directory(&new) => {
                let open = |at| disk::open_directory(at, &name).map_err(Error::io("open", &path));
                let (new, old) = (open(from)?, open(to)?);
                merge(new.as_fd(), old.as_fd(), &path)?;
                copy_directory_attributes(new.as_fd(), &old).map_err(Error::io("set the attributes of", &path))?;
                continue;
            }
            // A file over a file is one rename; a directory has to go first.
            Some(old) if is_directory(&old) || is_directory(&new) => remove_at(to, &name).map_err(Error::io("replace", &path))?,
            _ => {}
        }
        rustix::fs::renameat(from, &name, to, &name).map_err(Error::io("name", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_new_wins_and_the_rest_stays() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in
            [("to/kept", "old"), ("to/d/both", "old"), ("to/d/kept", "old"), ("to/file-then-dir", "old"), ("to/dir-then-file/x", "old")]
        {
            write(name, text);
        }
        for (name, text) in
            [("from/d/both", "new"), ("from/file-then-dir/x", "new"), ("from/dir-then-file", "new"), ("from/only/new", "new")]
        {
            write(name, text);
        }
        std::os::unix::fs::symlink("/etc", top.path().join("from/link")).unwrap();
        let open = |name: &str| RootDir::open(&top.path().join(name)).unwrap();
        merge_tree(&open("from"), &open("to")).unwrap();
        let read = |name: &str| fs::read_to_string(top.path().join("to").join(name)).unwrap();
        assert_eq!([read("kept"), read("d/kept")], ["old", "old"]);
        assert_eq!([read("d/both"), read("file-then-dir/x"), read("dir-then-file"), read("only/new")], ["new"; 4]);
        assert_eq!(fs::read_link(top.path().join("to/link")).unwrap(), Path::new("/etc"));
    }
}
