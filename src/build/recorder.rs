//! What a build leaves behind: the report of each step and its whole output. Stands in front of the printer and passes
//! every event on. A report that can't be written is a note, never a failed build. Unaware of how steps work.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

use crate::{
    build::{
        BuildError, Event, Progress, Secrets, StepId,
        report::{LayerReport, Report, ResultReport, StepReport, StepResult, Transfer},
    },
    dockerfile::lint::Warning,
    store::{BuildDir, Store},
};

/// Output that is not on disk after this time is written at the next line.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// Records what passes by.
pub struct Recorder {
    inner: Arc<dyn Progress>,
    directory: Option<BuildDir>,
    secrets: Arc<Secrets>,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    is_written: bool,
    report: Report,
    steps: BTreeMap<StepId, Recorded>,
    /// Who is at work in which lane.
    workers: Vec<Option<StepId>>,
}

#[derive(Default)]
struct Recorded {
    report: StepReport,
    log: Option<Log>,
    /// The furthest that each thing moved: parts are told again and again.
    moved: BTreeMap<String, Transfer>,
    /// Bytes that moved without a word.
    copied_bytes: u64,
}

struct Log {
    file: BufWriter<File>,
    flushed: Instant,
}

/// A build whose report is not written yet; dropped, it was given up.
pub struct Unfinished(pub Arc<Recorder>);

impl Unfinished {
    /// Writes the report.
    pub fn finish(self, error: Option<&BuildError>) {
        self.0.finish(error.map(|error| error.message.as_str()));
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.finish(Some("given up"));
    }
}

impl Recorder {
    /// Records in a new directory of the store.
    pub fn new(store: &Store, report: Report, secrets: Arc<Secrets>, inner: Arc<dyn Progress>) -> Self {
        let directory = store.new_build_log();
        if let Err(error) = &directory {
            inner.event(Event::Note { step: None, text: &format!("no report of this build: {}", crate::build::chain(error)) });
        }
        let state = State { is_written: false, report, steps: BTreeMap::new(), workers: Vec::new() };
        Self { inner, directory: directory.ok(), secrets, started: Instant::now(), state: Mutex::new(state) }
    }

    /// Keeps nothing.
    pub fn forgetful(inner: Arc<dyn Progress>) -> Self {
        let state = State { is_written: true, report: Report::default(), steps: BTreeMap::new(), workers: Vec::new() };
        Self { inner, directory: None, secrets: Arc::default(), started: Instant::now(), state: Mutex::new(state) }
    }

    /// Adds to what is known of a step.
    pub fn note_step(&self, step: StepId, note: impl FnOnce(&mut StepReport)) {
        let mut state = self.state.lock().expect("no recorder panics");
        note(&mut state.steps.entry(step).or_default().report);
    }

    /// Notes what came out for one platform.
    pub fn note_result(&self, image: &crate::oci::Image) {
        let entries = image.config.history.iter().filter(|entry| !entry.empty_layer);
        let mut by = entries.map(|entry| entry.created_by.clone().unwrap_or_default());
        let layers = image.layers.iter().map(|layer| LayerReport { layer: layer.clone(), created_by: by.next().unwrap_or_default() });
        let result = ResultReport { platform: image.platform.to_string(), layers: layers.collect() };
        self.state.lock().expect("no recorder panics").report.results.push(result);
    }

    /// Adds to the bytes that a step took in.
    pub fn note_copied(&self, step: StepId, bytes: u64) {
        let mut state = self.state.lock().expect("no recorder panics");
        state.steps.entry(step).or_default().copied_bytes += bytes;
    }

