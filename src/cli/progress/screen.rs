//! The terminal's picture of a build: what is over scrolls up as one line each, what runs stands below with its time and
//! its last words. Pure: events and a time in, lines out. Unaware of terminals' escape sequences but for colours.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::text;
use crate::build::{Event, StepId};

/// A finished transfer waits so long for the next of the same step before its line is written; a base for its first.
const TRANSFER_REST: Duration = Duration::from_millis(300);

/// Of digests so much is shown.
const DIGEST_DIGITS: usize = 12;

/// Rates are of the bytes that came in this time.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// An unfinished line of output is kept up to this length.
const PARTIAL_BYTES: usize = 4096;

/// Everything that is known of a build so far.
#[derive(Debug, Default)]
pub struct Screen {
    /// Whether colours are used.
    pub colour: bool,
    steps: BTreeMap<StepId, Step>,
    /// Lines that are over and not yet taken.
    over: Vec<Over>,
    started: Option<Duration>,
}

/// A line that is over. That of a base waits for its pull, which takes its place; those behind it keep their order.
#[derive(Debug)]
struct Over {
    line: String,
    base: Option<StepId>,
    not_before: Duration,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    running_since: Option<Duration>,
    is_over: bool,
    last_line: String,
    partial: Vec<u8>,
    transfers: BTreeMap<String, Transfer>,
    transfers_began: Duration,
    moved_at: Duration,
    samples: VecDeque<(Duration, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Transfer {
    done_bytes: u64,
    total_bytes: Option<u64>,
}

impl Screen {
    /// Something happened at `now`.
    pub fn event(&mut self, event: &Event<'_>, now: Duration) {
        self.started.get_or_insert(now);
        match event {
            Event::Declared { step, name, .. } => drop(self.steps.insert(*step, Step { name: one_line(name), ..Step::default() })),
            Event::Started { step } => self.step(*step).running_since = Some(now),
            Event::Cached { step } => {
                self.step(*step).is_over = true;
                self.put_end(*step, &self.dim("cached"), now);
            }
            Event::Output { step, bytes, .. } => self.step(*step).take_output(bytes),
            Event::Moved { step, what, done_bytes, total_bytes } => {
                self.over.retain(|over| over.base != Some(*step));
                self.step(*step).moved(what, Transfer { done_bytes: *done_bytes, total_bytes: *total_bytes }, now);
            }
            Event::Note { step, text } => {
                let name = step.map(|id| format!("{}: ", self.step(id).name)).unwrap_or_default();
                self.put(format!("{} {name}{}", self.mark("33", "!"), text::harmless(text.as_bytes())));
            }
            Event::Finished { step, duration } => {
                let moved = self.step(*step).end().map(|moved| self.dim(&format!("{moved}  "))).unwrap_or_default();
                self.put_end(*step, &format!("{moved}{}", text::elapsed(*duration)), now);
            }
            Event::Failed { step, error, duration } => {
                self.step(*step).end();
                let is_stopped = *error == "cancelled";
                let mark = if is_stopped { self.dim("–") } else { self.mark("31", "✗") };
                let line = format!("{mark} {}", self.step(*step).name);
                let stopped = if is_stopped { self.dim("stopped  ") } else { String::new() };
                self.put(with_end(&line, &format!("{stopped}{}", text::elapsed(*duration))));
            }
        }
    }

    fn put(&mut self, line: String) {
        self.over.push(Over { line, base: None, not_before: Duration::ZERO });
    }

    /// The line of a step that has done its part.
    fn put_end(&mut self, id: StepId, end: &str, now: Duration) {
        let line = with_end(&format!("{} {}", self.mark("32", "✓"), self.step(id).name), end);
        let is_base = self.step(id).name.contains("] FROM ");
        self.over.push(Over { line, base: is_base.then_some(id), not_before: if is_base { now + TRANSFER_REST } else { Duration::ZERO } });
    }

    /// The lines that are over since the last call, for a terminal of so many columns.
    pub fn take_over(&mut self, columns: usize, now: Duration, at_end: bool) -> Vec<String> {
        let rested: Vec<StepId> = self.steps.iter().filter(|(_, step)| step.rested(now, at_end)).map(|(id, _)| *id).collect();
        for id in rested {
            let step = self.step(id);
            let (total, time) = (step.moved_bytes().0, step.moved_at.saturating_sub(step.transfers_began));
            step.transfers.clear();
            let line = format!("{} {}", self.mark("32", "✓"), self.step(id).name);
            let end = format!("{}  {}", self.dim(&text::size(total)), text::elapsed(time));
            self.put(with_end(&line, &end));
        }
        let held = self.over.iter().position(|over| over.not_before > now && !at_end).unwrap_or(self.over.len());
        self.over.drain(..held).map(|over| fit(&over.line, columns)).collect()
    }

    /// The lines of what runs, with a line about the whole above.
    pub fn live(&self, columns: usize, rows: usize, now: Duration) -> Vec<String> {
        let busy: Vec<&Step> = self.steps.values().filter(|step| step.is_busy()).collect();
        let Some(started) = self.started else { return Vec::new() };
        let room = rows.saturating_sub(2).max(1);
        let mut lines: Vec<String> = busy.iter().take(room).map(|step| fit(&self.live_line(step, columns, now), columns)).collect();
        let hidden = busy.len().saturating_sub(room);
        let done = self.steps.values().filter(|step| step.is_over).count();
        let more = if hidden > 0 { format!(", {hidden} more running") } else { String::new() };
        let whole = format!("  {done} of {} steps{more}", self.steps.len());
        lines.push(fit(&with_end(&self.dim(&whole), &text::elapsed(now.saturating_sub(started))), columns));
        lines
    }

    fn live_line(&self, step: &Step, columns: usize, now: Duration) -> String {
        let since = step.running_since.unwrap_or(step.transfers_began);
        let time = text::elapsed(now.saturating_sub(since));
        let begin = format!("{} {}", self.mark("36", "▸"), step.name);
        if step.is_moving() {
            return with_end(&begin, &format!("{}  {time}", self.transfer(step, columns, now)));
        }
        // The name keeps at least half of the line.
        let room = columns.saturating_sub(text::width(&step.name).min(columns / 2) + time.len() + 7);
        let said = if step.last_line.is_empty() || room < 8 { String::new() } else { text::cut(&step.last_line, room) };
        match said.is_empty() {
            true => with_end(&begin, &time),
            false => with_end(&format!("{} {}  {}", self.mark("36", "▸"), text::cut(&step.name, columns / 2), self.dim(&said)), &time),
        }
    }

    fn transfer(&self, step: &Step, columns: usize, now: Duration) -> String {
        let (done, total) = step.moved_bytes();
        let rate = step.rate(now).map(|rate| format!(" {}/s", text::size(rate))).unwrap_or_default();
        let Some(total) = total else { return self.dim(&format!("{}{rate}", text::size(done))) };
        let bar = if columns >= 70 { format!("{}  ", text::bar(done, total, (columns / 6).min(24))) } else { String::new() };
        format!("{bar}{}", self.dim(&format!("{} / {}{rate}", text::size(done), text::size(total))))
    }

    fn step(&mut self, id: StepId) -> &mut Step {
        self.steps.entry(id).or_default()
    }

    fn mark(&self, code: &str, mark: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{mark}\u{1b}[0m") } else { mark.to_owned() }
    }

    fn dim(&self, text: &str) -> String {
        self.mark("2", text)
    }
}

impl Step {
    fn take_output(&mut self, bytes: &[u8]) {
        // Of a flood only the end can be the last line.
        let bytes = &bytes[bytes.len().saturating_sub(PARTIAL_BYTES)..];
        let is_end = |byte: &u8| *byte == b'\n' || *byte == b'\r';
        match bytes.iter().rposition(is_end) {
            None => self.partial.extend_from_slice(bytes),
            Some(end) => {
                self.partial.extend_from_slice(&bytes[..end]);
                let mut lines = self.partial.rsplit(is_end).map(text::harmless);
                if let Some(line) = lines.find(|line| !line.trim().is_empty()) {
                    self.last_line = line;
                }
                self.partial.clear();
                self.partial.extend_from_slice(&bytes[end + 1..]);
            }
        }
        let excess = self.partial.len().saturating_sub(PARTIAL_BYTES);
        self.partial.drain(..excess);
    }

    fn moved(&mut self, what: &str, transfer: Transfer, now: Duration) {
        if self.transfers.is_empty() {
            self.transfers_began = now;
            self.samples.clear();
            if self.name.is_empty() {
                self.name = one_line(what);
            }
        }
        self.transfers.insert(what.to_owned(), transfer);
        self.moved_at = now;
        let done = self.moved_bytes().0;
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes of all transfers: so far, and in all when known.
    fn moved_bytes(&self) -> (u64, Option<u64>) {
        let done = self.transfers.values().map(|transfer| transfer.done_bytes).sum();
        let total = self.transfers.values().map(|transfer| transfer.total_bytes).sum::<Option<u64>>();
        (done, total)
    }

    fn rate(&self, now: Duration) -> Option<u64> {
        let (at, bytes) = self.samples.front()?;
        let time = now.saturating_sub(*at).as_secs_f64();
        let moved = self.samples.back()?.1.saturating_sub(*bytes);
        (time > 0.2 && moved > 0).then(|| (moved as f64 / time) as u64)
    }

    fn is_moving(&self) -> bool {
        self.transfers.values().any(|transfer| transfer.total_bytes.is_none_or(|total| transfer.done_bytes < total))
    }

    fn is_busy(&self) -> bool {
        self.running_since.is_some() || !self.transfers.is_empty()
    }

    /// Whether what it moved is whole, and nothing else will tell so.
    fn rested(&self, now: Duration, at_end: bool) -> bool {
        let is_whole = !self.transfers.is_empty() && !self.is_moving();
        self.running_since.is_none() && is_whole && (at_end || now.saturating_sub(self.moved_at) >= TRANSFER_REST)
    }

    /// It is over; tells what it has moved.
    fn end(&mut self) -> Option<String> {
        self.running_since = None;
        self.is_over = true;
        let bytes = self.moved_bytes().0;
        self.transfers.clear();
        (bytes > 0).then(|| text::size(bytes))
    }
}

/// Its first line; of a digest, which says little to people, the beginning.
fn one_line(name: &str) -> String {
    let line = text::harmless(name.lines().next().unwrap_or_default().as_bytes());
    let Some((before, rest)) = line.split_once("@sha256:") else { return line };
    let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
    let shown = digits.min(DIGEST_DIGITS);
    format!("{before}@sha256:{}{}{}", &rest[..shown], if digits > shown { "…" } else { "" }, &rest[digits..])
}

/// Between begin and end of a line; `fit` makes it as many spaces as there is room for.
const GAP: char = '\u{1}';

fn with_end(begin: &str, end: &str) -> String {
    format!("{begin}{GAP}{end}")
}

/// Begin at the left, end at the right; the begin is cut where both do not fit. One column stays free: a cursor that
/// stands in the last one would wrap.
fn fit(line: &str, columns: usize) -> String {
    let columns = columns.saturating_sub(1);
    let (begin, end) = line.split_once(GAP).unwrap_or((line, ""));
    let end_width = shown_width(end);
    if end_width == 0 {
        return cut_shown(begin, columns);
    }
    if end_width + 4 > columns {
        return cut_shown(begin, columns);
    }
    let begin = cut_shown(begin, columns - end_width - 1);
    format!("{begin}{}{end}", " ".repeat(columns - shown_width(&begin) - end_width))
}

/// Columns without the colours.
pub fn shown_width(text: &str) -> usize {
    pieces(text).map(|(is_colour, piece)| if is_colour { 0 } else { text::width(piece) }).sum()
}

/// As [`text::cut`], with colours taking no room.
fn cut_shown(line: &str, columns: usize) -> String {
    if shown_width(line) <= columns {
        return line.to_owned();
    }
    let mut out = String::new();
    let mut room = columns;
    for (is_colour, piece) in pieces(line) {
        if is_colour {
            out.push_str(piece);
        } else if room > 0 {
            // What follows needs room for its own mark of the cut.
            let cut = if text::width(piece) < room { piece.to_owned() } else { text::cut(&format!("{piece}…"), room) };
            room -= text::width(&cut);
            out.push_str(&cut);
        }
    }
    out
}

/// Colour sequences (ours are all `ESC [ .. m`) and the text between them.
fn pieces(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_colour = rest.starts_with('\u{1b}');
        let end = if is_colour { rest.find('m').map_or(rest.len(), |at| at + 1) } else { rest.find('\u{1b}').unwrap_or(rest.len()) };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((is_colour, piece))
    })
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
