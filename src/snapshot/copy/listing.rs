//! What a content digest was made of, entry by entry: kept beside a step's record so that a later build can name the
//! file that made the difference. Unaware of where it is kept.

use std::{collections::BTreeMap, io};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub path: Vec<u8>,
    /// Its type: `f`, `d`, `l`, ..
    pub letter: u8,
    pub mode: u32,
    /// Half of the BLAKE3 digest of its bytes; zeroes when it has none.
    pub content: [u8; 16],
    /// The same of everything else that counts.
    pub fields: [u8; 16],
}

/// All entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(Vec<Listed>);

/// How an entry differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileChange {
    /// Its path below the source's root.
    pub path: String,
    /// The sentence: what it was and what it is.
    pub change: String,
}

/// Longer listings are not kept: reading them would take longer than the answer is worth.
const MAX_ENTRIES: usize = 500_000;

impl Listing {
    pub(super) fn push(&mut self, entry: Listed) {
        self.0.push(entry);
    }

    /// Whether there is anything to keep.
    pub fn is_kept(&self) -> bool {
        (1..=MAX_ENTRIES).contains(&self.0.len())
    }

    /// The form it is kept in: compressed, as digests and paths one after the other.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        for entry in &self.0 {
            plain.extend((entry.path.len() as u32).to_le_bytes());
            plain.extend(&entry.path);
            plain.push(entry.letter);
            plain.extend(entry.mode.to_le_bytes());
            plain.extend(entry.content);
            plain.extend(entry.fields);
        }
        zstd::bulk::compress(&plain, 1)
    }

    /// Reads that form; None when it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let plain = zstd::stream::decode_all(bytes).ok()?;
        let mut rest = plain.as_slice();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (path, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let (letter, after) = after.split_first()?;
            let (mode, after) = after.split_first_chunk::<4>()?;
            let (content, after) = after.split_first_chunk::<16>()?;
            let (fields, after) = after.split_first_chunk::<16>()?;
            entries.push(Listed {
                path: path.to_vec(),
                letter: *letter,
                mode: u32::from_le_bytes(*mode),
                content: *content,
                fields: *fields,
            });
            rest = after;
        }
        Some(Self(entries))
    }

    /// What is other than it was in `earlier`, by path.
    pub fn changes_since(&self, earlier: &Self) -> Vec<FileChange> {
        let by_path = |listing: &'_ Self| -> BTreeMap<Vec<u8>, Listed> {
            listing.0.iter().map(|entry| (entry.path.clone(), entry.clone())).collect()
        };
        let (before, now) = (by_path(earlier), by_path(self));
        let mut paths: Vec<&Vec<u8>> = before.keys().chain(now.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        let change = |path: &Vec<u8>| {
            let change = difference(before.get(path), now.get(path))?;
            Some(FileChange { path: String::from_utf8_lossy(path).into_owned(), change })
        };
        paths.into_iter().filter_map(change).collect()
    }
}

fn difference(before: Option<&Listed>, now: Option<&Listed>) -> Option<String> {
    let hex = |bytes: &[u8; 16]| bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (before, now) {
        (None, Some(now)) if now.letter == b'f' => Some(format!("is new ({})", hex(&now.content))),
        (None, Some(_)) => Some("is new".to_owned()),
        (Some(_), None) => Some("is gone".to_owned()),
        (Some(before), Some(now)) if before.letter != now.letter => {
            Some(format!("is another type ({} -> {})", char::from(before.letter), char::from(now.letter)))
        }
        (Some(before), Some(now)) if before.content != now.content => Some(format!("{} -> {}", hex(&before.content), hex(&now.content))),
        (Some(before), Some(now)) if before.mode != now.mode => Some(format!("mode {:o} -> {:o}", before.mode & 0o7777, now.mode & 0o7777)),
        (Some(before), Some(now)) if before.fields != now.fields => Some("owner, size, link or attributes changed".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: u8, mode: u32) -> Listed {
        Listed { path: path.into(), letter: b'f', mode, content: [content; 16], fields: [0; 16] }
    }

    #[test]
    fn one_change_among_many_is_named() {
        let names: Vec<String> = (0..10_000).map(|number| format!("src/file {number:05}")).collect();
        let before = Listing(names.iter().map(|name| entry(name, 1, 0o644)).collect());
        let mut after = before.clone();
        after.0[4711].content = [2; 16];
        after.0[17].mode = 0o755;
        after.0.push(entry("zz\n", 3, 0o644));
        let kept = Listing::from_bytes(&before.to_bytes().unwrap()).unwrap();
        assert_eq!(kept, before);
        let changes: Vec<_> = after.changes_since(&kept).into_iter().map(|found| format!("{}: {}", found.path, found.change)).collect();
        assert_eq!(
            changes,
            ["src/file 00017: mode 644 -> 755", "src/file 04711: 010101010101 -> 020202020202", "zz\n: is new (030303030303)"]
        );
        assert_eq!(before.changes_since(&after).len(), 3);
        assert_eq!(Listing::from_bytes(b"damaged"), None);
    }
}
