//! A digest that a user states for bytes from elsewhere (`ADD --checksum`): SHA-256, SHA-384 or SHA-512.
//! Registries know only SHA-256, which is [`Digest`](super::Digest). Unaware of where bytes come from.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;

/// `<algorithm>:<hex>`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    text: String,
}

/// What is wrong with a checksum's text; worded as Go's digest package does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// Not `<algorithm>:<hex>`.
    #[error("invalid checksum digest format")]
    Format,
    /// The right form, the wrong number of digits.
    #[error("invalid checksum digest length")]
    Length,
    /// An algorithm that is not among the three.
    #[error("unsupported digest algorithm")]
    Algorithm,
}

impl Checksum {
    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `sha256`, `sha384` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.text.split(':').next().expect("the text was checked")
    }

    /// Begins to hash bytes that should have this checksum.
    pub fn hasher(&self) -> ChecksumHasher {
        let algorithm = algorithm(self.algorithm()).expect("the text was checked").0;
        ChecksumHasher { name: self.algorithm().to_owned(), context: digest::Context::new(algorithm) }
    }
}

impl FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hex) = text.split_once(':').ok_or(ChecksumError::Format)?;
        let is_name = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if hex.is_empty() || !name.split(['.', '+', '_', '-']).all(is_name) {
            return Err(ChecksumError::Format);
        }
        let (_, digits) = algorithm(name).ok_or(ChecksumError::Algorithm)?;
        if hex.len() != digits {
            return Err(ChecksumError::Length);
        }
        match hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            true => Ok(Self { text: text.to_owned() }),
            false => Err(ChecksumError::Format),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Running hash in a checksum's algorithm.
#[derive(Clone)]
pub struct ChecksumHasher {
    name: String,
    context: digest::Context,
}

impl ChecksumHasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The checksum of all bytes taken.
    pub fn finish(self) -> Checksum {
        let mut text = self.name + ":";
        for byte in self.context.finish().as_ref() {
            text.push_str(&format!("{byte:02x}"));
        }
        Checksum { text }
    }
}

/// The algorithm and the number of its hexadecimal digits.
fn algorithm(name: &str) -> Option<(&'static digest::Algorithm, usize)> {
    match name {
        "sha256" => Some((&digest::SHA256, 64)),
        "sha384" => Some((&digest::SHA384, 96)),
        "sha512" => Some((&digest::SHA512, 128)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_judged_in_the_field_s_words() {
        let hex = "0".repeat(64);
        let cases = [
            (format!("sha256:{hex}"), "ok"),
            (format!("sha512:{}", "0".repeat(128)), "ok"),
            (format!("md5:{}", "0".repeat(32)), "unsupported digest algorithm"),
            (format!("unknown:{hex}"), "unsupported digest algorithm"),
            (hex.clone(), "invalid checksum digest format"),
            (format!(":{hex}"), "invalid checksum digest format"),
            ("sha256:".into(), "invalid checksum digest format"),
            (String::new(), "invalid checksum digest format"),
            (format!("SHA256:{hex}"), "invalid checksum digest format"),
            (format!("sha256:{}", "G".repeat(64)), "invalid checksum digest format"),
            ("sha256:00".into(), "invalid checksum digest length"),
        ];
        for (text, expected) in cases {
            let found = text.parse::<Checksum>().map_or_else(|error| error.to_string(), |_| "ok".into());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_hashed_in_the_stated_algorithm() {
        let empty = "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b";
        let checksum: Checksum = empty.parse().unwrap();
        assert_eq!(checksum.hasher().finish(), checksum);
        let mut other = checksum.hasher();
        other.update(b"x");
        assert_ne!(other.finish(), checksum);
    }
}
