//! Takes secrets out of a stream of output. Unaware of where it goes.

use super::{Found, Secrets};

/// What stands in place of a secret.
pub(super) const MASK: &str = "***";

/// One stream. What may be the beginning of a secret is held back until more comes.
pub struct Masker<'a> {
    secrets: &'a Secrets,
    held: Vec<u8>,
    found: Option<Found>,
}

impl<'a> Masker<'a> {
    /// Nothing has come yet.
    pub fn new(secrets: &'a Secrets) -> Self {
        Self { secrets, held: Vec::new(), found: None }
    }

    /// Takes a piece and gives `show` what may be seen.
    pub fn feed(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8])) {
        let Some(automaton) = &self.secrets.automaton else { return show(bytes) };
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            joined = [&std::mem::take(&mut self.held), bytes].concat();
            &joined
        };
        let mut shown = 0;
        for found in automaton.find_iter(bytes) {
            show_some(&bytes[shown..found.start()], &mut show);
            show(MASK.as_bytes());
            shown = found.end();
            self.found.get_or_insert_with(|| self.secrets.found(found.pattern().as_usize()));
        }
        let rest = &bytes[shown..];
        let held = self.secrets.beginning_at_end(rest);
        show_some(&rest[..rest.len() - held], &mut show);
        self.held = rest[rest.len() - held..].to_vec();
    }

    /// Shows what was held back; gives the first find.
    pub fn finish(self, mut show: impl FnMut(&[u8])) -> Option<Found> {
        show_some(&self.held, &mut show);
        self.found
    }
}

fn show_some(bytes: &[u8], show: &mut impl FnMut(&[u8])) {
    if !bytes.is_empty() {
        show(bytes);
    }
}

impl Secrets {
    /// How many bytes at the end may be the beginning of a secret.
    fn beginning_at_end(&self, bytes: &[u8]) -> usize {
        let most = bytes.len().min(self.longest.saturating_sub(1));
        let begins = |length: &usize| {
            let end = &bytes[bytes.len() - length..];
            self.texts.iter().any(|text| text.len() > *length && text[0] == end[0] && text.starts_with(end))
        };
        (1..=most).rev().find(begins).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Secrets, tests::secret};
    use super::*;

    #[test]
    fn output_is_masked_however_it_is_cut_and_nothing_else_is_lost() {
        let secrets = Secrets::new([secret("a", "first-secret-value"), secret("b", "value-that-follows")], &[]);
        let text = b"firs first-secret-value first-secret-first-secret-valuevalue-that-followsfirst-secret";
        for size in 1..text.len() {
            let mut shown = Vec::new();
            let mut masker = Masker::new(&secrets);
            text.chunks(size).for_each(|piece| masker.feed(piece, |bytes| shown.extend_from_slice(bytes)));
            let found = masker.finish(|bytes| shown.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8(shown).unwrap(), "firs *** first-secret-******first-secret", "pieces of {size}");
            assert_eq!(found.name, "a");
        }
    }

    #[test]
    fn a_prompt_is_not_held_back() {
        let secrets = Secrets::new([secret("a", "first-secret-value")], &[]);
        let mut shown = Vec::new();
        Masker::new(&secrets).feed(b"password? ", |bytes| shown.extend_from_slice(bytes));
        assert_eq!(shown, b"password? ");
    }
}
