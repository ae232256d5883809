//! One line per event, for logs: `#3 [2/4] RUN make`, `#3 0.213 output`, `#3 DONE 1.2s`. In a CI whose log folds
//! sections, each step's lines are one section: one step at a time is written, the others wait for their turn.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    place::{Ci, Place},
    sections, text,
};
use crate::build::{Event, OutputStream, Progress, StepId};

/// A waiting step's lines are written out of turn when they are more than this.
const WAITING_BYTES: usize = 1 << 20;

/// A line about bytes that move comes so often at most.
const MOVED_EVERY: Duration = Duration::from_secs(5);

/// A line without an end is cut where it is longer than this.
const PARTIAL_BYTES: usize = 1 << 16;

/// Prints to standard error.
pub struct Plain {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Default)]
struct State {
    /// The log folds sections of this kind.
    ci: Option<Ci>,
    /// Foreign bytes are made harmless.
    is_terminal: bool,
    /// Seconds since 1970 at the first event.
    epoch: i64,
    steps: BTreeMap<StepId, Step>,
    last: Option<StepId>,
    /// The step whose section is open.
    turn: Option<StepId>,
    queue: VecDeque<StepId>,
}

#[derive(Default)]
struct Step {
    name: String,
    started: Duration,
    partial: [Vec<u8>; 2],
    moved_at: Option<Duration>,
    moved_first: BTreeMap<String, Duration>,
    is_over: bool,
    /// Lines that wait for the step's turn.
    waiting: Vec<u8>,
}

impl Plain {
    /// Nothing printed yet.
    pub fn new(place: &Place) -> Self {
        let ci = place.ci.filter(|ci| *ci != Ci::Other);
        let state = State { ci, is_terminal: place.is_terminal, epoch: jiff::Timestamp::now().as_second(), ..State::default() };
        Self { state: Mutex::new(state), began: Instant::now() }
    }

    /// Writes what still waits for a turn: the steps that another's failure has stopped.
    pub fn finish(&self) {
        let mut out = Vec::new();
        let mut state = self.state.lock().expect("no printer panics");
        state.finish(self.began.elapsed(), &mut out);
        let _ = std::io::stderr().lock().write_all(&out);
    }
}

impl Progress for Plain {
    fn event(&self, event: Event<'_>) {
        let mut out = Vec::new();
        let mut state = self.state.lock().expect("no printer panics");
        state.print(&event, self.began.elapsed(), &mut out);
        // A closed standard error ends nothing but the printing. Written under the lock: lines keep their order.
        let _ = std::io::stderr().lock().write_all(&out);
    }
}

impl State {
    fn print(&mut self, event: &Event<'_>, now: Duration, out: &mut Vec<u8>) {
        match event {
            Event::Declared { step, name, .. } => {
                let name = text::harmless(name.lines().next().unwrap_or_default().as_bytes());
                self.steps.insert(*step, Step { name, started: now, ..Step::default() });
            }
            Event::Started { step } => {
                self.step(*step).started = now;
                if self.ci.is_none() {
                    let title = self.title(*step);
                    self.lines(*step, title.as_bytes(), now, out);
                }
            }
            Event::Cached { step } => {
                // A section has the title already.
                let title = if self.ci.is_none() { self.title(*step) } else { String::new() };
                let text = format!("{title}#{} CACHED\n", step.0);
                self.end(*step, &text, now, out);
            }
            Event::Output { step, stream, bytes } => {
                let lines = self.output(*step, *stream, bytes, now);
                self.lines(*step, &lines, now, out);
            }
            Event::Moved { step, what, done_bytes, total_bytes } => {
                let line = self.moved(*step, what, *done_bytes, *total_bytes, now);
                self.lines(*step, line.as_bytes(), now, out);
            }
            Event::Note { step: Some(step), text } => {
                self.lines(*step, format!("#{} {}\n", step.0, text::harmless_lines(text)).as_bytes(), now, out);
            }
            Event::Note { step: None, text } => {
                let _ = writeln!(out, "{}", text::harmless_lines(text));
            }
            Event::Finished { step, duration } => {
                let end = format!("#{} DONE {}\n", step.0, text::seconds(*duration));
                self.end(*step, &end, now, out);
            }
            Event::Failed { step, error, duration } => {
                let end = format!("#{} ERROR after {}: {}\n", step.0, text::seconds(*duration), text::harmless_lines(error));
                self.end(*step, &end, now, out);
            }
        }
    }

