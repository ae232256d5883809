//! What a step leaves for later builds to compare themselves with: its facts, and listings of the content it used.
//! Unaware of how steps are carried out.

use std::sync::Arc;

use nix::sys::resource::UsageWho;

use crate::{
    build::{
        BuildError, Event, Facts,
        engine::Engine,
        explain::{Why, explain},
        recorder::usage,
        report::StepReport,
    },
    dockerfile::position::LineIndex,
    plan::{Op, VertexId},
    sandbox::Exit,
    snapshot::copy::{CopyReport, Listing},
    store::FactsRecord,
};

impl Engine {
    /// Says in the report why the step runs, and aloud if that was asked for.
    pub(super) fn tell_why(&self, id: VertexId, facts: &Facts) {
        let vertex = &self.plan.vertices[id.0];
        let why = if vertex.ignore_cache { Why::because("--no-cache") } else { self.why(id, facts) };
        let step = self.step(id);
        if self.request.explain {
            for line in why.lines() {
                self.progress.event(Event::Note { step: Some(step), text: &format!("runs because: {line}") });
            }
        }
        self.recorder.note_step(step, |report| report.why = Some(why));
    }

    fn why(&self, id: VertexId, facts: &Facts) -> Why {
        let listing = |name: &str| {
            let listings = self.listings.lock().expect("no holder panics");
            listings.get(&(id, name.to_owned())).map(|found| Listing::clone(found))
        };
        // The same instruction first; when its text changed, what stood in its place.
        for slot in self.slots(id) {
            let earlier = self.services.store.facts(&slot).unwrap_or_default();
            if !earlier.is_empty() {
                return explain(facts, &earlier, &self.services.store, &listing);
            }
        }
        Why::because("no earlier build of this step is known")
    }

    /// What a step is called from build to build: by its text and by its place.
    fn slots(&self, id: VertexId) -> [String; 2] {
        let vertices = &self.plan.vertices;
        let vertex = &vertices[id.0];
        let mut place = 0;
        let mut next = vertex.parent;
        while let Some(parent) = next.filter(|parent| vertices[parent.0].stage == vertex.stage) {
            place += 1;
            next = vertices[parent.0].parent;
        }
        let scope = blake3::hash(format!("{:?}\0{}", self.request.context, self.request.dockerfile_name).as_bytes()).to_hex();
        let text = vertex.name.split_once("] ").map_or(vertex.name.as_str(), |(_, text)| text);
        // Without the platform: that it is another is an answer too.
        let of = |what: &str| format!("{scope} {} {what}", vertex.stage);
        [of(text), of(&format!("#{place}"))]
    }

    /// Keeps what the key was made of, to be written at the end of the build.
    pub(super) fn keep_facts(&self, id: VertexId, facts: &Facts) {
        let recorded_unix = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let text = serde_json::to_string(facts).expect("plain data has a JSON form");
        let record = |step| FactsRecord { step, key: facts.key(), facts: text.clone(), recorded_unix };
        self.facts.lock().expect("no holder panics").extend(self.slots(id).map(record));
        for (name, value) in facts.iter().filter_map(|(name, value)| Some((name.strip_suffix(" content")?, value))) {
            let listing = self.listings.lock().expect("no holder panics").get(&(id, name.to_owned())).cloned();
            // A listing that can't be kept only makes a later answer shorter.
            if let Some(bytes) = listing.filter(|listing| listing.is_kept()).and_then(|listing| listing.to_bytes().ok()) {
                let _ = self.services.store.save_listing(value, &bytes);
            }
        }
    }

    /// As [`Engine::keep_facts`] for a step that was cached: only what is not known is kept.
    pub(super) fn keep_facts_of_hit(&self, id: VertexId, facts: &Facts) {
        let key = facts.key();
        let [slot, _] = self.slots(id);
        let known = self.services.store.has_facts(&slot, &key).unwrap_or(true);
        if !known {
            self.keep_facts(id, facts);
        }
    }

    /// Writes the facts down, all at once.
    pub fn write_facts(&self) -> Result<(), BuildError> {
        let records = std::mem::take(&mut *self.facts.lock().expect("no holder panics"));
        if records.is_empty() { Ok(()) } else { self.services.store.record_facts(&records).map_err(BuildError::store) }
    }

    pub(super) fn keep_listing(&self, id: VertexId, name: &str, listing: Listing) {
        self.listings.lock().expect("no holder panics").insert((id, name.to_owned()), Arc::new(listing));
    }

    /// What a process used, for the report.
    pub(super) fn note_usage(&self, id: VertexId, exit: &Exit) {
        self.recorder.note_step(self.step(id), |report: &mut StepReport| {
            (report.user_us, report.system_us, report.max_rss_kb) = (exit.user_us, exit.system_us, exit.max_rss_kb);
        });
    }

    /// What is known of every step before anything is done.
    pub(super) fn note_plan(&self) {
        let lines = LineIndex::new(&self.request.dockerfile);
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            let inputs = vertex.inputs().into_iter().map(|id| self.step(id).0).collect();
            let instruction = match &vertex.op {
                Op::Image(_) => "FROM",
                Op::Run(_) => "RUN",
                Op::Copy(copy) if copy.is_add => "ADD",
                Op::Copy(_) => "COPY",
                Op::Workdir(_) => "WORKDIR",
            };
            self.recorder.note_step(self.step(VertexId(index)), |report| {
                (report.stage, report.instruction, report.inputs) = (vertex.stage.clone(), instruction.to_owned(), inputs);
                (report.line, report.platform) = (lines.line_of(vertex.span.start), vertex.platform.to_string());
            });
        }
    }

    /// What copying took, on the thread that does it.
    pub(super) fn note_copy(&self, id: VertexId, before: (u64, u64, u64), copied: CopyReport) {
        let after = usage(UsageWho::RUSAGE_THREAD);
        let step = self.step(id);
        self.recorder.note_copied(step, copied.bytes);
        self.recorder.note_step(step, |report| {
            let (user_us, system_us) = copied.helpers_us;
            report.user_us = after.0.saturating_sub(before.0) + user_us;
            report.system_us = after.1.saturating_sub(before.1) + system_us;
        });
    }

    /// Which layers the steps of the result became.
    pub(super) fn note_layers(&self) {
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            let id = VertexId(index);
            let Some(Ok(realised)) = self.realised_vertex(id) else { continue };
            let (Some(layer), false) = (realised.stack.last(), matches!(vertex.op, Op::Image(_))) else { continue };
            if let Some((started, took)) = layer.packed() {
                self.recorder.note_step(self.step(id), |report| {
                    (report.pack_started_ms, report.pack_ms) = (Some(self.recorder.ms_of(started)), took.as_millis() as u64);
                });
            }
            if let Some((_, blob)) = layer.known_blobs().into_iter().find(|(policy, _)| *policy == self.request.layers) {
                self.recorder.note_step(self.step(id), |report| {
                    report.bytes_out = blob.descriptor.size;
                    report.digest = Some(blob.descriptor.digest.to_string());
                    report.diff_id = Some(blob.diff_id.to_string());
                });
            }
        }
    }
}
