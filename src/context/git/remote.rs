//! Which remotes and refs are let through to git, and what of a remote is a secret. Unaware of processes.

use base64::Engine;
use reqwest::Url;

use super::{GitError, Secrets};
use crate::{
    context::{http::policy, redact_url},
    dockerfile::git_reference::is_valid_ref,
};

/// Transports git may use, for the repository and all its submodules.
pub(super) const PROTOCOLS: &str = "git:http:https:ssh";

/// A remote without its credentials.
#[derive(Debug)]
pub(super) struct Remote {
    /// What git is told and a checkout remembers.
    pub(super) url: String,
    /// For people.
    pub(super) shown: String,
    /// A header for this host, with what it applies to (`https://host/`).
    pub(super) authorization: Option<Authorization>,
}

/// An Authorization header.
pub(super) struct Authorization {
    pub(super) scope: String,
    pub(super) value: String,
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Authorization({})", self.scope)
    }
}

impl Remote {
    /// Judges a remote and finds its credentials: in the URL, or among the secrets.
    pub(super) fn parse(text: &str, secrets: Secrets<'_>) -> Result<Self, GitError> {
        let shown = redact_url(text).into_owned();
        let refused = |problem: &str| GitError::Remote { remote: shown.clone(), problem: problem.to_owned() };
        if text.starts_with('-') || text.chars().any(|character| character.is_control() || character == ' ') {
            return Err(refused("it is not a URL"));
        }
        if is_scp(text) {
            return Ok(Self { url: text.to_owned(), shown, authorization: None });
        }
        // `github.com/x/y` is what Docker takes for a repository without a scheme.
        let with_scheme = if text.starts_with("github.com/") { format!("https://{text}") } else { text.to_owned() };
        if !with_scheme.contains("://") {
            return Err(refused("only http, https, ssh and git remotes are allowed"));
        }
        let mut url = Url::parse(&with_scheme).map_err(|error| refused(&error.to_string()))?;
        if !PROTOCOLS.split(':').any(|allowed| allowed == url.scheme()) {
            return Err(refused("only http, https, ssh and git remotes are allowed"));
        }
        if url.host_str().is_none_or(|host| host.is_empty() || host.starts_with('-')) || url.username().starts_with('-') {
            return Err(refused("it has no valid host"));
        }
        let is_web = matches!(url.scheme(), "http" | "https");
        if is_web && policy::judge(&url, false).is_err() {
            return Err(refused("link-local addresses, where clouds keep the credentials of their machines, are not allowed"));
        }
        let authorization =
            if is_web { authorization(&url, secrets).map_err(|id| refused(&format!("the secret {id} is not a header")))? } else { None };
        // Only URLs without a host refuse these.
        let _ = url.set_password(None);
        if is_web {
            let _ = url.set_username("");
        }
        Ok(Self { url: url.into(), shown, authorization })
    }

    /// What must not be seen in anything git prints.
    pub(super) fn hide(&self, text: &str) -> String {
        match &self.authorization {
            Some(authorization) => {
                let secret = authorization.value.split_once(' ').map_or(authorization.value.as_str(), |(_, secret)| secret);
                text.replace(&authorization.value, "xxxxx").replace(secret, "xxxxx")
            }
            None => text.to_owned(),
        }
    }
}

/// Secrets win over what the URL holds; those for the host over those for any. The error is the id of a bad one.
fn authorization(url: &Url, secrets: Secrets<'_>) -> Result<Option<Authorization>, String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let scope = format!("{}://{host}{port}/", url.scheme());
    let encode = |text: String| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let suffixes = [format!(".{host}{port}"), format!(".{host}"), String::new()];
    for suffix in &suffixes {
        for (id, is_token) in [(format!("GIT_AUTH_HEADER{suffix}"), false), (format!("GIT_AUTH_TOKEN{suffix}"), true)] {
            let Some(secret) = secrets(&id) else { continue };
            let secret = secret.trim_end_matches(['\r', '\n']);
            if secret.is_empty() || secret.chars().any(char::is_control) {
                return Err(id);
            }
            let value = if is_token { encode(format!("x-access-token:{secret}")) } else { secret.to_owned() };
            return Ok(Some(Authorization { scope, value }));
        }
    }
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| String::from_utf8_lossy(&crate::context::http::percent_decoded(text)).into_owned();
    let value = encode(format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default())));
    Ok(Some(Authorization { scope, value }))
}

/// `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((host, path)) = text.split_once(':') else { return false };
    let Some((user, host)) = host.split_once('@') else { return false };
    let is_word =
        |word: &str| !word.is_empty() && !word.starts_with('-') && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    is_word(user) && is_word(host) && !path.is_empty() && !path.starts_with([':', '-'])
}

