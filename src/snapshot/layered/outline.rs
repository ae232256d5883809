//! An outline: an index made small enough to travel in front of its layer, so that a store that has never seen the layer
//! can copy onto it without fetching it.
//!
//! | In full | as a hash of where it is | not at all |
//! |---|---|---|
//! | directories, links, devices, whiteouts; `/etc/passwd` and `/etc/group` | regular files: which directory, which name | sizes, owners, modes, digests of files |
//!
//! Copies mostly ask for directories and for names that are not there. That a name's hash is missing proves that there is
//! no such file; that it is there says "a regular file, or nothing". Either may be replaced by what is no directory, and
//! then all that is left to know is whether it is replaced by the very same: never, if no file of the layer was changed at
//! the new one's time, and those times are here too. Whatever else is asked ([`LayerIndex::lacks_files`]) needs the layer, and
//! is asked again of its whole index.
//!
//! Of the 16,500 files, 2,900 directories and 600 links of a Debian's `/usr` the hashes take 23 kB, the rest 12 kB; the
//! names of the files in full would take 52 kB, their metadata another 38 and their digests 528.
//!
//! Nothing here can be verified without the layer: an outline is as good as the word of who made it.

use std::{collections::BTreeSet, io, sync::OnceLock};

use super::{
    index::{IndexedDirectory, LayerIndex, Node, needs_files},
    metadata::Kind,
};
use crate::oci::tar::Timestamp;

/// One in so many names that are not there is taken for one that may be.
pub(super) const ODDS: u64 = 1 << 10;

/// Times beyond this many are told by the spans that they are in.
const MOST_SPANS: usize = 256;

/// The files of a layer that an outline does not list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unlisted {
    /// Of directory and name, each below [`Unlisted::range`]; sorted.
    pub hashes: Vec<u64>,
    /// When they were changed, in whole seconds: first and last of each span, sorted.
    pub spans: Vec<(i64, i64)>,
    /// Whether a time has a fraction.
    pub has_fractions: bool,
    /// Set once something was asked that the outline can't answer.
    pub lacked: OnceLock<()>,
}

impl Unlisted {
    /// What hashes are below.
    pub fn range(count: u64) -> u64 {
        count.saturating_mul(ODDS)
    }

    fn new(names: &[(u32, &[u8])], times: &[Timestamp]) -> Self {
        let range = Self::range(names.len() as u64);
        let mut hashes: Vec<u64> = names.iter().map(|(directory, name)| hash(*directory, name, range)).collect();
        hashes.sort_unstable();
        let has_fractions = times.iter().any(|time| time.nanoseconds != 0);
        let seconds = times.iter().map(|time| time.seconds).collect();
        Self { hashes, spans: spans(&seconds), has_fractions, lacked: OnceLock::new() }
    }

    fn may_hold(&self, directory: u32, name: &[u8]) -> bool {
        self.hashes.binary_search(&hash(directory, name, Self::range(self.hashes.len() as u64))).is_ok()
    }

    fn may_have_time(&self, time: Timestamp) -> bool {
        let after = self.spans.partition_point(|(first, _)| *first <= time.seconds);
        let is_within = after.checked_sub(1).is_some_and(|span| time.seconds <= self.spans[span].1);
        is_within && (time.nanoseconds == 0 || self.has_fractions)
    }
}

fn hash(directory: u32, name: &[u8], range: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&directory.to_le_bytes()).update(name);
    let first = hasher.finalize().as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u128::from(*byte));
    // The high half of a product is as evenly spread as the factor.
    ((first * u128::from(range)) >> 64) as u64
}

/// Spans that hold all of the times, and as little else as so few of them can.
fn spans(seconds: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let gap = |pair: &[(i64, i64)]| pair[1].0.saturating_sub(pair[0].1);
    let mut spans: Vec<(i64, i64)> = seconds.iter().map(|second| (*second, *second)).collect();
    if spans.len() > MOST_SPANS {
        let mut gaps: Vec<i64> = spans.windows(2).map(gap).collect();
        gaps.sort_unstable();
        let bridged = gaps[gaps.len() - MOST_SPANS];
        spans = spans.into_iter().fold(Vec::new(), |mut merged: Vec<(i64, i64)>, span| {
            match merged.last_mut() {
                Some(last) if gap(&[*last, span]) <= bridged => last.1 = span.1,
                _ => merged.push(span),
            }
            merged
        });
    }
    spans
}

impl Node {
    /// Whether an outline leaves it out: a file of which nothing is kept.
    fn is_unlisted(&self) -> bool {
        self.kind == Kind::File && self.device.is_none() && self.content.is_none()
    }
}

