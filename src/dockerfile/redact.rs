//! Takes credentials out of URLs before anyone sees them. Unaware of what URLs are for.

use std::borrow::Cow;

/// Query parameters whose values are credentials: signed URLs of object stores, tokens of code hosts.
const SECRET_PARAMETERS: [&str; 12] = [
    "x-amz-signature",
    "x-amz-security-token",
    "x-amz-credential",
    "x-goog-signature",
    "sig",
    "signature",
    "token",
    "access_token",
    "private_token",
    "job_token",
    "api_key",
    "password",
];

/// The URL with `xxxxx` in place of a password, of a user that may be a token, and of signatures in its query.
/// Works on any text: what is no URL is searched for `://user:password@` too.
pub fn redact_url(url: &str) -> Cow<'_, str> {
    let without_user = redact_user(url);
    match redact_query(&without_user) {
        Some(text) => Cow::Owned(text),
        None => without_user,
    }
}

/// The text with every URL in it as [`redact_url`] shows it.
pub fn redact_words(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        shown += &redact_url(word);
        shown += &piece[word.len()..];
    }
    shown
}

fn redact_user(url: &str) -> Cow<'_, str> {
    let Some(start) = url.find("://").map(|at| at + 3) else { return Cow::Borrowed(url) };
    let authority = &url[start..];
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    let Some(at) = authority[..end].rfind('@') else {
        return Cow::Borrowed(url);
    };
    let user = &authority[..at];
    let shown = match user.split_once(':') {
        Some((name, _)) => format!("{name}:xxxxx"),
        // `git@` and the like are no secret; over http(s) a lone user is a token.
        None if !url.starts_with("http") => return Cow::Borrowed(url),
        None => "xxxxx".to_owned(),
    };
    Cow::Owned(format!("{}{shown}{}", &url[..start], &authority[at..]))
}

fn redact_query(url: &str) -> Option<String> {
    let (before, rest) = url.split_once('?')?;
    let (query, fragment) = rest.split_once('#').map_or((rest, None), |(query, fragment)| (query, Some(fragment)));
    let mut found = false;
    let shown: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) => {
                found = true;
                Cow::Owned(format!("{name}=xxxxx"))
            }
            _ => Cow::Borrowed(pair),
        })
        .collect();
    let fragment = fragment.map_or_else(String::new, |fragment| format!("#{fragment}"));
    found.then(|| format!("{before}?{}{fragment}", shown.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_credentials_disappear() {
        let cases = [
            ("https://host/a?b=c#d", "https://host/a?b=c#d"),
            ("https://user:pass@host/a", "https://user:xxxxx@host/a"),
            ("https://ghp_token@host/a.git#main", "https://xxxxx@host/a.git#main"),
            ("https://user:p@ss:w@host/a@b", "https://user:xxxxx@host/a@b"),
            ("ssh://git@host/a.git", "ssh://git@host/a.git"),
            ("ssh://git:pass@host/a.git", "ssh://git:xxxxx@host/a.git"),
            ("git@host:a.git", "git@host:a.git"),
            ("https://bucket/x?X-Amz-Signature=abc&a=b#f", "https://bucket/x?X-Amz-Signature=xxxxx&a=b#f"),
            ("https://u:p@h/x?token=t", "https://u:xxxxx@h/x?token=xxxxx"),
            ("https://host?x=a@b", "https://host?x=a@b"),
            ("/some/path", "/some/path"),
        ];
        for (url, expected) in cases {
            assert_eq!(redact_url(url), expected);
        }
        let line = "ADD https://u:p@h/a  http://t@h/b?sig=x /d@e:f";
        assert_eq!(redact_words(line), "ADD https://u:xxxxx@h/a  http://xxxxx@h/b?sig=xxxxx /d@e:f");
    }
}
