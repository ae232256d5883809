//! References to git repositories: `https://host/x.git#ref:dir`, the same as a query, `git@host:path`, `ssh://`, `git://`.
//! Unaware of git and of the network.
//!
//! What a reference may hold is stricter here than at git: a host, user or ref that begins with `-` would become an option
//! of the programs that git starts, and is refused.

use super::glob::clean;
use super::number::parse_bool;
use super::quote::go_quote;
use serde::Serialize;

/// A repository and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct GitReference {
    /// What git is given: without query and fragment.
    pub remote: String,
    /// The directory name of the repository: `buildkit` of `.../buildkit.git`.
    pub short_name: String,
    /// Branch, tag or commit; None for the default branch.
    pub reference: Option<String>,
    /// The commit that must be found, or its beginning.
    pub checksum: Option<String>,
    /// Relative and cleaned.
    pub subdirectory: Option<String>,
    /// `github.com/x/y`: could as well be a path. Only a context takes it for a repository.
    pub looks_local: bool,
    /// `http://` or `git://`.
    pub unencrypted: bool,
    /// `?keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `?submodules`.
    pub submodules: Option<bool>,
    /// `?mtime`.
    pub mtime: Option<MtimePolicy>,
    /// Trust the checksum and fetch that commit itself.
    pub fetch_by_commit: bool,
}

/// Which times the files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MtimePolicy {
    /// Of the checkout.
    Checkout,
    /// Of the commit.
    Commit,
}

impl GitReference {
    /// `remote#ref:subdirectory`.
    pub fn fragment_form(&self) -> String {
        let reference = self.reference.as_deref().unwrap_or_default();
        match (&self.subdirectory, reference) {
            (Some(subdirectory), _) => format!("{}#{reference}:{subdirectory}", self.remote),
            (None, "") => self.remote.clone(),
            (None, _) => format!("{}#{reference}", self.remote),
        }
    }
}

/// Reads a reference. `Ok(None)`: `text` is no git source at all. Err: it is one, and wrong.
pub fn parse(text: &str) -> Result<Option<GitReference>, String> {
    let Some(source) = split(text) else { return Ok(None) };
    let mut git = GitReference {
        short_name: short_name(&source.remote),
        looks_local: source.looks_local,
        unencrypted: matches!(source.scheme, "http" | "git"),
        remote: source.remote,
        ..GitReference::default()
    };
    let fragment = percent_decode(&source.fragment, false).unwrap_or_else(|| source.fragment.clone());
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((&fragment, ""));
    git.reference = non_empty(reference);
    git.subdirectory = non_empty(clean(&format!("/{subdirectory}")).trim_start_matches('/'));
    Query::default().read(&source.query, &mut git)?;
    check(&git)?;
    Ok(Some(git))
}

/// Forty or sixty-four lower-case hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// By the rules of `git check-ref-format`, and no option.
pub fn is_valid_ref(text: &str) -> bool {
    let forbidden = |ch: char| ch.is_control() || matches!(ch, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    !text.is_empty()
        && text != "@"
        && !text.starts_with(['-', '/'])
        && !text.ends_with(['/', '.'])
        && !text.contains(forbidden)
        && !["..", "@{", "//"].iter().any(|part| text.contains(part))
        && text.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"))
}

fn non_empty(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn short_name(remote: &str) -> String {
    let last = remote.rsplit('/').next().unwrap_or(remote);
    last.strip_suffix(".git").unwrap_or(last).to_owned()
}

fn check(git: &GitReference) -> Result<(), String> {
    if let Some(reference) = git.reference.as_deref().filter(|reference| !is_valid_ref(reference)) {
        return Err(format!("invalid git ref {}", go_quote(reference)));
    }
    if git.remote.contains(char::is_control) {
        return Err(format!("invalid git remote {}", go_quote(&git.remote)));
    }
    Ok(())
}

/// The parts of a source that looks like git.
struct GitSource {
    scheme: &'static str,
    remote: String,
    query: Vec<(String, String)>,
    fragment: String,
    looks_local: bool,
}

fn split(text: &str) -> Option<GitSource> {
    if text.starts_with("./") || text.starts_with("../") || text.contains(char::is_control) {
        return None;
    }
    if text.starts_with("github.com/") {
        let source = split_url("https", text, false)?;
        return Some(GitSource { looks_local: true, ..source });
    }
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            let lower = scheme.to_ascii_lowercase();
            let scheme = ["http", "https", "ssh", "git"].into_iter().find(|known| *known == lower)?;
            let source = split_url(scheme, rest, matches!(scheme, "http" | "https"))?;
            Some(GitSource { remote: format!("{scheme}://{}", source.remote), ..source })
        }
        _ => split_scp(text),
    }
}

