//! From what a Dockerfile calls a version to a commit: branch, tag, full ref name, commit. Unaware of fetching.

use super::{
    GitError,
    command::{Call, Git},
};
use crate::dockerfile::git_reference::is_commit;

/// A version, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The ref's full name; None for a commit given by its own name.
    pub(super) name: Option<String>,
    /// What the ref is at: a commit, or a tag that is an object of its own.
    pub(super) object: String,
    /// The commit behind a tag, where the remote said it.
    pub(super) commit: Option<String>,
}

impl Resolved {
    /// A commit that was given by its own name needs nobody to be asked.
    pub(super) fn of_commit(reference: Option<&str>) -> Option<Self> {
        let object = reference.filter(|reference| is_commit(reference))?.to_owned();
        Some(Self { name: None, commit: Some(object.clone()), object })
    }

    /// Whether it is what a checksum, or the beginning of one, says.
    pub(super) fn matches(&self, checksum: &str) -> bool {
        self.object.starts_with(checksum) || self.commit.as_ref().is_some_and(|commit| commit.starts_with(checksum))
    }

    /// SHA-256 names are longer.
    pub(super) fn object_format(&self) -> &'static str {
        if self.object.len() == 64 { "sha256" } else { "sha1" }
    }
}

/// Asks the remote.
pub(super) async fn ask(git: &Git<'_>, reference: Option<&str>) -> Result<Resolved, GitError> {
    let missing = || GitError::NoReference { reference: reference.unwrap_or("HEAD").to_owned() };
    let url = git.remote.url.as_str();
    match reference {
        None => {
            let output = git.run(Call::nowhere(), &["ls-remote", "--symref", "--", url, "HEAD"]).await?;
            default_branch(&output).ok_or_else(missing)
        }
        Some(reference) => {
            let peeled = format!("{reference}^{{}}");
            let output = git.run(Call::nowhere(), &["ls-remote", "--", url, reference, &peeled]).await?;
            choose(&output, reference).ok_or_else(missing)
        }
    }
}

fn default_branch(output: &str) -> Option<Resolved> {
    let name = output.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD")).map(str::to_owned);
    let object = find(output, "HEAD")?;
    Some(Resolved { name, commit: Some(object.clone()), object })
}

/// A name that is a ref's whole name wins, then branches, then tags, as `git checkout` prefers.
fn choose(output: &str, reference: &str) -> Option<Resolved> {
    let bare = reference.strip_prefix("refs/").unwrap_or(reference);
    let candidates = [format!("refs/{bare}"), format!("refs/heads/{reference}"), format!("refs/tags/{reference}")];
    candidates.into_iter().find_map(|name| {
        let object = find(output, &name)?;
        let commit = find(output, &format!("{name}^{{}}"));
        Some(Resolved { name: Some(name), object, commit })
    })
}

fn find(output: &str, name: &str) -> Option<String> {
    let lines = output.lines().filter_map(|line| line.split_once('\t'));
    lines.filter(|(object, _)| is_commit(object)).find(|(_, found)| *found == name).map(|(object, _)| object.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_win_over_tags_and_whole_names_over_both() {
        let (a, b, c, d) = ("a".repeat(40), "b".repeat(40), "c".repeat(40), "d".repeat(40));
        let output = format!(
            "{a}\trefs/heads/x\n{b}\trefs/tags/x\n{c}\trefs/tags/x^{{}}\n{d}\trefs/pull/x\n{d}\trefs/heads/other/x\n{b}\trefs/tags/t\n{c}\trefs/tags/t^{{}}\n"
        );
        let found = |reference: &str| choose(&output, reference).map(|found| (found.name.unwrap(), found.object, found.commit));
        assert_eq!(found("x"), Some(("refs/heads/x".into(), a, None)));
        assert_eq!(found("t"), Some(("refs/tags/t".into(), b.clone(), Some(c.clone()))));
        assert_eq!(found("refs/tags/x"), Some(("refs/tags/x".into(), b.clone(), Some(c.clone()))));
        assert_eq!(found("tags/x"), Some(("refs/tags/x".into(), b, Some(c))));
        assert_eq!(found("pull/x"), Some(("refs/pull/x".into(), d, None)));
        assert_eq!(found("y"), None);
    }

    #[test]
    fn the_default_branch_is_where_head_points() {
        let commit = "1".repeat(64);
        let found = default_branch(&format!("ref: refs/heads/trunk\tHEAD\n{commit}\tHEAD\n")).unwrap();
        assert_eq!((found.name.as_deref(), found.object_format()), (Some("refs/heads/trunk"), "sha256"));
        assert_eq!(default_branch(&format!("{commit}\tHEAD\n")).unwrap().name, None);
        assert_eq!(default_branch(""), None);
        assert_eq!(default_branch("--option\tHEAD\n"), None);
    }
}
