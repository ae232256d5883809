//! Values that must not leave: secrets of the build and the credentials of registries. They are searched for where a
//! build writes, in every form of [`forms`], and a find fails the build before anything is exported.
//!
//! | Where | When | A find |
//! |---|---|---|
//! | layers of the result and of `--cache-to` | while they are packed; those of earlier builds once, when this build uses them | fails the build at the step, with the file; the step's record goes |
//! | config and history | when the image is put together, before it is written | fails the build at the instruction |
//! | output of RUN | as it comes: `***` is all that is shown, logged or reported | fails the step |
//! | names, notes, errors, report, provenance | as they are written | is masked; so are credentials of URLs |
//!
//! Which secrets a layer was searched for is remembered by their names, never by their values or hashes of these. A
//! secret that gets another value afterwards does not make an old layer be searched again: what was written before the
//! value was given can't hold it, and what held the old value was refused then. Layers that stay in the store (stages
//! that nothing is exported from) are not searched. Base images are not ours and are not searched either.
//!
//! Private keys behind `--ssh` never pass through here: an agent doesn't give them away. Unaware of where values come from.

mod forms;
mod image;
mod layer;
mod mask;

use std::{borrow::Cow, collections::BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};

use self::forms::Form;
pub use self::{
    forms::MIN_BYTES,
    image::search_image,
    layer::{name_file, search_blob},
    mask::Masker,
};
use crate::{
    build::{BuildError, Kind},
    dockerfile::redact::redact_url,
};

/// A value and what it is called.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What `--allow secret.NAME` and messages call it: the id of a secret, the host of a registry.
    pub name: String,
    /// Completes "holds": `the value of secret npm`.
    pub description: String,
    /// The bytes.
    pub value: Vec<u8>,
}

/// All values of a build, ready to be searched for.
#[derive(Default)]
pub struct Secrets {
    secrets: Vec<Named>,
    patterns: Vec<(usize, Form)>,
    automaton: Option<AhoCorasick>,
    longest: usize,
    /// Every pattern, to know whether a piece of output may be the beginning of one.
    texts: Vec<Vec<u8>>,
}

struct Named {
    name: String,
    description: String,
    is_searched: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The secret's name.
    pub name: String,
    /// `the value of secret npm (as base64)`.
    pub description: String,
}

impl std::fmt::Debug for Secrets {
    /// Without the patterns: they are the secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.secrets.iter().map(|secret| &secret.name)).finish()
    }
}

impl Secrets {
    /// Prepares the search for `secrets`; those whose names are `allowed` may be anywhere.
    pub fn new(secrets: impl IntoIterator<Item = Secret>, allowed: &[String]) -> Self {
        let mut all = Self::default();
        for Secret { name, description, value } in secrets {
            if allowed.contains(&name) {
                continue;
            }
            let forms = forms::forms(&value);
            all.secrets.push(Named { name, description, is_searched: forms.is_some() });
            for (form, pattern) in forms.into_iter().flatten() {
                if !all.texts.contains(&pattern) {
                    all.patterns.push((all.secrets.len() - 1, form));
                    all.longest = all.longest.max(pattern.len());
                    all.texts.push(pattern);
                }
            }
        }
        let builder = |texts: &[Vec<u8>]| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        all.automaton = (!all.texts.is_empty()).then(|| builder(&all.texts).expect("some hundred short patterns"));
        all
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }

    /// The names of all that is searched for.
    pub fn names(&self) -> BTreeSet<String> {
        self.secrets.iter().filter(|secret| secret.is_searched).map(|secret| secret.name.clone()).collect()
    }

    /// The names of those that are too short to be searched for.
    pub fn too_short(&self) -> Vec<&str> {
        self.secrets.iter().filter(|secret| !secret.is_searched).map(|secret| secret.name.as_str()).collect()
    }

    /// The first find in `bytes`.
    pub fn find(&self, bytes: &[u8]) -> Option<Found> {
        let found = self.automaton.as_ref()?.find(bytes)?;
        Some(self.found(found.pattern().as_usize()))
    }

    /// Where the first find in a text is.
    pub fn place_in(&self, text: &str) -> Option<std::ops::Range<usize>> {
        self.automaton.as_ref()?.find(text).map(|found| found.range())
    }

    fn found(&self, pattern: usize) -> Found {
        let (index, form) = self.patterns[pattern];
        let secret = &self.secrets[index];
        Found { name: secret.name.clone(), description: format!("{}{}", secret.description, form.describe()) }
    }

