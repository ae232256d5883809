//! What the store remembers of steps: looked up by key, and written when a step is done. A record is used only where its
//! layer can still be had as this build would write it. Unaware of how keys come about and of how steps are carried out.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::{
    build::{
        BuildError, Hit, ResultId,
        engine::{Engine, stage_inputs},
        layer::PolicyBlob,
    },
    oci::Digest,
    plan::VertexId,
    store::NewStep,
};

/// What the store remembers of a step.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    /// Identity of the layer that it made.
    pub(super) layer: String,
    /// When it was made.
    pub(super) created: jiff::Timestamp,
    /// Whose it is, if it came from a cache elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) writer: Option<String>,
    /// Its blobs, by the way they are written.
    pub(super) blobs: Vec<PolicyBlob>,
    /// Names of the secrets that these blobs were searched for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) searched: BTreeSet<String>,
    /// Those whose word was taken for what is in the layers below.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) relies_on: BTreeSet<String>,
}

/// A record and the keys that it stands under.
pub(super) type KnownRecord = Mutex<Option<(Record, Vec<String>)>>;

impl Engine {
    /// The record of a key, whether or not its layer is still here.
    pub(super) fn record(&self, key: &str) -> Result<Option<Record>, BuildError> {
        Ok(self.local_record(key)?.or_else(|| self.remote_record(key)))
    }

    fn local_record(&self, key: &str) -> Result<Option<Record>, BuildError> {
        let found = self.services.store.step(key).map_err(BuildError::store)?;
        Ok(found.and_then(|found| serde_json::from_str(&found.payload).ok()).filter(|record| self.is_trusted(record)))
    }

    /// The record of a key, if its layer can still be had as this build would write it; and how it was found, `hit` if it
    /// is our own. What is found stays: the store holds it until the build ends.
    pub(super) fn usable_record(&self, key: &str, hit: Hit) -> Result<Option<(Record, Hit)>, BuildError> {
        let store = &self.services.store;
        let local = self.local_record(key)?.map(|record| (record, hit));
        for (record, hit) in local.into_iter().chain(self.remote_record(key).map(|record| (record, Hit::Remote))) {
            let elsewhere = |descriptor: &_| self.services.remote.as_ref().is_some_and(|remote| remote.has(descriptor));
            let blobs = self.faithful(&record.blobs);
            let mut blobs = blobs.iter().map(|(_, layer)| &layer.descriptor);
            let has_blob = blobs.any(|blob| store.has_described(blob).unwrap_or(false) || elsewhere(blob));
            if has_blob || store.snapshot(&self.services.snapshot_of_step(&record.layer)).map_err(BuildError::store)?.is_some() {
                return Ok(Some((record, hit)));
            }
        }
        Ok(None)
    }

    pub(super) fn noted_record(&self, id: VertexId) -> Option<(Record, Vec<String>)> {
        self.records[id.0].lock().expect("no holder panics").clone()
    }

    /// Times that were set for one output are not the step's own: only the same output may use such a blob.
    pub(super) fn faithful(&self, blobs: &[PolicyBlob]) -> Vec<PolicyBlob> {
        let wanted = &self.request.layers;
        let same_times = |policy: &super::LayerPolicy| (policy.clamp_to, policy.all_times) == (wanted.clamp_to, wanted.all_times);
        blobs.iter().filter(|(policy, _)| policy.clamp_to.is_none() || same_times(policy)).cloned().collect()
    }

    /// Under its content key and, now that all input stages have results, under its definition key.
    pub(super) async fn write_record(
        self: &Arc<Self>,
        id: VertexId,
        parent: &ResultId,
        key: &str,
        record: &Record,
        is_new: bool,
    ) -> Result<(), BuildError> {
        let mut keys = vec![key.to_owned()];
        if !stage_inputs(&self.plan.vertices[id.0].op).is_empty()
            && let Some(facts) = self.definition_facts(id, parent).await?
        {
            keys.push(facts.key());
        }
        // What a cache says is ours to keep once its layer was had and was what it said: at the end.
        let kept = keys.iter().skip(usize::from(!is_new)).filter(|_| record.writer.is_none());
        self.store_records(kept.map(|key| stored(key, record)).collect())?;
        self.note_record(id, record, keys);
        Ok(())
    }

    pub(super) fn note_record(&self, id: VertexId, record: &Record, keys: Vec<String>) {
        *self.records[id.0].lock().expect("no holder panics") = Some((record.clone(), keys));
    }

    fn store_records(&self, records: Vec<NewStep>) -> Result<(), BuildError> {
        self.services.store.record_steps(&records).map_err(BuildError::store)
    }

    /// After the build: which blobs the layers of the result have become.
    pub(super) fn remember_blobs(&self) -> Result<(), BuildError> {
        let mut changed = Vec::new();
        for id in &self.in_result {
            let Some(Ok(realised)) = self.realised_vertex(*id) else { continue };
            let Some(layer) = realised.stack.last() else { continue };
            let Some((mut record, keys)) = self.noted_record(*id) else { continue };
            let searched = layer.searched();
            let mut is_new = !searched.is_subset(&record.searched);
            is_new |= record.writer.is_some();
            record.searched.extend(searched);
            let relies_on = layer.relies_on();
            is_new |= !relies_on.is_subset(&record.relies_on);
            record.relies_on.extend(relies_on);
            for blob in layer.known_blobs() {
                if !record.blobs.contains(&blob) {
                    record.blobs.retain(|(policy, _)| *policy != blob.0);
                    record.blobs.push(blob);
                    is_new = true;
                }
            }
            if is_new {
                changed.extend(keys.iter().map(|key| stored(key, &record)));
            }
        }
        self.store_records(changed)
    }
}

fn stored(key: &str, record: &Record) -> NewStep {
    let payload = serde_json::to_string(record).expect("plain data has a JSON form");
    let blobs: Vec<Digest> = record.blobs.iter().map(|(_, layer)| layer.descriptor.digest.clone()).collect();
    NewStep { key: key.to_owned(), payload, blobs }
}

/// Identity of a layer that is about to be made: the same work done twice has two results.
pub(super) fn new_identity(key: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = jiff::Timestamp::now().as_nanosecond();
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(&now.to_le_bytes()).update(&std::process::id().to_le_bytes());
    hasher.update(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hasher.finalize().to_hex().to_string()
}
