//! Finding what should not be in an image among what a COPY takes: `.git`, `.env`, private keys.
//! Unaware of file contents: names tell.

use super::super::glob::{Glob, clean, has_wildcard};
use super::super::ignore::Matcher;
use super::super::quote::go_quote;
use super::super::tree::Word;
use super::Options;

/// What a name gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    VersionControl,
    Environment,
    PrivateKey,
}

impl Kind {
    fn says(self) -> &'static str {
        match self {
            Self::VersionControl => "the history of the sources",
            Self::Environment => "settings that are often secret",
            Self::PrivateKey => "what looks like a private key",
        }
    }
}

/// One message per kind of thing that the sources bring along, naming the first.
pub(super) fn check(keyword: &str, sources: &[String], excludes: &[Word], options: &Options<'_>) -> Vec<String> {
    let excluded = Matcher::new(excludes.iter().map(|word| &word.text)).unwrap_or_default();
    let hidden = |path: &str| excluded.matches(path) || options.ignored.is_some_and(|ignored| ignored.matches(path));
    let mut found: Vec<(Kind, String)> = Vec::new();
    let mut note = |path: &str| {
        let Some((kind, path)) = kind_of(path).filter(|(_, path)| !hidden(path)) else { return };
        if !found.iter().any(|(known, _)| *known == kind) {
            found.push((kind, path.to_owned()));
        }
    };
    for source in sources {
        let source = clean(&format!("/{source}"));
        let source = source.trim_start_matches('/');
        note(source);
        let takes = taker(source);
        options.context_paths.unwrap_or_default().iter().filter(|path| takes(path)).for_each(|path| note(path));
    }
    let message = |(kind, path): (Kind, String)| {
        format!("{keyword} takes {} into the image: {}; ignore it or name what is needed", go_quote(&path), kind.says())
    };
    found.into_iter().map(message).collect()
}

/// Whether a source takes a path: the source itself, what is below it, or what its pattern matches.
fn taker(source: &str) -> Box<dyn Fn(&String) -> bool + '_> {
    if source.is_empty() {
        return Box::new(|_| true);
    }
    if !has_wildcard(source) {
        return Box::new(move |path| path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    }
    let depth = source.split('/').count();
    let glob = Glob::new(source).ok();
    Box::new(move |path| {
        let end = path.match_indices('/').nth(depth - 1).map_or(path.len(), |(end, _)| end);
        glob.as_ref().is_some_and(|glob| glob.matches(&path[..end]))
    })
}

/// What a path is, and the part of it that says so.
fn kind_of(path: &str) -> Option<(Kind, &str)> {
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        if matches!(name, ".git" | ".hg" | ".svn") {
            return Some((Kind::VersionControl, &path[..end]));
        }
        end += 1;
    }
    let name = path.rsplit('/').next()?;
    let kind = if name == ".env" || (name.starts_with(".env.") && !is_example(name)) {
        Kind::Environment
    } else if is_private_key(name) {
        Kind::PrivateKey
    } else {
        return None;
    };
    Some((kind, path))
}

fn is_example(name: &str) -> bool {
    ["example", "sample", "template", "dist", "defaults", "schema"].iter().any(|word| name.ends_with(word))
}

fn is_private_key(name: &str) -> bool {
    let lower = name.to_lowercase();
    let ends = |extensions: &[&str]| extensions.iter().any(|extension| lower.ends_with(extension));
    matches!(name, "id_rsa" | "id_dsa" | "id_ecdsa" | "id_ed25519" | ".netrc" | ".pgpass")
        || ends(&[".key", ".p12", ".pfx", ".jks", ".ppk"])
        || (ends(&[".pem"]) && (lower.contains("key") || lower.contains("private")))
}