impl LayerIndex {
    /// The index without its files; None of one that makes no sense.
    #[must_use]
    pub fn outline(&self) -> Option<Self> {
        let most = 1 + self.nodes.iter().map(|node| node.children.len()).sum::<usize>();
        let alone = |node: &Node| Node { children: Default::default(), links: 1, ..node.clone() };
        let (mut nodes, mut origins) = (vec![alone(self.nodes.first()?)], vec![0]);
        let (mut names, mut times) = (Vec::new(), Vec::new());
        let mut at = 0;
        // Level by level, as the numbers of directories, which are in the hashes, are given again when it is read.
        while at < nodes.len() {
            for (name, number) in &self.nodes[origins[at] as usize].children {
                let node = self.nodes.get(*number as usize).filter(|_| nodes.len() <= most)?;
                if node.is_unlisted() {
                    names.push((at as u32, name.as_slice()));
                    times.push(node.modified);
                    nodes[at].has_unlisted = true;
                } else {
                    let made = nodes.len() as u32;
                    nodes[at].children.insert(name.clone(), made);
                    nodes.push(alone(node));
                    origins.push(*number);
                }
            }
            at += 1;
        }
        Some(Self { nodes, unlisted: Some(Unlisted::new(&names, &times)) })
    }

    /// Whether files are not listed.
    #[must_use]
    pub fn is_outline(&self) -> bool {
        self.unlisted.is_some()
    }

    /// Whether something was asked that only the files of the layer can tell.
    #[must_use]
    pub fn lacks_files(&self) -> bool {
        self.unlisted.as_ref().is_some_and(|unlisted| unlisted.lacked.get().is_some())
    }

    /// The error of a question that is not answered here.
    pub(super) fn lacking(&self) -> io::Error {
        if let Some(unlisted) = &self.unlisted {
            let _ = unlisted.lacked.set(());
        }
        needs_files()
    }
}

impl IndexedDirectory {
    /// Whether a name that is not listed may be a regular file's.
    pub(super) fn may_hold(&self, name: &[u8]) -> bool {
        let (here, unlisted) = (self.here(), self.index().unlisted.as_ref());
        here.has_unlisted && !here.children.contains_key(name) && unlisted.is_some_and(|unlisted| unlisted.may_hold(self.number(), name))
    }

    /// Whether a file of the layer may have been changed at that time.
    pub(super) fn may_have_time(&self, time: Timestamp) -> bool {
        self.index().unlisted.as_ref().is_some_and(|unlisted| unlisted.may_have_time(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_many_are_told_by_spans() {
        let few: BTreeSet<i64> = [5, -3, 9].into();
        assert_eq!(spans(&few), [(-3, -3), (5, 5), (9, 9)]);
        let many: BTreeSet<i64> = (0..2000).map(|number| number * 10 + i64::from(number % 100 == 0)).collect();
        let found = spans(&many);
        assert!(!found.is_empty() && found.len() <= MOST_SPANS, "{}", found.len());
        assert!(many.iter().all(|second| found.iter().any(|(first, last)| (first..=last).contains(&second))));
        assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn a_time_is_known_to_be_nobodys() {
        let at = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        let names: [(u32, &[u8]); 2] = [(0, b"a"), (0, b"b")];
        let whole = Unlisted::new(&names, &[at(7, 0), at(100, 0)]);
        assert!(whole.may_have_time(at(7, 0)) && whole.may_have_time(at(100, 0)));
        assert!(!whole.may_have_time(at(6, 0)) && !whole.may_have_time(at(8, 0)) && !whole.may_have_time(at(7, 1)));
        assert!(!whole.may_have_time(at(101, 0)));
        assert!(Unlisted::new(&names, &[at(7, 3), at(7, 0)]).may_have_time(at(7, 1)));
    }

    #[test]
    fn no_file_is_overlooked_and_few_others_are_taken_for_one() {
        let texts: Vec<String> = (0..3000).map(|number| format!("file-{number}")).collect();
        let names: Vec<(u32, &[u8])> = texts.iter().enumerate().map(|(at, name)| (at as u32 % 7, name.as_bytes())).collect();
        let unlisted = Unlisted::new(&names, &[]);
        assert!(names.iter().all(|(directory, name)| unlisted.may_hold(*directory, name)));
        let taken = (0..100_000).filter(|number| unlisted.may_hold(3, format!("other-{number}").as_bytes())).count();
        assert!((10..1000).contains(&taken), "{taken} of 100,000");
    }
}
