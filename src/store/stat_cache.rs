//! Digests of files that have not changed since: one file per scope, read and written whole, as git keeps its index.
//! 50,000 entries are 3.6 MB. Unaware of the racy window: whoever records leaves out what is too young to be believed.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{Store, error::Result};
use crate::sys::stat_cache::{FileDigest, StatCache, StatKey};

const MAGIC: &[u8; 16] = b"rbuild-stat-v1\n\0";
const ROW_LENGTH: usize = 5 * 8 + 32;
const CHECK_LENGTH: usize = 32;

/// Entries of files that this run did not ask for stay up to this number: another Dockerfile may use the same context.
const MAX_UNSEEN: usize = 100_000;

/// The remembered digests of one scope; read at the first question, written when it is dropped if there is news.
#[derive(Debug)]
pub struct StoredStatCache {
    store: Store,
    path: PathBuf,
    known: OnceLock<HashMap<(u64, u64), (StatKey, FileDigest)>>,
    news: Mutex<HashMap<(u64, u64), (StatKey, FileDigest)>>,
}

impl Store {
    /// The stat cache of a scope: a context's directory, in the caller's words. A file that is missing, torn or of
    /// another version is an empty one.
    pub fn stat_cache(&self, scope: &str) -> StoredStatCache {
        let path = self.path("stat-cache").join(blake3::hash(scope.as_bytes()).to_hex().as_str());
        StoredStatCache { store: self.clone(), path, known: OnceLock::new(), news: Mutex::default() }
    }
}

impl StoredStatCache {
    /// Writes the news; done by itself when dropped.
    pub fn save(&self) -> Result<()> {
        let mut news = std::mem::take(&mut *self.news());
        if news.is_empty() {
            return Ok(());
        }
        let unseen = self.known().iter().filter(|(id, _)| !news.contains_key(id)).take(MAX_UNSEEN);
        let unseen: Vec<_> = unseen.map(|(id, entry)| (*id, *entry)).collect();
        news.extend(unseen);
        self.store.replace(&self.path, &encode(news.into_values()))
    }

    fn known(&self) -> &HashMap<(u64, u64), (StatKey, FileDigest)> {
        self.known.get_or_init(|| {
            // What can't be read is a cache that knows nothing.
            let rows = fs::read(&self.path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
            rows.into_iter().map(|(key, digest)| ((key.device, key.inode), (key, digest))).collect()
        })
    }

    fn news(&self) -> MutexGuard<'_, HashMap<(u64, u64), (StatKey, FileDigest)>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatCache for StoredStatCache {
    fn lookup(&self, keys: &[StatKey]) -> Vec<Option<FileDigest>> {
        let known = self.known();
        let news = self.news();
        let find = |key: &StatKey| {
            let id = (key.device, key.inode);
            let (found, digest) = news.get(&id).or_else(|| known.get(&id))?;
            (found == key).then_some(*digest)
        };
        keys.iter().map(find).collect()
    }

    fn record(&self, entries: &[(StatKey, FileDigest)]) {
        self.news().extend(entries.iter().map(|(key, digest)| ((key.device, key.inode), (*key, *digest))));
    }
}

impl Drop for StoredStatCache {
    fn drop(&mut self) {
        // News that can't be written are found out again.
        let _ = self.save();
    }
}

fn encode(rows: impl ExactSizeIterator<Item = (StatKey, FileDigest)>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + rows.len() * ROW_LENGTH + CHECK_LENGTH);
    bytes.extend_from_slice(MAGIC);
    for (key, digest) in rows {
        bytes.extend_from_slice(&key.device.to_le_bytes());
        bytes.extend_from_slice(&key.inode.to_le_bytes());
        bytes.extend_from_slice(&key.size.to_le_bytes());
        bytes.extend_from_slice(&key.mtime_ns.to_le_bytes());
        bytes.extend_from_slice(&key.ctime_ns.to_le_bytes());
        bytes.extend_from_slice(&digest.0);
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<(StatKey, FileDigest)>> {
    let (content, check) = bytes.split_last_chunk::<CHECK_LENGTH>()?;
    let rows = content.strip_prefix(MAGIC)?;
    if !rows.len().is_multiple_of(ROW_LENGTH) || blake3::hash(content).as_bytes() != check {
        return None;
    }
    Some(rows.chunks_exact(ROW_LENGTH).map(decode_row).collect())
}

fn decode_row(row: &[u8]) -> (StatKey, FileDigest) {
    let word = |index: usize| -> [u8; 8] { row[index * 8..][..8].try_into().expect("eight bytes") };
    let key = StatKey {
        device: u64::from_le_bytes(word(0)),
        inode: u64::from_le_bytes(word(1)),
        size: u64::from_le_bytes(word(2)),
        mtime_ns: i64::from_le_bytes(word(3)),
        ctime_ns: i64::from_le_bytes(word(4)),
    };
    (key, FileDigest(row[40..].try_into().expect("32 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> (StatKey, FileDigest) {
        let digest = *blake3::hash(&number.to_le_bytes()).as_bytes();
        (StatKey { device: 1, inode: number, size: number * 3, mtime_ns: -5, ctime_ns: i64::MAX }, FileDigest(digest))
    }

    #[test]
    fn only_the_very_same_file_is_known_to_the_next_process() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let rows: Vec<_> = (0..50_000).map(row).collect();
        let keys: Vec<_> = rows.iter().map(|(key, _)| *key).collect();
        store.stat_cache("context").record(&rows);
        let cache = store.stat_cache("context");
        assert!(cache.lookup(&keys).iter().zip(&rows).all(|(found, (_, digest))| *found == Some(*digest)));
        assert_eq!(store.stat_cache("other").lookup(&keys[..1]), [None]);
        let changed = [
            StatKey { size: 1, ..keys[7] },
            StatKey { mtime_ns: 1, ..keys[7] },
            StatKey { ctime_ns: 1, ..keys[7] },
            StatKey { device: 2, ..keys[7] },
            StatKey { inode: 90_000, ..keys[7] },
        ];
        assert_eq!(cache.lookup(&changed), [None; 5]);
        cache.record(&[(changed[0], FileDigest([9; 32]))]);
        assert_eq!(cache.lookup(&[keys[7], changed[0]]), [None, Some(FileDigest([9; 32]))]);
        drop(cache);
        assert_eq!(store.stat_cache("context").lookup(&[keys[7], changed[0], keys[8]]), [None, Some(FileDigest([9; 32])), Some(rows[8].1)]);
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let whole = encode(vec![row(1), row(2)].into_iter());
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