    fn step(&mut self, id: StepId) -> &mut Step {
        self.steps.entry(id).or_default()
    }

    fn title(&self, id: StepId) -> String {
        format!("#{} {}\n", id.0, self.steps.get(&id).map_or("", |step| &step.name))
    }

    /// The step's last lines, and with them its turn.
    fn end(&mut self, id: StepId, end: &str, now: Duration, out: &mut Vec<u8>) {
        let mut lines = self.flush(id, now);
        lines.extend_from_slice(end.as_bytes());
        self.step(id).is_over = true;
        self.lines(id, &lines, now, out);
        if self.turn == Some(id) {
            self.close(now, out);
            self.next_turn(now, out);
        }
    }

    /// Writes lines of a step, or lets them wait for its turn.
    fn lines(&mut self, id: StepId, lines: &[u8], now: Duration, out: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        if self.ci.is_none() {
            if self.last.replace(id).is_some_and(|last| last != id) {
                out.push(b'\n');
            }
            out.extend_from_slice(lines);
            return;
        }
        if self.turn == Some(id) {
            out.extend_from_slice(lines);
            return;
        }
        let step = self.step(id);
        step.waiting.extend_from_slice(lines);
        let is_much = step.waiting.len() > WAITING_BYTES;
        if !self.queue.contains(&id) {
            self.queue.push_back(id);
        }
        match self.turn {
            None => self.next_turn(now, out),
            Some(turn) if is_much => {
                self.close(now, out);
                self.open(id, now, out);
                self.close(now, out);
                self.open(turn, now, out);
            }
            Some(_) => {}
        }
    }

    /// Whole sections of the steps that are over, until one that runs has the turn.
    fn next_turn(&mut self, now: Duration, out: &mut Vec<u8>) {
        while self.turn.is_none()
            && let Some(id) = self.queue.pop_front()
        {
            self.open(id, now, out);
            if self.steps.get(&id).is_some_and(|step| step.is_over) {
                self.close(now, out);
            }
        }
    }

    fn open(&mut self, id: StepId, now: Duration, out: &mut Vec<u8>) {
        let (ci, time) = (self.ci.unwrap_or(Ci::Other), self.epoch + now.as_secs() as i64);
        self.queue.retain(|waiting| *waiting != id);
        let step = self.step(id);
        sections::open(ci, &format!("step_{}", id.0), &format!("#{} {}", id.0, step.name), time, out);
        out.append(&mut step.waiting);
        self.turn = Some(id);
    }

    fn close(&mut self, now: Duration, out: &mut Vec<u8>) {
        let Some(id) = self.turn.take() else { return };
        sections::close(self.ci.unwrap_or(Ci::Other), &format!("step_{}", id.0), self.epoch + now.as_secs() as i64, out);
    }

    fn finish(&mut self, now: Duration, out: &mut Vec<u8>) {
        self.close(now, out);
        self.steps.values_mut().for_each(|step| step.is_over = true);
        self.next_turn(now, out);
    }

