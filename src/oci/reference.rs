//! Image references with Docker's defaults: `alpine` is `docker.io/library/alpine:latest`.

use std::{fmt, str::FromStr};

use super::Digest;

/// Where an image is found. Always has a registry and a repository; has a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What is wrong with a reference's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: `{text}`: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: String,
}

impl Reference {
    /// Host and port, `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` is filled in when there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins it.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository at `digest`, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same repository at `tag`, without a digest.
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// As people write it: without `docker.io/library/` and `:latest`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/library/").or_else(|| full.strip_prefix("docker.io/")).unwrap_or(&full);
        if self.digest.is_none() { short.strip_suffix(":latest").unwrap_or(short).to_owned() } else { short.to_owned() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The full grammar is a large regular expression, which takes longer to compile than a cached build takes in all.
        let fail = |reason: String| ReferenceError { text: text.to_owned(), reason };
        // Docker's parser refuses it: it would be taken for the id of an image.
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(fail("a name can't be 64 hexadecimal digits".to_owned()));
        }
        if let Some(reference) = plain(text) {
            return Ok(reference);
        }
        let parsed: oci_spec::distribution::Reference = text.parse().map_err(|error| fail(format!("{error}")))?;
        let digest = parsed.digest().map(str::parse).transpose().map_err(|error: super::DigestError| fail(error.to_string()))?;
        Ok(Self {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned())),
            digest,
        })
    }
}

/// Reads the names that nearly all names are; None leaves the text to the full grammar, which also finds its faults.
fn plain(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().ok()?)),
        None => (text, None),
    };
    let path = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path..].split_once(':') {
        Some((last, tag)) => (&rest[..path + last.len()], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_plain_tag(tag)) || name.len() > 127 {
        return None;
    }
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match name.split_once('/').filter(|(first, _)| is_host(first)) {
        Some(("docker.io", repository)) if !repository.contains('/') => ("docker.io", format!("library/{repository}")),
        Some((host, repository)) if is_plain_host(host) => (host, repository.to_owned()),
        Some(_) => return None,
        None if name.contains('/') => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    if !repository.split('/').all(is_plain_component) {
        return None;
    }
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Some(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn is_plain_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len()) && is_word(tag.as_bytes()[0]) && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// `host.name:port`, but for the aliases of Docker Hub.
fn is_plain_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().zip(bytes.last()).is_some_and(|(a, b)| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric());
        ends && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    has_port && name.split('.').all(is_label) && (name == "docker.io" || !name.ends_with("docker.io"))
}

/// Lower-case words with single separators between them.
fn is_plain_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut after_word = false;
    for byte in component.bytes() {
        match byte {
            byte if is_word(byte) => after_word = true,
            b'.' | b'_' | b'-' if after_word => after_word = false,
            _ => return false,
        }
    }
    after_word
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(formatter, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(formatter, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_dockers() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("me/app", "docker.io/me/app:latest", "me/app"),
            ("docker.io/my-upstream-image", "docker.io/library/my-upstream-image:latest", "my-upstream-image"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        for text in ["", &"a1".repeat(32), "UPPER", "a:b:c", "a@sha256:12", "a b", "/a"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_short_way_agrees_with_the_grammar() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let names = "alpine a/b a/b/c docker.io/x docker.io/a/b index.docker.io/a localhost/a localhost:5000/a h.io:1/a/b H.io/a -h.io/a \
            a__b a___b a..b a.-b a--b a- -a A a/B a//b /a a/ h.io/ h.io:/a h.io:x/a 1.2.3.4/a a_b/c";
        let mut plainly = 0;
        for name in names.split_whitespace() {
            for suffix in ["", ":1", ":v1.2_3-x", ":", ":-", ":a:b", ":a/b", &format!("@{digest}"), &format!(":1@{digest}"), "@sha256:1"] {
                let text = format!("{name}{suffix}");
                let Some(reference) = plain(&text) else { continue };
                plainly += 1;
                let full: oci_spec::distribution::Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!((reference.registry(), reference.repository()), (full.registry(), full.repository()), "{text}");
                assert_eq!(reference.tag(), full.tag(), "{text}");
                assert_eq!(reference.digest().map(Digest::as_str), full.digest(), "{text}");
            }
        }
        assert!(plainly > 50, "{plainly}");
    }
}