/// `host/path?query#fragment`.
fn split_url(scheme: &'static str, rest: &str, needs_suffix: bool) -> Option<GitSource> {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = remote.split_at(remote.find('/').unwrap_or(remote.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.is_empty() || host.contains(' ') || authority.starts_with('-') || host.starts_with('-') {
        return None;
    }
    let path = percent_decode(path, false)?;
    // Only a path that ends in `.git` makes git of http.
    if needs_suffix && !path.ends_with(".git") {
        return None;
    }
    Some(GitSource { scheme, remote: remote.to_owned(), query: parse_query(query), fragment: fragment.to_owned(), looks_local: false })
}

/// `user@host:path?query#fragment`.
fn split_scp(text: &str) -> Option<GitSource> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let name = |text: &str, more: [char; 2]| {
        !text.is_empty() && !text.starts_with('-') && text.chars().all(|ch| ch.is_ascii_alphanumeric() || more.contains(&ch))
    };
    if !name(user, ['-', '_']) || !name(host, ['-', '.']) {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.starts_with('-') {
        return None;
    }
    let remote = format!("{user}@{host}:{path}");
    Some(GitSource { scheme: "ssh", remote, query: parse_query(query), fragment: fragment.to_owned(), looks_local: false })
}

/// Keys and values in the order written; what can't be read is left out.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
    pairs
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(key, true)?, percent_decode(value, true)?))
        })
        .collect()
}

/// None when an escape is broken or the result is no text.
fn percent_decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            b'+' if plus_is_blank => b' ',
            _ => byte,
        });
    }
    String::from_utf8(out).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// What a query says before tag and branch become a ref.
#[derive(Default)]
struct Query {
    tag: Option<String>,
    branch: Option<String>,
}

impl Query {
    fn read(mut self, pairs: &[(String, String)], git: &mut GitReference) -> Result<(), String> {
        for (index, (key, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(format!("query {} has multiple values", go_quote(key)));
            }
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit") {
                return Err(format!("query {} has no value", go_quote(key)));
            }
            self.read_pair(key, value, git)?;
        }
        self.finish(git)
    }

    fn read_pair(&mut self, key: &str, value: &str, git: &mut GitReference) -> Result<(), String> {
        // A truth value may be left out.
        let flag = || {
            let value = if value.is_empty() { "true" } else { value };
            parse_bool(value).ok_or_else(|| format!("invalid {key} value: {}", go_quote(value)))
        };
        match key {
            "ref" => agree("ref", &mut git.reference, value)?,
            "tag" => self.tag = Some(value.to_owned()),
            "branch" => self.branch = Some(value.to_owned()),
            "subdir" => {
                agree("subdir", &mut git.subdirectory, value)?;
                git.subdirectory = non_empty(clean(&format!("/{value}")).trim_start_matches('/'));
            }
            "checksum" | "commit" => git.checksum = Some(value.to_owned()),
            "keep-git-dir" => git.keep_git_dir = Some(flag()?),
            "submodules" => git.submodules = Some(flag()?),
            "fetch-by-commit" => git.fetch_by_commit = flag()?,
            "mtime" => {
                git.mtime = Some(match value {
                    "checkout" => MtimePolicy::Checkout,
                    "commit" => MtimePolicy::Commit,
                    _ => return Err(format!("invalid mtime value: {} (must be \"checkout\" or \"commit\")", go_quote(value))),
                });
            }
            _ => return Err(format!("unexpected query {}", go_quote(key))),
        }
        Ok(())
    }

    fn finish(self, git: &mut GitReference) -> Result<(), String> {
        let conflict = self.tag.is_some() && self.branch.is_some();
        for (name, prefix) in [(self.tag, "refs/tags/"), (self.branch, "refs/heads/")] {
            let Some(name) = name else { continue };
            if conflict && prefix == "refs/heads/" {
                return Err("branch conflicts with tag".to_owned());
            }
            let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
            agree("ref", &mut git.reference, &full)?;
        }
        Ok(())
    }
}