    /// The whole lines that a piece of output completes, each with its prefix.
    fn output(&mut self, id: StepId, stream: OutputStream, bytes: &[u8], now: Duration) -> Vec<u8> {
        let (ci, is_terminal) = (self.ci, self.is_terminal);
        let step = self.step(id);
        let prefix = prefix(id, now.saturating_sub(step.started));
        let partial = &mut step.partial[stream as usize];
        let Some(end) = memchr::memrchr(b'\n', bytes) else {
            partial.extend_from_slice(bytes);
            let mut out = Vec::new();
            if partial.len() > PARTIAL_BYTES {
                put_line(&std::mem::take(partial), &prefix, ci, is_terminal, &mut out);
            }
            return out;
        };
        let mut whole = &bytes[..end];
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 2);
        if !partial.is_empty() {
            let first = memchr::memchr(b'\n', bytes).unwrap_or(end);
            partial.extend_from_slice(&bytes[..first]);
            put_line(partial, &prefix, ci, is_terminal, &mut out);
            partial.clear();
            whole = bytes.get(first + 1..=end).unwrap_or_default();
            whole = whole.strip_suffix(b"\n").unwrap_or(whole);
            if first == end {
                partial.extend_from_slice(&bytes[end + 1..]);
                return out;
            }
        }
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', whole).chain([whole.len()]) {
            put_line(&whole[from..end], &prefix, ci, is_terminal, &mut out);
            from = end + 1;
        }
        partial.extend_from_slice(&bytes[end + 1..]);
        out
    }

    /// Lines that never ended.
    fn flush(&mut self, id: StepId, now: Duration) -> Vec<u8> {
        let (ci, is_terminal) = (self.ci, self.is_terminal);
        let step = self.step(id);
        let prefix = prefix(id, now.saturating_sub(step.started));
        let mut out = Vec::new();
        for partial in step.partial.iter_mut().map(std::mem::take).filter(|partial| !partial.is_empty()) {
            put_line(&partial, &prefix, ci, is_terminal, &mut out);
        }
        out
    }

    /// A line at the end with the rate, and one every few seconds while it lasts.
    fn moved(&mut self, id: StepId, what: &str, done: u64, total: Option<u64>, now: Duration) -> String {
        let step = self.step(id);
        let first = *step.moved_first.entry(what.to_owned()).or_insert(now);
        let is_done = total == Some(done);
        let is_due = step.moved_at.is_none_or(|shown| now.saturating_sub(shown) >= MOVED_EVERY);
        if !is_done && (!is_due || done == 0) {
            return String::new();
        }
        step.moved_at = Some(now);
        let time = now.saturating_sub(first);
        let rate = if time.as_millis() > 0 { (done as f64 / time.as_secs_f64()) as u64 } else { done };
        if is_done {
            return format!("#{} {what} {} in {}, {}/s\n", id.0, text::size(done), text::seconds(time), text::size(rate));
        }
        let total = total.map(|total| format!(" / {}", text::size(total))).unwrap_or_default();
        format!("#{} {what} {}{total} {} {}/s\n", id.0, text::size(done), text::seconds(time), text::size(rate))
    }
}

fn prefix(id: StepId, elapsed: Duration) -> Vec<u8> {
    format!("#{} {:.3} ", id.0, elapsed.as_secs_f64()).into_bytes()
}