    /// A moment in the report's time.
    pub fn ms_of(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Writes the report, once. Work of a build that was given up may go on; what it says later is not in it.
    pub fn finish(&self, error: Option<&str>) {
        let mut state = self.state.lock().expect("no recorder panics");
        if std::mem::replace(&mut state.is_written, true) {
            return;
        }
        let mut report = std::mem::take(&mut state.report);
        report.duration_ms = self.started.elapsed().as_millis() as u64;
        report.succeeded = error.is_none();
        report.error = error.map(str::to_owned);
        (report.user_us, report.system_us, report.max_rss_kb) = usage(UsageWho::RUSAGE_SELF);
        for recorded in state.steps.values_mut() {
            if let Some(log) = &mut recorded.log {
                let _ = log.file.flush();
            }
            recorded.report.transfers = recorded.moved.values().cloned().collect();
            recorded.report.transfers.sort_by_key(|transfer| transfer.started_ms);
            recorded.report.bytes_in = recorded.copied_bytes + recorded.moved.values().map(|transfer| transfer.bytes).sum::<u64>();
            report.steps.push(recorded.report.clone());
        }
        let Some(directory) = &self.directory else { return };
        report.id = directory.id().to_owned();
        let text = serde_json::to_string_pretty(&report).expect("plain data has a JSON form");
        let _ = directory.write_report(self.secrets.mask(&text).as_bytes());
    }

    fn pass(&self, event: Event<'_>) {
        self.record(&event);
        self.inner.event(event);
    }

    fn record(&self, event: &Event<'_>) {
        let mut state = self.state.lock().expect("no recorder panics");
        let now_ms = self.started.elapsed().as_millis() as u64;
        match event {
            Event::Declared { step, name, .. } => {
                let recorded = state.steps.entry(*step).or_default();
                (recorded.report.step, recorded.report.name) = (step.0, (*name).to_owned());
            }
            Event::Started { step } => {
                let worker = state.take_worker(*step);
                let report = &mut state.steps.entry(*step).or_default().report;
                (report.result, report.started_ms, report.worker) = (StepResult::Running, now_ms, Some(worker));
            }
            Event::Cached { step } => {
                let report = &mut state.steps.entry(*step).or_default().report;
                (report.result, report.started_ms, report.ready_ms) = (StepResult::Cached, now_ms, now_ms);
            }
            Event::Output { step, bytes, .. } => self.write_log(*step, state.steps.entry(*step).or_default(), bytes),
            Event::Moved { step, what, done_bytes, .. } => {
                let recorded = state.steps.entry(*step).or_default();
                let new = || Transfer { what: (*what).to_owned(), started_ms: now_ms, ..Transfer::default() };
                let transfer = recorded.moved.entry((*what).to_owned()).or_insert_with(new);
                (transfer.ended_ms, transfer.bytes) = (now_ms, *done_bytes);
            }
            Event::Note { step: None, text } => state.report.notes.push((*text).to_owned()),
            Event::Note { step: Some(step), text } => state.steps.entry(*step).or_default().report.notes.push((*text).to_owned()),
            Event::Finished { step, duration } => {
                state.free_worker(*step);
                end(state.steps.entry(*step).or_default(), StepResult::Done, *duration);
            }
            Event::Failed { step, error, duration } => {
                state.free_worker(*step);
                let recorded = state.steps.entry(*step).or_default();
                let result = if *error == "cancelled" { StepResult::Cancelled } else { StepResult::Failed };
                end(recorded, result, *duration);
                recorded.report.error = Some((*error).to_owned());
            }
        }
    }

    fn write_log(&self, step: StepId, recorded: &mut Recorded, bytes: &[u8]) {
        recorded.report.output_bytes += bytes.len() as u64;
        if recorded.log.is_none()
            && let Some(directory) = &self.directory
            && let Ok(file) = directory.step_log(step.0)
        {
            recorded.report.log = directory.step_log_path(step.0).file_name().map(|name| format!("steps/{}", name.to_string_lossy()));
            recorded.log = Some(Log { file: BufWriter::with_capacity(64 << 10, file), flushed: Instant::now() });
        }
        if let Some(log) = &mut recorded.log {
            let _ = log.file.write_all(bytes);
            if log.flushed.elapsed() > FLUSH_AFTER {
                let _ = log.file.flush();
                log.flushed = Instant::now();
            }
        }
    }
}

impl State {
    /// The lowest lane that is free.
    fn take_worker(&mut self, step: StepId) -> usize {
        let free = self.workers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.workers.push(None);
            self.workers.len() - 1
        });
        self.workers[free] = Some(step);
        free
    }

    fn free_worker(&mut self, step: StepId) {
        self.workers.iter_mut().filter(|worker| **worker == Some(step)).for_each(|worker| *worker = None);
    }
}

