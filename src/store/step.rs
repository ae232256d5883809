//! The step cache and the facts that explain its misses. What a record says is never trusted: the blobs it names are
//! looked for when it is used. Unaware of how keys come about.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use rusqlite::{OptionalExtension, params};

use super::{Store, error::Result, now_unix};
use crate::oci::Digest;

/// What a step gave when it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// The builder's own account of the result, as JSON.
    pub payload: String,
    /// The blobs that the result consists of; they may be gone.
    pub blobs: Vec<Digest>,
    /// When it was recorded, in seconds since 1970.
    pub created_unix: u64,
    /// When it was last looked up.
    pub used_unix: u64,
}

/// What is to be remembered under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStep {
    /// The key.
    pub key: String,
    /// The builder's own account of the result, as JSON.
    pub payload: String,
    /// The blobs that the result consists of.
    pub blobs: Vec<Digest>,
}

/// What a step's key was made of in some earlier build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactsRecord {
    /// Which step of which Dockerfile, in the builder's words.
    pub step: String,
    /// The key that the facts gave.
    pub key: String,
    /// The facts, as JSON.
    pub facts: String,
    /// When, in seconds since 1970.
    pub recorded_unix: u64,
}

/// Within a minute nothing would change the order in which things are thrown away, so the time of use isn't written anew.
const USES_WITHIN: i64 = 60;

/// As many earlier builds of one step are remembered to compare with.
const FACTS_PER_STEP: u32 = 8;

/// Keys that were looked up but whose time of use isn't written yet: one transaction at the end, not one each.
#[derive(Debug, Default)]
pub(super) struct UsedSteps(Mutex<BTreeSet<String>>);

impl Store {
    /// What a step gave, if it is remembered.
    pub fn step(&self, key: &str) -> Result<Option<StepRecord>> {
        let record = self.0.database.read(|connection| {
            let mut select = connection.prepare_cached("SELECT payload, created, used FROM steps WHERE key = ?1")?;
            let row = select.query_row([key], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))).optional()?;
            let Some((payload, created, used)) = row else { return Ok(None) };
            let mut select = connection.prepare_cached("SELECT digest FROM step_blobs WHERE key = ?1 ORDER BY digest")?;
            let texts = select.query_map([key], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
            let blobs = texts.iter().filter_map(|text| text.parse().ok()).collect();
            Ok(Some(StepRecord { payload, blobs, created_unix: created as u64, used_unix: used as u64 }))
        })?;
        if record.as_ref().is_some_and(|record| (record.used_unix as i64) < now_unix() as i64 - USES_WITHIN) {
            self.0.used.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        }
        Ok(record)
    }

    /// Remembers what a step gave; a step recorded before is recorded anew.
    pub fn record_step(&self, key: &str, payload: &str, blobs: &[Digest]) -> Result<()> {
        self.record_steps(&[NewStep { key: key.to_owned(), payload: payload.to_owned(), blobs: blobs.to_vec() }])
    }

    /// The same for many, all or none.
    pub fn record_steps(&self, steps: &[NewStep]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let now = now_unix() as i64;
        self.0.database.write(|transaction| {
            let mut step = transaction.prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?3)")?;
            let mut clear = transaction.prepare_cached("DELETE FROM step_blobs WHERE key = ?1")?;
            let mut blob = transaction.prepare_cached("INSERT OR IGNORE INTO step_blobs VALUES (?1, ?2)")?;
            for NewStep { key, payload, blobs } in steps {
                step.execute(params![key, payload, now])?;
                clear.execute([key])?;
                blobs.iter().try_for_each(|digest| blob.execute(params![key, digest.as_str()]).map(drop))?;
            }
            Ok(())
        })
    }

    /// Forgets a step, for instance because its blobs turned out to be gone.
    pub fn forget_step(&self, key: &str) -> Result<()> {
        self.0.database.write(|transaction| {
            transaction.execute("DELETE FROM step_blobs WHERE key = ?1", [key])?;
            transaction.execute("DELETE FROM steps WHERE key = ?1", [key]).map(drop)
        })
    }

    /// Remembers what keys were made of, many steps at once.
    pub fn record_facts(&self, records: &[FactsRecord]) -> Result<()> {
        self.0.database.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO facts VALUES (?1, ?2, ?3, ?4)")?;
            let mut trim = transaction.prepare_cached(
                "DELETE FROM facts WHERE step = ?1 AND key NOT IN (SELECT key FROM facts WHERE step = ?1 ORDER BY recorded DESC, key = ?2 DESC LIMIT ?3)",
            )?;
            for record in records {
                insert.execute(params![record.step, record.key, record.facts, record.recorded_unix as i64])?;
                trim.execute(params![record.step, record.key, FACTS_PER_STEP])?;
            }
            Ok(())
        })
    }

    /// The facts of earlier builds of a step, newest first: the builder finds the nearest.
    pub fn facts(&self, step: &str) -> Result<Vec<FactsRecord>> {
        self.0.database.read(|connection| {
            let mut select = connection.prepare_cached("SELECT key, facts, recorded FROM facts WHERE step = ?1 ORDER BY recorded DESC")?;
            let rows = select.query_map([step], |row| {
                let recorded_unix = row.get::<_, i64>(2)? as u64;
                Ok(FactsRecord { step: step.to_owned(), key: row.get(0)?, facts: row.get(1)?, recorded_unix })
            })?;
            rows.collect()
        })
    }

    /// Whether these very facts of a step are remembered.
    pub fn has_facts(&self, step: &str, key: &str) -> Result<bool> {
        self.0
            .database
            .read(|connection| connection.prepare_cached("SELECT 1 FROM facts WHERE step = ?1 AND key = ?2")?.exists(params![step, key]))
    }

    /// Writes down which steps were looked up; done by itself when the last handle is dropped.
    pub fn flush_uses(&self) -> Result<()> {
        self.0.flush_uses()
    }
}

