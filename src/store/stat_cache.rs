//! Digests of files that have not changed since: one file per scope, read and written whole, as git keeps its index.
//! 50,000 entries are 3.6 MB. Unaware of the racy window: the caller leaves out what is too young to be believed.

use std::{fs, io, path::PathBuf};

use super::{
    Store,
    error::{IoContext, Result},
};
use crate::sys::stat_key::StatKey;

/// A file's state and the digest its bytes had then.
pub type StatRow = (StatKey, [u8; 32]);

const MAGIC: &[u8; 16] = b"rbuild-stat-v1\n\0";
const ROW_LENGTH: usize = 5 * 8 + 32;
const CHECK_LENGTH: usize = 32;

impl Store {
    /// What was saved for a scope (a context's directory, in the caller's words). A file that is missing, torn or of
    /// another version is an empty one.
    pub fn stat_cache(&self, scope: &str) -> Result<Vec<StatRow>> {
        let path = self.stat_cache_path(scope);
        match fs::read(&path) {
            Ok(bytes) => Ok(decode(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).at("read", path),
        }
    }

    /// Replaces what is saved for a scope.
    pub fn save_stat_cache(&self, scope: &str, rows: &[StatRow]) -> Result<()> {
        self.replace(&self.stat_cache_path(scope), &encode(rows))
    }

    fn stat_cache_path(&self, scope: &str) -> PathBuf {
        self.path("stat-cache").join(blake3::hash(scope.as_bytes()).to_hex().as_str())
    }
}

fn encode(rows: &[StatRow]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + rows.len() * ROW_LENGTH + CHECK_LENGTH);
    bytes.extend_from_slice(MAGIC);
    for (key, digest) in rows {
        bytes.extend_from_slice(&key.device.to_le_bytes());
        bytes.extend_from_slice(&key.inode.to_le_bytes());
        bytes.extend_from_slice(&key.size.to_le_bytes());
        bytes.extend_from_slice(&key.mtime_ns.to_le_bytes());
        bytes.extend_from_slice(&key.ctime_ns.to_le_bytes());
        bytes.extend_from_slice(digest);
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<StatRow>> {
    let (content, check) = bytes.split_last_chunk::<CHECK_LENGTH>()?;
    let rows = content.strip_prefix(MAGIC)?;
    if !rows.len().is_multiple_of(ROW_LENGTH) || blake3::hash(content).as_bytes() != check {
        return None;
    }
    Some(rows.chunks_exact(ROW_LENGTH).map(decode_row).collect())
}

fn decode_row(row: &[u8]) -> StatRow {
    let word = |index: usize| -> [u8; 8] { row[index * 8..][..8].try_into().expect("eight bytes") };
    let key = StatKey {
        device: u64::from_le_bytes(word(0)),
        inode: u64::from_le_bytes(word(1)),
        size: u64::from_le_bytes(word(2)),
        mtime_ns: i64::from_le_bytes(word(3)),
        ctime_ns: i64::from_le_bytes(word(4)),
    };
    (key, row[40..].try_into().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> StatRow {
        let digest = *blake3::hash(&number.to_le_bytes()).as_bytes();
        (StatKey { device: 1, inode: number, size: number * 3, mtime_ns: -5, ctime_ns: i64::MAX }, digest)
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let rows: Vec<_> = (0..50_000).map(row).collect();
        assert_eq!(store.stat_cache("context").unwrap(), []);
        store.save_stat_cache("context", &rows).unwrap();
        assert_eq!(store.stat_cache("context").unwrap(), rows);
        assert_eq!(store.stat_cache("other").unwrap(), []);
        store.save_stat_cache("context", &rows[..1]).unwrap();
        assert_eq!(store.stat_cache("context").unwrap(), rows[..1]);
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let whole = encode(&[row(1), row(2)]);
        assert!(decode(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None, "cut at {length}");
        }
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 1;
            assert_eq!(decode(&flipped), None, "flipped at {position}");
        }
    }
}