/// The names that git itself allows (git-check-ref-format), and nothing that looks like an option.
pub(super) fn check_reference(reference: &str) -> Result<(), GitError> {
    match is_valid_ref(reference) && reference.len() <= 1024 {
        true => Ok(()),
        false => Err(GitError::Reference { reference: reference.to_owned() }),
    }
}

/// The beginning of a commit's name, or all of it.
pub(super) fn check_checksum(checksum: &str) -> Result<(), GitError> {
    let is_hex = checksum.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    match (4..=64).contains(&checksum.len()) && is_hex {
        true => Ok(()),
        false => Err(GitError::Checksum { checksum: checksum.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Security list 27.
    #[test]
    fn only_remotes_of_the_four_protocols_pass() {
        let good = ["https://h/r.git", "http://127.0.0.1:81/r", "git://h/r", "ssh://git@h:22/r.git", "git@github.com:a/b.git"];
        for remote in good {
            assert_eq!(Remote::parse(remote, &|_| None).unwrap().url, remote);
        }
        assert_eq!(Remote::parse("github.com/a/b", &|_| None).unwrap().url, "https://github.com/a/b");
        let bad = [
            "ext::sh -c touch% /tmp/x",
            "ext::sh",
            "file:///etc",
            "/etc",
            "../x",
            "fd::17/x",
            "--upload-pack=touch /tmp/x",
            "-c",
            "ssh://-oProxyCommand=touch/x",
            "ssh://-oProxyCommand=x@h/x",
            "-oProxyCommand=x@h:r",
            "git@-oProxyCommand=x:r",
            "git@h:-r",
            "git@h::r",
            "https://h/r\n--upload-pack=x",
            "https://169.254.169.254/r.git",
            "ftp://h/r.git",
            "transport::https://h/r",
            "",
        ];
        for remote in bad {
            assert!(matches!(Remote::parse(remote, &|_| None), Err(GitError::Remote { .. })), "{remote}");
        }
    }

    /// Security list 27.
    #[test]
    fn refs_are_names_and_nothing_else() {
        for reference in ["main", "v1.0", "feature/x", "refs/heads/main", "refs/pull/1/head", "a@b", "ünïcode", "0123abc"] {
            assert!(check_reference(reference).is_ok(), "{reference}");
        }
        let bad = [
            "",
            "--upload-pack=x",
            "-c",
            "a b",
            "a\nb",
            "a..b",
            "a/../b",
            "../a",
            "a:b",
            ":a",
            "+a:b",
            "a^{}",
            "a~1",
            "*",
            "a[b",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "@",
            "a@{1}",
            "a\0b",
            "a\x7fb",
        ];
        for reference in bad {
            assert!(check_reference(reference).is_err(), "{reference:?}");
        }
        assert!(check_reference(&"a".repeat(1025)).is_err());
    }

    #[test]
    fn checksums_are_commits_or_their_beginnings() {
        for checksum in ["abcd", "0123456789", &"a".repeat(40), &"0".repeat(64)] {
            assert!(check_checksum(checksum).is_ok(), "{checksum}");
        }
        for checksum in ["", "abc", "xyz1", "ABCD", "sha256:abcd", &"a".repeat(65)] {
            assert!(check_checksum(checksum).is_err(), "{checksum}");
        }
    }

    #[test]
    fn credentials_leave_the_url() {
        let secrets = |id: &str| match id {
            "GIT_AUTH_TOKEN.h" => Some("tok\n".to_owned()),
            "GIT_AUTH_HEADER" => Some("Bearer any".to_owned()),
            _ => None,
        };
        let parse = |text: &str| {
            let remote = Remote::parse(text, &secrets).unwrap();
            (remote.url, remote.authorization.map(|authorization| (authorization.scope, authorization.value)))
        };
        let basic = |text: &str| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        assert_eq!(parse("https://h/r"), ("https://h/r".into(), Some(("https://h/".into(), basic("x-access-token:tok")))));
        assert_eq!(
            parse("https://other:8443/r"),
            ("https://other:8443/r".into(), Some(("https://other:8443/".into(), "Bearer any".into())))
        );
        assert_eq!(parse("ssh://git:pass@h/r"), ("ssh://git@h/r".into(), None));
        let from_url = Remote::parse("https://me:p%40ss@h/r", &|_| None).unwrap();
        assert_eq!((from_url.url.as_str(), from_url.shown.as_str()), ("https://h/r", "https://me:xxxxx@h/r"));
        assert_eq!(from_url.authorization.unwrap().value, basic("me:p@ss"));
    }
}