impl super::Inner {
    pub(super) fn flush_uses(&self) -> Result<()> {
        let keys = std::mem::take(&mut *self.used.0.lock().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return Ok(());
        }
        let now = now_unix() as i64;
        self.database.write(|transaction| {
            let mut update = transaction.prepare_cached("UPDATE steps SET used = ?2 WHERE key = ?1")?;
            keys.iter().try_for_each(|key| update.execute(params![key, now]).map(drop))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    #[test]
    fn a_step_is_remembered_by_the_next_process() {
        let (_top, store) = store();
        let mut blobs = vec![Digest::of(b"b"), Digest::of(b"a")];
        store.record_step("key", r#"{"layer":1}"#, &blobs).unwrap();
        let other = Store::open(store.root()).unwrap();
        let record = other.step("key").unwrap().unwrap();
        blobs.sort();
        assert_eq!((record.payload.as_str(), &record.blobs), (r#"{"layer":1}"#, &blobs));
        store.record_step("key", "{}", &[]).unwrap();
        assert_eq!(other.step("key").unwrap().unwrap().blobs, []);
        other.forget_step("key").unwrap();
        assert_eq!(store.step("key").unwrap(), None);
    }

    #[test]
    fn uses_are_written_when_the_last_handle_goes() {
        let (_top, store) = store();
        store.record_step("key", "{}", &[]).unwrap();
        let age = |store: &Store| store.0.database.write(|transaction| transaction.execute("UPDATE steps SET used = 1", [])).unwrap();
        age(&store);
        let other = Store::open(store.root()).unwrap();
        assert_eq!(other.step("key").unwrap().unwrap().used_unix, 1);
        drop(other);
        assert!(store.step("key").unwrap().unwrap().used_unix > 1);
    }

    #[test]
    fn the_last_few_builds_of_a_step_are_kept_to_compare_with() {
        let (_top, store) = store();
        for number in 0..20 {
            let record = FactsRecord { step: "s".into(), key: format!("k{number:02}"), facts: "{}".into(), recorded_unix: number };
            store.record_facts(&[record]).unwrap();
        }
        let keys: Vec<_> = store.facts("s").unwrap().into_iter().map(|record| record.key).collect();
        assert_eq!(keys.len(), FACTS_PER_STEP as usize);
        assert_eq!(keys[0], "k19");
        assert_eq!(store.facts("other").unwrap(), []);
    }
}
