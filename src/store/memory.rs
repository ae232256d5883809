//! What tags pointed at when they were last asked, so that a build needs no network to begin.
//! Unaware of when a memory is too old: the caller has a policy.

use rusqlite::{OptionalExtension, params};

use super::{Store, error::Result};
use crate::oci::{Descriptor, Reference};

/// What a reference stood for, and when that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// When the registry said so, in seconds since 1970.
    pub at_unix: u64,
}

impl Store {
    /// Remembers what a registry answered.
    pub fn remember(&self, reference: &Reference, descriptor: &Descriptor, at_unix: u64) -> Result<()> {
        let text = serde_json::to_string(descriptor).expect("a descriptor has only string keys");
        self.0.database.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO remembered VALUES (?1, ?2, ?3)")?;
            insert.execute(params![reference.to_string(), text, at_unix as i64]).map(drop)
        })
    }

    /// What a registry answered last time; the blobs may be gone.
    pub fn remembered(&self, reference: &Reference) -> Result<Option<Remembered>> {
        let row = self.0.database.read(|connection| {
            let mut select = connection.prepare_cached("SELECT descriptor, at FROM remembered WHERE reference = ?1")?;
            select.query_row([reference.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).optional()
        })?;
        Ok(row.and_then(|(text, at)| Some(Remembered { descriptor: serde_json::from_str(&text).ok()?, at_unix: at as u64 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    #[test]
    fn the_newest_answer_is_remembered() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let reference: Reference = "alpine".parse().unwrap();
        assert_eq!(store.remembered(&reference).unwrap(), None);
        for (text, at_unix) in [("one", 1), ("two", 2)] {
            let descriptor = Descriptor::new(media_type::OCI_INDEX, Digest::of(text.as_bytes()), 3);
            store.remember(&reference, &descriptor, at_unix).unwrap();
            assert_eq!(store.remembered(&reference).unwrap(), Some(Remembered { descriptor, at_unix }));
        }
    }
}
