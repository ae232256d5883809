//! What of a directory is part of the context: all that the ignore file leaves. Unaware of what reads it.

use std::{collections::HashMap, os::fd::AsFd, path::Path};

use rustix::fs::FileType;

use super::{ContextError, LocalContext};
use crate::{
    dockerfile::ignore::{Below, Matcher},
    sys::walk::{Decision, Entry, walk},
};

impl LocalContext {
    /// Visits what the patterns leave, in order of names. Directories that nothing can be left in are not opened; links
    /// are reported, never followed.
    pub fn visit_kept(
        &self,
        ignore: Option<&Matcher>,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), ContextError>,
    ) -> Result<(), ContextError> {
        let Some(ignore) = ignore.filter(|ignore| !ignore.is_empty()) else {
            return walk(self.root().as_fd(), &mut |_, _| Decision::Take, visit);
        };
        let mut entered = HashMap::from([(Path::new("").to_owned(), ignore.root())]);
        let mut decide = |path: &Path, listed_type: FileType| decide(ignore, &mut entered, path, listed_type);
        walk(self.root().as_fd(), &mut decide, visit)
    }
}

/// `entered` holds the matcher's state of each directory that was met and not skipped.
fn decide(ignore: &Matcher, entered: &mut HashMap<std::path::PathBuf, Below>, path: &Path, listed_type: FileType) -> Decision {
    let text = path.to_string_lossy();
    let parent = &entered[path.parent().unwrap_or(Path::new(""))];
    if listed_type != FileType::Directory {
        return if ignore.matches_below(&text, parent) { Decision::Skip } else { Decision::Take };
    }
    let (is_ignored, below) = ignore.enter(&text, parent);
    if is_ignored && !ignore.may_except_below(&text) {
        return Decision::Skip;
    }
    entered.insert(path.to_owned(), below);
    if is_ignored { Decision::Descend } else { Decision::Take }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::ignore::IgnoreFile;

    fn kept(files: &[&str], ignore: &str) -> Vec<String> {
        let top = tempfile::tempdir().unwrap();
        for file in files {
            let path = top.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let ignore = IgnoreFile::parse(ignore).unwrap();
        let mut seen = Vec::new();
        let mut visit = |entry: &Entry<'_>| {
            seen.push(entry.path.display().to_string());
            Ok(())
        };
        LocalContext::open(top.path()).unwrap().visit_kept(Some(ignore.matcher()), &mut visit).unwrap();
        seen
    }

    #[test]
    fn the_ignore_file_decides_and_exceptions_are_found_below_ignored_directories() {
        let files = ["a", "b/c", "b/d/e", "node_modules/x/y", "node_modules/keep/z", ".git/HEAD"];
        assert_eq!(
            kept(&files, ""),
            [
                ".git",
                ".git/HEAD",
                "a",
                "b",
                "b/c",
                "b/d",
                "b/d/e",
                "node_modules",
                "node_modules/keep",
                "node_modules/keep/z",
                "node_modules/x",
                "node_modules/x/y"
            ]
        );
        assert_eq!(
            kept(&files, ".git\nnode_modules\n!node_modules/keep"),
            ["a", "b", "b/c", "b/d", "b/d/e", "node_modules/keep", "node_modules/keep/z"]
        );
        assert_eq!(kept(&files, "*\n!b/d"), ["b/d", "b/d/e"]);
        assert_eq!(kept(&files, "*"), [""; 0]);
        assert_eq!(kept(&files, "**/[c-z]\n.git\n"), ["a", "b", "node_modules", "node_modules/keep"]);
    }
}
