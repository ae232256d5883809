//! Which files a build can see: the Dockerfile and the ignore file, and of each context what is not ignored and lies below
//! a path that some step uses. Pure: paths in, answers out.

use std::{
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

use crate::{
    build::{ContextSource, Request},
    dockerfile::{
        glob::{Glob, has_wildcard, unescape},
        ignore::{IgnoreFile, Matcher},
    },
    plan::{Input, MountKind, Op, Plan, SourceFrom},
};

/// What matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Files that steer the build: the Dockerfile, ignore files. Absolute.
    pub files: Vec<PathBuf>,
    /// Directories of which something is used.
    pub trees: Vec<Tree>,
}

/// A context.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Absolute.
    pub top: PathBuf,
    /// The ignore file's text, to tell whether it has changed.
    ignore: Option<String>,
    matcher: Option<Matcher>,
    /// Paths below the top that steps use; may have wildcards; empty for all.
    used: Vec<String>,
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        (&self.top, &self.ignore, &self.used) == (&other.top, &other.ignore, &other.used)
    }
}

impl Eq for Tree {}

impl Rules {
    /// Of a request, and of the plans that it has if its Dockerfile can be read; without a plan everything is used.
    pub fn of(request: &Request, dockerfile: &Path, plans: Option<&[Plan]>) -> Self {
        let mut files = vec![absolute(dockerfile)];
        files.push(absolute(&beside(dockerfile)));
        let mut trees = Vec::new();
        let named = request.named_contexts.iter().map(|(name, source)| (name.as_str(), source));
        for (name, source) in std::iter::once(("", &request.context)).chain(named) {
            let ContextSource::Directory { path, ignore } = source else { continue };
            files.push(absolute(&path.join(".dockerignore")));
            let used = match plans {
                Some(plans) => used_of(plans, name),
                None => vec![String::new()],
            };
            if used.is_empty() {
                continue;
            }
            let ignore = ignore.as_ref().map(|(_, text)| text.clone());
            let matcher = ignore.as_ref().and_then(|text| IgnoreFile::parse(text).ok()).map(|file| file.matcher().clone());
            trees.push(Tree { top: absolute(path), ignore, matcher, used });
        }
        files.sort();
        files.dedup();
        Self { files, trees }
    }

    /// Whether a change at this path can change the build.
    pub fn matter(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file == path) || self.trees.iter().any(|tree| tree.sees(path))
    }

    /// Whether something below this directory can matter, so that it is to be watched.
    pub fn may_matter_below(&self, directory: &Path) -> bool {
        self.files.iter().any(|file| file.parent() == Some(directory)) || self.trees.iter().any(|tree| tree.may_see_below(directory))
    }
}

#[cfg(test)]
impl Rules {
    /// Of one directory.
    pub fn for_tests(top: &Path, ignore: &str, used: &[&str]) -> Self {
        let matcher = IgnoreFile::parse(ignore).ok().map(|file| file.matcher().clone());
        let used = used.iter().map(|path| (*path).to_owned()).collect();
        Self { files: Vec::new(), trees: vec![Tree { top: top.to_owned(), ignore: Some(ignore.to_owned()), matcher, used }] }
    }
}

impl Tree {
    fn sees(&self, path: &Path) -> bool {
        let Some(inside) = self.inside(path) else { return false };
        if self.matcher.as_ref().is_some_and(|matcher| matcher.can_skip_directory(&inside)) {
            return false;
        }
        self.used.iter().any(|used| reaches(used, &inside))
    }

    fn may_see_below(&self, directory: &Path) -> bool {
        // A directory above a used path: it may appear there.
        self.sees(directory)
    }

    fn inside(&self, path: &Path) -> Option<String> {
        path.strip_prefix(&self.top).ok().map(|inside| inside.to_string_lossy().into_owned())
    }
}

/// Whether a used path and a changed one lie on one line: one is the other, or above it. Wildcards match per name.
fn reaches(used: &str, changed: &str) -> bool {
    let names = |text: &str| text.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect::<Vec<_>>();
    let (used, changed) = (names(used), names(changed));
    used.iter().zip(&changed).all(|(used, changed)| match has_wildcard(used) {
        true => Glob::new(used).is_ok_and(|glob| glob.matches(changed)),
        false => unescape(used) == *changed,
    })
}

fn used_of(plans: &[Plan], context: &str) -> Vec<String> {
    let is_it = |input: &Input| matches!(input, Input::Context(name) if name == context);
    let mut used = Vec::new();
    for vertex in plans.iter().flat_map(|plan| &plan.vertices) {
        match &vertex.op {
            Op::Image(_) | Op::Workdir(_) => {}
            Op::Copy(copy) => {
                let paths = copy.sources.iter().filter(|source| matches!(&source.from, SourceFrom::Input(input) if is_it(input)));
                used.extend(paths.map(|source| normal(&source.path)));
            }
            Op::Run(run) => {
                let paths = run.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { from, source, .. } if is_it(from) => Some(normal(source)),
                    MountKind::Cache { from: Some(from), source, .. } if is_it(from) => Some(normal(source)),
                    _ => None,
                });
                used.extend(paths);
            }
        }
    }
    used.sort();
    used.dedup();
    used
}

/// Without `.`, with `..` resolved, relative.
fn normal(path: &str) -> String {
    let mut names: Vec<&OsStr> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn beside(dockerfile: &Path) -> PathBuf {
    let mut name = dockerfile.file_name().unwrap_or_default().to_owned();
    name.push(".dockerignore");
    dockerfile.with_file_name(name)
}

fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // As the kernel would name it, so that it equals what is told of changes; what is not there yet has only a parent.
    std::fs::canonicalize(&whole).unwrap_or_else(|_| match (whole.parent().map(std::fs::canonicalize), whole.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => whole.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(ignore: &str, used: &[&str]) -> Rules {
        Rules { files: vec!["/d/Dockerfile".into()], ..Rules::for_tests(Path::new("/c"), ignore, used) }
    }

    #[test]
    fn only_what_a_step_uses_and_nothing_ignored_matters() {
        let rules = tree("**/*.log\nsrc/gen\n!src/gen/keep\n", &["src", "conf/*.toml"]);
        for path in ["/d/Dockerfile", "/c/src", "/c/src/a", "/c/src/deep/b", "/c/conf", "/c/conf/x.toml", "/c/src/gen/keep"] {
            assert!(rules.matter(Path::new(path)), "{path}");
        }
        for path in ["/c/README", "/c/src/a.log", "/c/conf/x.json", "/d/other", "/elsewhere"] {
            assert!(!rules.matter(Path::new(path)), "{path}");
        }
        assert!(rules.may_matter_below(Path::new("/d")) && rules.may_matter_below(Path::new("/c")));
        assert!(!rules.may_matter_below(Path::new("/c/docs")));
    }

    #[test]
    fn all_of_a_context_is_used_by_a_copy_of_its_top() {
        let rules = tree(".git\nnode_modules\n", &[""]);
        assert!(rules.matter(Path::new("/c/any/where")));
        assert!(!rules.matter(Path::new("/c/node_modules/x")) && !rules.may_matter_below(Path::new("/c/.git")));
    }

    #[test]
    fn paths_are_normal() {
        assert_eq!([normal("./a/../b/"), normal("/"), normal("../x")], ["b", "", "x"]);
    }
}