fn put_line(line: &[u8], prefix: &[u8], ci: Option<Ci>, is_terminal: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    match (is_terminal, ci) {
        (true, None) => out.extend_from_slice(text::harmless(line).as_bytes()),
        (_, Some(ci)) => out.extend(sections::defuse(ci, line.strip_suffix(b"\r").unwrap_or(line).to_vec())),
        (false, None) => out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line)),
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of events, each a second after the one before.
    fn printed(ci: Option<Ci>, is_terminal: bool, events: &[Event<'_>]) -> String {
        let mut state = State { ci, is_terminal, ..State::default() };
        let mut out = Vec::new();
        for (index, event) in events.iter().enumerate() {
            state.print(event, Duration::from_secs(index as u64), &mut out);
        }
        state.finish(Duration::from_secs(99), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn declared(step: usize, name: &str) -> Event<'_> {
        Event::Declared { step: StepId(step), name, inputs: &[] }
    }

    fn started(step: usize) -> Event<'static> {
        Event::Started { step: StepId(step) }
    }

    fn output(step: usize, bytes: &[u8]) -> Event<'_> {
        Event::Output { step: StepId(step), stream: OutputStream::Stdout, bytes }
    }

    fn finished(step: usize) -> Event<'static> {
        Event::Finished { step: StepId(step), duration: Duration::from_millis(1240) }
    }

    #[test]
    fn lines_are_whole_and_carry_their_step() {
        let text = printed(None, false, &[declared(1, "[1/1] RUN x"), started(1), output(1, b"ab"), output(1, b"c\nde"), finished(1)]);
        assert_eq!(text, "#1 [1/1] RUN x\n#1 2.000 abc\n#1 3.000 de\n#1 DONE 1.2s\n");
    }

    #[test]
    fn lines_are_the_same_however_output_is_cut() {
        let text = b"one\n\nthree\r\nfour\n\n\nseven\nlast";
        let expected = "#1 a\n".to_owned()
            + &["one", "", "three", "four", "", "", "seven", "last"].map(|line| format!("#1 X {line}\n")).concat()
            + "#1 DONE 1.2s\n";
        for cut in 1..text.len() {
            let mut events = vec![declared(1, "a"), started(1)];
            events.extend(text.chunks(cut).map(|bytes| output(1, bytes)));
            events.push(finished(1));
            let printed = printed(None, false, &events);
            let times: String = printed
                .lines()
                .map(|line| match line.split_once(".000 ") {
                    Some((_, rest)) => format!("#1 X {rest}\n"),
                    None => format!("{line}\n"),
                })
                .collect();
            assert_eq!(times, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_empty_line_stands_between_steps() {
        let text = printed(
            None,
            false,
            &[declared(1, "a"), declared(2, "b"), started(1), started(2), output(1, b"x\n"), Event::Cached { step: StepId(3) }],
        );
        assert_eq!(text, "#1 a\n\n#2 b\n\n#1 2.000 x\n\n#3 \n#3 CACHED\n");
    }

    #[test]
    fn moved_bytes_have_their_rate() {
        let moved = |done| Event::Moved { step: StepId(1), what: "pull x", done_bytes: done, total_bytes: Some(6_000_000) };
        let text = printed(None, false, &[declared(1, "a"), moved(0), moved(1_000_000), moved(2_000_000), moved(6_000_000)]);
        assert_eq!(text, "#1 pull x 1.00MB / 6.00MB 1.0s 1.00MB/s\n#1 pull x 6.00MB in 3.0s, 2.00MB/s\n");
    }

    #[test]
    fn sections_never_interleave() {
        let events = [
            declared(1, "a"),
            declared(2, "b"),
            started(1),
            started(2),
            output(1, b"1\n"),
            output(2, b"2\n"),
            output(1, b"::x\n"),
            finished(1),
            finished(2),
        ];
        let text = printed(Some(Ci::GitHub), false, &events);
        let expected =
            "::group::#1 a\n#1 2.000 1\n#1 4.000 ::x\n#1 DONE 1.2s\n::endgroup::\n::group::#2 b\n#2 2.000 2\n#2 DONE 1.2s\n::endgroup::\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cached_steps_section_has_its_title_once() {
        let text = printed(Some(Ci::GitHub), false, &[declared(1, "a"), Event::Cached { step: StepId(1) }]);
        assert_eq!(text, "::group::#1 a\n#1 CACHED\n::endgroup::\n");
    }

    #[test]
    fn much_output_does_not_wait_in_memory() {
        let flood = vec![b'\n'; 400_000];
        let text = printed(
            Some(Ci::GitHub),
            false,
            &[declared(1, "a"), declared(2, "b"), output(1, b"1\n"), output(2, &flood), output(1, b"2\n")],
        );
        let groups: Vec<&str> = text.lines().filter(|line| line.starts_with("::")).collect();
        assert_eq!(groups, ["::group::#1 a", "::endgroup::", "::group::#2 b", "::endgroup::", "::group::#1 a", "::endgroup::"]);
    }

    #[test]
    fn a_terminal_gets_no_escapes_of_foreign_output_and_a_file_gets_it_as_it_is() {
        let events = [declared(1, "a"), output(1, b"\x1b[2Jx\n")];
        assert_eq!(printed(None, true, &events), "#1 1.000 x\n");
        assert_eq!(printed(None, false, &events), "#1 1.000 \u{1b}[2Jx\n");
    }
}
