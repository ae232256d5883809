//! What is told of a build when it is over: which steps were cached, which were slow, what was warned of, and how a
//! failed step's output ended. Unaware of how it is shown while it lasts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::text;
use crate::build::{Event, StepId};

/// As much of a step's output as is kept for the case that it fails.
const KEPT_BYTES: usize = 64 * 1024;

/// Lines of a failed step that are repeated.
const REPEATED_LINES: usize = 20;

/// Steps shorter than this are not worth a place among the slow ones.
const SLOW: Duration = Duration::from_millis(100);

/// Counts as the events come.
#[derive(Debug)]
pub struct Tally {
    began: Instant,
    steps: BTreeMap<StepId, Step>,
    first_failed: Option<StepId>,
    warnings: Vec<String>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    end: Option<End>,
    tail: Vec<u8>,
    lines: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Cached,
    Done(Duration),
    Failed(Duration),
}

/// How a step failed.
#[derive(Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// Which; the number that the log has.
    pub step: StepId,
    /// `[2/4] RUN make`.
    pub name: String,
    /// How long it worked.
    pub duration: Duration,
    /// The last lines of its output.
    pub last_lines: Vec<Vec<u8>>,
    /// All that is kept of its output.
    pub kept: Vec<u8>,
    /// How many lines there were.
    pub lines: usize,
}

/// What an image is, for the summary.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// Its digest.
    pub digest: String,
    /// Names given.
    pub names: Vec<String>,
    /// Bytes of its blobs.
    pub size_bytes: u64,
    /// How many layers it has.
    pub layers: usize,
}

impl Default for Tally {
    fn default() -> Self {
        Self { began: Instant::now(), steps: BTreeMap::new(), first_failed: None, warnings: Vec::new() }
    }
}

impl Tally {
    /// Something happened.
    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Declared { step, name, .. } => {
                let name = text::harmless(name.lines().next().unwrap_or_default().as_bytes());
                self.steps.insert(*step, Step { name, ..Step::default() });
            }
            Event::Cached { step } => self.step(*step).end = Some(End::Cached),
            Event::Finished { step, duration } => self.end(*step, End::Done(*duration)),
            Event::Failed { step, duration, .. } => {
                self.step(*step).end = Some(End::Failed(*duration));
                self.first_failed.get_or_insert(*step);
            }
            Event::Output { step, bytes, .. } => self.step(*step).keep(bytes),
            Event::Note { text, .. } => {
                if text.starts_with("warning: ") && !self.warnings.iter().any(|known| known == text) {
                    self.warnings.push((*text).to_owned());
                }
            }
            Event::Started { .. } | Event::Moved { .. } => {}
        }
    }

    /// The lines at the end of a build that went well.
    pub fn summary(&self, built: &Built) -> String {
        self.summary_after(built, self.began.elapsed())
    }

    fn summary_after(&self, built: &Built, total: Duration) -> String {
        let names = if built.names.is_empty() { String::new() } else { format!(" {}", built.names.join(" ")) };
        let mut lines = vec![format!("{}{names}", built.digest)];
        let cached = self.steps.values().filter(|step| step.end == Some(End::Cached)).count();
        let used = self.steps.values().filter(|step| step.end.is_some()).count();
        let layers = if built.layers == 1 { "1 layer".to_owned() } else { format!("{} layers", built.layers) };
        lines.push(format!("{} in {layers}, {cached} of {used} steps cached, {}", text::size(built.size_bytes), text::elapsed(total)));
        lines.extend(self.slowest().iter().map(|step| format!("  {step}")));
        lines.extend(self.warnings.iter().cloned());
        lines.join("\n")
    }

    /// The three steps that took longest, a line each.
    fn slowest(&self) -> Vec<String> {
        let mut list: Vec<(Duration, &str)> = self
            .steps
            .values()
            .filter_map(|step| match step.end {
                Some(End::Done(duration)) if duration >= SLOW => Some((duration, step.name.as_str())),
                _ => None,
            })
            .collect();
        list.sort_by(|left, right| right.cmp(left));
        list.iter().take(3).map(|(duration, name)| format!("{:>6}  {}", text::elapsed(*duration), text::cut(name, 70))).collect()
    }

    /// The step that failed first; those that it stopped have nothing to tell.
    pub fn failed(&self) -> Option<FailedStep> {
        let id = self.first_failed?;
        let step = self.steps.get(&id)?;
        let Some(End::Failed(duration)) = step.end else { return None };
        let text = step.tail.strip_suffix(b"\n").unwrap_or(&step.tail);
        let all: Vec<&[u8]> = if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == b'\n').collect() };
        let last_lines = all[all.len().saturating_sub(REPEATED_LINES)..].iter().map(|line| line.to_vec()).collect();
        let unfinished = usize::from(!step.tail.is_empty() && !step.tail.ends_with(b"\n"));
        let (name, kept) = (step.name.clone(), step.tail.clone());
        Some(FailedStep { step: id, name, duration, last_lines, kept, lines: step.lines + unfinished })
    }

    fn step(&mut self, id: StepId) -> &mut Step {
        self.steps.entry(id).or_default()
    }

    fn end(&mut self, id: StepId, end: End) {
        let step = self.step(id);
        step.end = Some(end);
        step.tail = Vec::new();
    }
}