    /// A search of bytes that come in pieces.
    pub fn search(&self) -> Search<'_> {
        Search { secrets: self, tail: Vec::new(), found: None }
    }

    /// The text with `***` for every find, and with URLs as people may see them.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.automaton {
            Some(automaton) if automaton.is_match(text) => {
                let mut masked = String::with_capacity(text.len());
                automaton.replace_all_with(text, &mut masked, |_, _, masked| {
                    masked.push_str(mask::MASK);
                    true
                });
                redact_url(&masked).into_owned().into()
            }
            _ => redact_url(text),
        }
    }

    /// The text with a `*` for each byte of a find: places in it stay where they are.
    pub fn blot(&self, text: &str) -> String {
        let Some(automaton) = &self.automaton else { return text.to_owned() };
        let mut masked = String::with_capacity(text.len());
        automaton.replace_all_with(text, &mut masked, |found, _, masked| {
            masked.push_str(&"*".repeat(found.len()));
            true
        });
        masked
    }

    /// The error for a find: `what` holds it.
    pub fn refusal(found: &Found, what: &str) -> BuildError {
        BuildError::new(Kind::Secret, format!("{what} holds {}", found.description)).with_hint(format!(
            "nothing was exported. Use it through RUN --mount=type=secret and write nothing of it; if it is no secret, or belongs there: --allow secret.{}",
            found.name
        ))
    }
}

/// A search under way.
pub struct Search<'a> {
    secrets: &'a Secrets,
    /// The end of what has passed: a find may begin there.
    tail: Vec<u8>,
    found: Option<Found>,
}

impl Search<'_> {
    /// Takes the next piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.found.is_some() || self.secrets.is_empty() {
            return;
        }
        let overlap = self.secrets.longest - 1;
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(&bytes[..bytes.len().min(overlap)]);
            self.found = self.secrets.find(&self.tail);
        }
        self.found = self.found.take().or_else(|| self.secrets.find(bytes));
        if bytes.len() >= overlap {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - overlap..]);
        } else if self.tail.is_empty() {
            self.tail.extend_from_slice(bytes);
        } else {
            // The piece is in the tail already.
            let excess = self.tail.len().saturating_sub(overlap);
            self.tail.drain(..excess);
        }
    }

    /// The first find so far.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }
}

/// Searches what is written through it.
pub struct Searching<'a, W> {
    inner: W,
    search: Search<'a>,
}

impl<'a, W> Searching<'a, W> {
    /// Searches for `secrets` on the way to `inner`.
    pub fn new(inner: W, secrets: &'a Secrets) -> Self {
        Self { inner, search: secrets.search() }
    }

    /// What was written to, and the first find.
    pub fn finish(self) -> (W, Option<Found>) {
        (self.inner, self.search.found)
    }
}

impl<W: std::io::Write> std::io::Write for Searching<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.search.feed(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn secret(name: &str, value: &str) -> Secret {
        Secret { name: name.to_owned(), description: format!("the value of secret {name}"), value: value.as_bytes().to_vec() }
    }

    #[test]
    fn a_value_is_found_however_it_is_cut() {
        let secrets = Secrets::new([secret("a", "first-secret-value"), secret("b", "another-one-2222")], &[]);
        let text = [vec![b'.'; 1000], b"another-one-2222".to_vec(), vec![b'.'; 1000]].concat();
        for size in [1, 2, 7, 16, 100, 1008, 5000] {
            let mut search = secrets.search();
            text.chunks(size).for_each(|piece| search.feed(piece));
            assert_eq!(search.found().map(|found| found.name.as_str()), Some("b"), "pieces of {size}");
        }
        let mut search = secrets.search();
        text.chunks(7).filter(|piece| !piece.contains(&b'o')).for_each(|piece| search.feed(piece));
        assert_eq!(search.found(), None);
    }

    #[test]
    fn names_tell_what_is_searched_and_what_is_not() {
        let secrets =
            Secrets::new([secret("a", "first-secret-value"), secret("b", "short"), secret("c", "allowed-to-leave")], &["c".into()]);
        assert_eq!(secrets.names().into_iter().collect::<Vec<_>>(), ["a"]);
        assert_eq!(secrets.too_short(), ["b"]);
        assert_eq!(secrets.find(b"allowed-to-leave"), None);
        assert!(!format!("{secrets:?}").contains("first"));
    }

    #[test]
    fn masks_take_values_out_of_text() {
        let secrets = Secrets::new([secret("a", "first-secret-value")], &[]);
        assert_eq!(secrets.mask("x first-secret-value http://u:p@h/ y"), "x *** http://u:xxxxx@h/ y");
        assert_eq!(secrets.blot("x first-secret-value y"), "x ****************** y");
        assert_eq!(secrets.mask("nothing http://u:p@h/"), "nothing http://u:xxxxx@h/");
    }
}
