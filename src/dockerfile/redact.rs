//! Takes credentials out of URLs before anyone sees them. Unaware of what URLs are for.

use std::{borrow::Cow, ops::Range};

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

/// What stands in place of a credential.
const MASK: &str = "xxxxx";

/// A URL, or any text with URLs in it, with `xxxxx` in place of a password, of a user that may be a token, and of
/// signatures in a query.
pub fn redact_url(text: &str) -> Cow<'_, str> {
    replaced(text, |_| MASK.to_owned())
}

/// The text with an `x` for each byte of a credential: places in it stay where they are.
pub fn blot(text: &str) -> Cow<'_, str> {
    replaced(text, |secret| {
        let line_end = |byte: u8| matches!(byte, b'\r' | b'\n');
        secret.bytes().map(|byte| if line_end(byte) { char::from(byte) } else { 'x' }).collect()
    })
}

/// Host and password of `scheme://user:password@host/`.
pub fn password_of_url(url: &str) -> Option<(&str, &str)> {
    let authority = Authority::at(url, url.find("://")?);
    Some((authority.host, &url[authority.secret?]))
}

fn replaced(text: &str, mask: impl Fn(&str) -> String) -> Cow<'_, str> {
    let secrets = credentials(text);
    if secrets.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut done = 0;
    for secret in secrets {
        shown += &text[done..secret.start];
        shown += &mask(&text[secret.clone()]);
        done = secret.end;
    }
    Cow::Owned(shown + &text[done..])
}

/// Where the credentials of all URLs in a text are, in order.
fn credentials(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut url_end = 0;
    for (at, _) in text.match_indices("://") {
        let authority = Authority::at(text, at);
        found.extend(authority.secret);
        // A URL in the query of another was looked through with it.
        if at >= url_end {
            url_end = authority.end + length(&text[authority.end..], |_| false);
            found.extend(signatures(text, authority.end..url_end));
        }
    }
    found.sort_by_key(|secret| (secret.start, std::cmp::Reverse(secret.end)));
    let mut known = 0;
    found.retain(|secret| {
        let is_new = !secret.is_empty() && secret.start >= known;
        known = if is_new { secret.end } else { known };
        is_new
    });
    found
}

/// `user:password@host` of a URL.
struct Authority<'a> {
    host: &'a str,
    secret: Option<Range<usize>>,
    end: usize,
}

impl<'a> Authority<'a> {
    /// Of the URL whose `://` is at `at`.
    fn at(text: &'a str, at: usize) -> Self {
        let start = at + "://".len();
        let end = start + length(&text[start..], |end| matches!(end, '/' | '?' | '#'));
        let Some(sign) = text[start..end].rfind('@').map(|sign| start + sign) else {
            return Self { host: &text[start..end], secret: None, end };
        };
        let secret = match text[start..sign].find(':') {
            Some(colon) => Some(start + colon + 1..sign),
            // `git@` and the like are no secret; over http(s) a lone user is a token.
            None => is_http(&text[..at]).then_some(start..sign),
        };
        Self { host: &text[sign + 1..end], secret, end }
    }
}

fn is_http(before: &str) -> bool {
    let is_http = |scheme: &str| {
        before.len().checked_sub(scheme.len()).and_then(|at| before.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(scheme))
    };
    is_http("http") || is_http("https")
}

/// Values that are credentials, in the query or the fragment of a URL.
fn signatures(text: &str, place: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = place.start;
    for pair in text[place].split(['?', '&', '#']) {
        let end = at + pair.len();
        if let Some((name, value)) = pair.split_once('=')
            && SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
        {
            found.push(end - value.len()..end);
        }
        at = end + 1;
    }
    found
}

/// How much of a text is a part of a URL that ends at `is_end`: no blank but those of a continued line, and no quote
/// that ends the text around it.
fn length(text: &str, is_end: impl Fn(char) -> bool) -> usize {
    let mut continued = false;
    for (at, letter) in text.char_indices() {
        let is_blank = letter.is_whitespace();
        if is_end(letter) || letter == '"' || (is_blank && !continued) {
            return at;
        }
        let begins = matches!(letter, '\\' | '`') && continues(&text[at + 1..]);
        continued = begins || (continued && is_blank && letter != '\n');
    }
    text.len()
}

/// Whether nothing follows an escape on its line.
fn continues(after: &str) -> bool {
    after.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
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
        for (text, expected) in [
            ("ADD https://u:p@h/a  http://t@h/b?sig=x /d@e:f", "ADD https://u:xxxxx@h/a  http://xxxxx@h/b?sig=xxxxx /d@e:f"),
            ("ADD [\"HTTPS://t@h\", \"x@y\"]", "ADD [\"HTTPS://xxxxx@h\", \"x@y\"]"),
            ("A=http://h,B=http://u:p@h?c&TOKEN=x#y \"z\"", "A=http://h,B=http://u:xxxxx@h?c&TOKEN=xxxxx#y \"z\""),
            ("http://h?next=http://u:p@h?sig=1&x=2", "http://h?next=http://u:xxxxx@h?sig=xxxxx&x=2"),
            ("http://h?token=http://u:p@h/", "http://h?token=xxxxx"),
            ("http://u:@h http://@h :// a://", "http://u:@h http://@h :// a://"),
            ("ADD http://ü:pä@h/ \\\n  http://h @", "ADD http://ü:xxxxx@h/ \\\n  http://h @"),
        ] {
            assert_eq!(redact_url(text), expected);
        }
    }

    #[test]
    fn places_stay_in_a_text_that_is_blotted() {
        let text = "ADD http://user:pä\\ \r\nss@host/x?sig=1 /y\nADD http://h/@ /";
        let shown = blot(text);
        assert_eq!(shown, "ADD http://user:xxxxx\r\nxx@host/x?sig=x /y\nADD http://h/@ /");
        assert_eq!(shown.len(), text.len());
    }

    #[test]
    fn passwords_are_taken_out_of_urls() {
        for (url, expected) in [
            ("https://user:pass:word@host:8/a.git#main", Some(("host:8", "pass:word"))),
            ("https://ghp_token@host/a.git", Some(("host", "ghp_token"))),
            ("ssh://git:pass@host/a.git", Some(("host", "pass"))),
            ("ssh://git@host/a.git", None),
            ("git@host:a.git", None),
            ("https://host/a@b", None),
        ] {
            assert_eq!(password_of_url(url), expected, "{url}");
        }
    }

    #[test]
    fn a_long_text_takes_no_time() {
        for text in ["://".repeat(40_000), "http://a@".repeat(10_000), "x://".to_owned() + &"\\ ".repeat(60_000), "h://?".repeat(20_000)] {
            let _ = (redact_url(&text), blot(&text));
        }
    }
}