/// Sets what may be said twice only if it is said alike.
fn agree(what: &str, place: &mut Option<String>, value: &str) -> Result<(), String> {
    match place.as_deref() {
        Some(known) if known != value => Err(format!("{what} conflicts: {} vs {}", go_quote(known), go_quote(value))),
        _ => {
            *place = Some(value.to_owned());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_git_source() {
        for text in [
            "",
            "https://example.com/",
            "https://example.com/foo",
            "https://example.com/foo.git/",
            "https://example.com/foo.git.bar",
            "https://github.com/moby/buildkit",
            "custom.xyz/moby/buildkit.git",
            "ftp://example.com/foo.git",
            "./x.git",
            "../git@host:x",
            "git@host",
            "bad:user@host:x",
            "https://-x/foo.git",
            "ssh://-oProxyCommand=x/foo",
            "-o@host:x",
            "git@-host:x",
            "git@host:-x",
            "https://example.com/%zz.git",
            "https://example.com/a\nb.git",
        ] {
            assert_eq!(parse(text), Ok(None), "{text}");
        }
    }

    /// `remote`, `ref`, `subdirectory`, `checksum`.
    #[test]
    fn reads_every_form() {
        for (text, remote, reference, subdirectory, checksum) in [
            ("https://h/foo.git", "https://h/foo.git", "", "", ""),
            ("HTTPS://h/foo.git#v1", "https://h/foo.git", "v1", "", ""),
            ("https://h/foo.git#release/1.2:a/../b", "https://h/foo.git", "release/1.2", "b", ""),
            ("https://h/foo.git#:../../b", "https://h/foo.git", "", "b", ""),
            ("https://u:p@h/foo.git", "https://u:p@h/foo.git", "", "", ""),
            ("git://h/foo", "git://h/foo", "", "", ""),
            ("ssh://git@h:22/foo", "ssh://git@h:22/foo", "", "", ""),
            ("git@h:a/foo.git#v1:sub", "git@h:a/foo.git", "v1", "sub", ""),
            ("git@h:a/foo.git?tag=v1", "git@h:a/foo.git", "refs/tags/v1", "", ""),
            ("github.com/moby/buildkit#master", "github.com/moby/buildkit", "master", "", ""),
            ("https://h/foo.git?ref=v1&subdir=/x/", "https://h/foo.git", "v1", "x", ""),
            ("https://h/foo.git?branch=main", "https://h/foo.git", "refs/heads/main", "", ""),
            ("https://h/foo.git?tag=refs/tags/v1&commit=abc", "https://h/foo.git", "refs/tags/v1", "", "abc"),
            ("https://h/foo.git?ref=v1#v1", "https://h/foo.git", "v1", "", ""),
        ] {
            let git = parse(text).unwrap().unwrap_or_else(|| panic!("{text}"));
            let or_empty = |part: &Option<String>| part.clone().unwrap_or_default();
            let seen = (git.remote.as_str(), or_empty(&git.reference), or_empty(&git.subdirectory), or_empty(&git.checksum));
            assert_eq!(seen, (remote, reference.to_owned(), subdirectory.to_owned(), checksum.to_owned()), "{text}");
        }
    }

    #[test]
    fn reads_flags() {
        let git = parse("http://h/a/foo.git?keep-git-dir&submodules=false&mtime=commit&fetch-by-commit=1").unwrap().unwrap();
        assert_eq!((git.keep_git_dir, git.submodules, git.mtime), (Some(true), Some(false), Some(MtimePolicy::Commit)));
        assert!(git.fetch_by_commit && git.unencrypted && !git.looks_local);
        assert_eq!((git.short_name.as_str(), git.fragment_form().as_str()), ("foo", "http://h/a/foo.git"));
        let local = parse("github.com/a/b#x:y").unwrap().unwrap();
        assert!(local.looks_local && local.fragment_form() == "github.com/a/b#x:y");
    }

    #[test]
    fn conflicts_and_nonsense_are_errors() {
        for (query, error) in [
            ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("?subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?tag=a#b", "ref conflicts: \"b\" vs \"refs/tags/a\""),
            ("?ref=", "query \"ref\" has no value"),
            ("?ref=a&ref=a", "query \"ref\" has multiple values"),
            ("?what=a", "unexpected query \"what\""),
            ("?submodules=x", "invalid submodules value: \"x\""),
            ("?mtime=x", "invalid mtime value: \"x\" (must be \"checkout\" or \"commit\")"),
            ("#--upload-pack=x", "invalid git ref \"--upload-pack=x\""),
            ("?ref=-x", "invalid git ref \"-x\""),
            ("#a..b", "invalid git ref \"a..b\""),
            ("#a%0Ab", "invalid git ref \"a\\nb\""),
        ] {
            assert_eq!(parse(&format!("https://h/foo.git{query}")), Err(error.to_owned()));
        }
    }

    #[test]
    fn refs_by_grammar() {
        for valid in ["main", "refs/heads/a-b", "v1.0", "feature/x@y", &"a".repeat(40)] {
            assert!(is_valid_ref(valid), "{valid}");
        }
        for invalid in ["", "-x", "a b", "a..b", "a~1", "a^", "a:b", "a.lock", "x/.y", "a//b", "a/", "@", "a@{1}", "a\\b"] {
            assert!(!is_valid_ref(invalid), "{invalid}");
        }
        assert!(is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("abc"));
    }
}