impl Step {
    fn keep(&mut self, bytes: &[u8]) {
        self.lines += memchr::memchr_iter(b'\n', bytes).count();
        // Of a flood only the end is copied.
        if bytes.len() >= KEPT_BYTES {
            self.tail.clear();
        }
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT_BYTES)..]);
        if self.tail.len() > 2 * KEPT_BYTES {
            self.tail.drain(..self.tail.len() - KEPT_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::OutputStream;

    fn tally(events: &[Event<'_>]) -> Tally {
        let mut tally = Tally::default();
        events.iter().for_each(|event| tally.event(event));
        tally
    }

    #[test]
    fn the_summary_names_image_size_cache_and_the_slow_steps() {
        let done = |step, ms| Event::Finished { step: StepId(step), duration: Duration::from_millis(ms) };
        let declared = |step, name| Event::Declared { step: StepId(step), name, inputs: &[] };
        let tally = tally(&[
            declared(1, "[1/4] FROM x"),
            declared(2, "[2/4] RUN a"),
            declared(3, "[3/4] RUN b"),
            declared(4, "[4/4] RUN c"),
            Event::Cached { step: StepId(1) },
            done(2, 1500),
            done(3, 60_000),
            done(4, 10),
            Event::Note { step: None, text: "warning: old" },
            Event::Note { step: None, text: "warning: old" },
            Event::Note { step: None, text: "only said" },
        ]);
        let built = Built { digest: "sha256:ab".into(), names: vec!["app:1".into()], size_bytes: 1_234_567, layers: 3 };
        assert_eq!(
            tally.summary_after(&built, Duration::from_secs(65)),
            "sha256:ab app:1\n1.23MB in 3 layers, 1 of 4 steps cached, 1m05s\n   1m00s  [3/4] RUN b\n    1.5s  [2/4] RUN a\nwarning: old"
        );
    }

    #[test]
    fn a_failed_step_keeps_its_last_twenty_lines_and_the_count_of_all() {
        let all: String = (1..=1000).map(|number| format!("line {number}\n")).collect();
        let step = StepId(1);
        let mut tally = tally(&[Event::Declared { step, name: "[1/1] RUN x", inputs: &[] }]);
        for piece in all.as_bytes().chunks(7) {
            tally.event(&Event::Output { step, stream: OutputStream::Stdout, bytes: piece });
        }
        assert_eq!(tally.failed(), None);
        tally.event(&Event::Failed { step, error: "exit code: 1", duration: Duration::from_secs(2) });
        let failed = tally.failed().unwrap();
        assert_eq!((failed.last_lines.len(), failed.lines), (20, 1000));
        assert_eq!(failed.last_lines[19], b"line 1000");
    }

    #[test]
    fn a_flood_of_output_is_not_kept_in_memory() {
        let step = StepId(1);
        let mut tally = tally(&[]);
        for _ in 0..100 {
            tally.event(&Event::Output { step, stream: OutputStream::Stdout, bytes: &[b'x'; 65536] });
        }
        assert!(tally.steps[&step].tail.len() <= 2 * KEPT_BYTES);
    }
}