/// User time, system time and largest resident set of a process or thread; zeros where the kernel doesn't say.
pub fn usage(who: UsageWho) -> (u64, u64, u64) {
    let Ok(usage) = getrusage(who) else { return (0, 0, 0) };
    let us = |time: nix::sys::time::TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    (us(usage.user_time()), us(usage.system_time()), u64::try_from(usage.max_rss()).unwrap_or(0))
}

fn end(recorded: &mut Recorded, result: StepResult, duration: Duration) {
    recorded.report.result = result;
    recorded.report.duration_ms = duration.as_millis() as u64;
    if let Some(mut log) = recorded.log.take() {
        let _ = log.file.flush();
    }
}

impl Progress for Recorder {
    fn event(&self, event: Event<'_>) {
        // Output is masked where it comes from, which knows what came before.
        let mask = |text| self.secrets.mask(text);
        match event {
            Event::Declared { step, name, inputs } => self.pass(Event::Declared { step, name: &mask(name), inputs }),
            Event::Note { step, text } => self.pass(Event::Note { step, text: &mask(text) }),
            Event::Failed { step, error, duration } => self.pass(Event::Failed { step, error: &mask(error), duration }),
            event => self.pass(event),
        }
    }

    fn warnings(&self, warnings: &[Warning]) {
        let lines = warnings.iter().map(|warning| format!("warning: {}", warning.message));
        self.state.lock().expect("no recorder panics").report.notes.extend(lines);
        self.inner.warnings(warnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{OutputStream, Silent};

    #[test]
    fn the_report_and_the_whole_output_stay() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let recorder = Recorder::new(&store, Report::default(), Arc::default(), Arc::new(Silent));
        let step = StepId(3);
        recorder.event(Event::Declared { step, name: "RUN make", inputs: &[] });
        recorder.event(Event::Started { step });
        let moved = |done_bytes| Event::Moved { step, what: "pull x", done_bytes, total_bytes: Some(9) };
        [3, 9].into_iter().for_each(|bytes| recorder.event(moved(bytes)));
        recorder.note_copied(step, 100);
        recorder.event(Event::Started { step: StepId(4) });
        let line = b"a line of output\n".repeat(100_000);
        line.chunks(1000).for_each(|bytes| recorder.event(Event::Output { step, stream: OutputStream::Stdout, bytes }));
        recorder.note_step(step, |report| report.max_rss_kb = 7);
        recorder.event(Event::Failed { step, error: "exit code: 1", duration: Duration::from_millis(5) });
        recorder.event(Event::Started { step: StepId(5) });
        recorder.finish(Some("it failed"));
        let build = store.open_build("").unwrap();
        assert_eq!(std::fs::read(build.step_log_path(3)).unwrap(), line);
        let report: Report = serde_json::from_slice(&build.report().unwrap().unwrap()).unwrap();
        assert_eq!((report.succeeded, report.error.as_deref()), (false, Some("it failed")));
        // Whoever begins takes the lowest lane that is free.
        assert_eq!(report.steps.iter().map(|step| step.worker).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
        assert_eq!((report.steps[0].bytes_in, report.steps[0].transfers[0].bytes), (109, 9));
        let step = &report.steps[0];
        assert_eq!((step.result, step.max_rss_kb, step.output_bytes), (StepResult::Failed, 7, line.len() as u64));
        assert_eq!(step.log.as_deref(), Some("steps/03.log"));
    }
}
