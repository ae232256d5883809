//! One line per event, for logs: `#3 [2/4] RUN make`, `#3 0.21 output`, `#3 DONE 1.2s`.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::build::{Event, OutputStream, Progress, StepId};

/// Prints to standard error.
#[derive(Default)]
pub struct Plain {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: BTreeMap<StepId, Step>,
    last: Option<StepId>,
}

struct Step {
    name: String,
    started: Instant,
    partial: [Vec<u8>; 2],
    moved_shown: Option<Instant>,
}

impl Progress for Plain {
    fn event(&self, event: Event<'_>) {
        let mut state = self.state.lock().expect("no printer panics");
        let mut out = std::io::stderr().lock();
        // A closed standard error ends nothing but the printing.
        let _ = state.print(event, &mut out);
    }
}

impl State {
    fn print(&mut self, event: Event<'_>, out: &mut impl Write) -> std::io::Result<()> {
        match event {
            Event::Declared { step, name, .. } => {
                let new = Step { name: name.to_owned(), started: Instant::now(), partial: Default::default(), moved_shown: None };
                self.steps.insert(step, new);
                Ok(())
            }
            Event::Started { step } => {
                if let Some(step) = self.steps.get_mut(&step) {
                    step.started = Instant::now();
                }
                self.separate(step, out)?;
                self.title(step, out)
            }
            Event::Cached { step } => {
                self.separate(step, out)?;
                self.title(step, out)?;
                writeln!(out, "#{} CACHED", step.0)
            }
            Event::Output { step, stream, bytes } => self.output(step, stream, bytes, out),
            Event::Moved { step, what, done_bytes, total_bytes } => self.moved(step, what, done_bytes, total_bytes, out),
            Event::Note { step, text } => match step {
                Some(step) => {
                    self.separate(step, out)?;
                    writeln!(out, "#{} {text}", step.0)
                }
                None => writeln!(out, "{text}"),
            },
            Event::Finished { step, duration } => {
                self.flush(step, out)?;
                self.separate(step, out)?;
                writeln!(out, "#{} DONE {}", step.0, seconds(duration))
            }
            Event::Failed { step, error, .. } => {
                self.flush(step, out)?;
                self.separate(step, out)?;
                writeln!(out, "#{} ERROR: {error}", step.0)
            }
        }
    }

    fn title(&self, step: StepId, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "#{} {}", step.0, self.steps.get(&step).map_or("", |step| &step.name))
    }

    /// An empty line where the output changes from one step to another.
    fn separate(&mut self, step: StepId, out: &mut impl Write) -> std::io::Result<()> {
        if self.last.replace(step).is_some_and(|last| last != step) {
            writeln!(out)?;
        }
        Ok(())
    }

    fn output(&mut self, id: StepId, stream: OutputStream, bytes: &[u8], out: &mut impl Write) -> std::io::Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let elapsed = step.started.elapsed();
        let partial = &mut step.partial[stream as usize];
        partial.extend_from_slice(bytes);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = partial.split_off(end + 1);
        let whole = std::mem::replace(partial, rest);
        self.separate(id, out)?;
        for line in whole[..end].split(|byte| *byte == b'\n') {
            print_line(id, elapsed, line, out)?;
        }
        Ok(())
    }

    fn flush(&mut self, id: StepId, out: &mut impl Write) -> std::io::Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let elapsed = step.started.elapsed();
        let rest: Vec<Vec<u8>> = step.partial.iter_mut().map(std::mem::take).filter(|partial| !partial.is_empty()).collect();
        for line in rest {
            self.separate(id, out)?;
            print_line(id, elapsed, &line, out)?;
        }
        Ok(())
    }

    /// A line at the end, and one every few seconds while it lasts.
    fn moved(&mut self, id: StepId, what: &str, done: u64, total: Option<u64>, out: &mut impl Write) -> std::io::Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let is_done = total == Some(done);
        let is_due = step.moved_shown.is_none_or(|shown| shown.elapsed() > Duration::from_secs(5));
        if !is_done && !is_due {
            return Ok(());
        }
        step.moved_shown = Some(Instant::now());
        let elapsed = step.started.elapsed();
        self.separate(id, out)?;
        let total = total.map(|total| format!(" / {}", size(total))).unwrap_or_default();
        writeln!(out, "#{} {what} {}{total} {}{}", id.0, size(done), seconds(elapsed), if is_done { " done" } else { "" })
    }
}

fn print_line(id: StepId, elapsed: Duration, line: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    write!(out, "#{} {:.3} ", id.0, elapsed.as_secs_f64())?;
    out.write_all(line)?;
    out.write_all(b"\n")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// `12.3MB`, in powers of ten as docker shows it.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2}TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(events: Vec<Event<'_>>) -> String {
        let mut state = State::default();
        let mut out = Vec::new();
        for event in events {
            state.print(event, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_whole_and_carry_their_step() {
        let step = StepId(1);
        let output = |bytes| Event::Output { step, stream: OutputStream::Stdout, bytes };
        let text = printed(vec![
            Event::Declared { step, name: "[1/1] RUN x", inputs: &[] },
            Event::Started { step },
            output(b"ab"),
            output(b"c\nde"),
            Event::Finished { step, duration: Duration::from_millis(1250) },
        ]);
        let without_times: Vec<String> = text.lines().map(|line| line.replace("0.000 ", "")).collect();
        assert_eq!(without_times, ["#1 [1/1] RUN x", "#1 abc", "#1 de", "#1 DONE 1.2s"]);
    }

    #[test]
    fn cached_steps_say_so() {
        let text = printed(vec![Event::Declared { step: StepId(2), name: "n", inputs: &[] }, Event::Cached { step: StepId(2) }]);
        assert_eq!(text, "#2 n\n#2 CACHED\n");
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!([size(0), size(999), size(1500), size(2_000_000)], ["0B", "999B", "1.50kB", "2.00MB"]);
    }
}
