//! Printers of a build's events, and what is said when it is over.

mod paint;
mod place;
mod plain;
mod rawjson;
mod screen;
mod sections;
mod tally;
mod text;
mod tty;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

pub use place::{Ci, Mode, Place};
pub use rawjson::{RawJson, warning as rawjson_warning};
pub use sections::annotation;
pub use tally::Built;
pub use text::{cut, elapsed, size, width};

use crate::build::{Event, Progress};

/// Shows a build while it lasts and tells of it at the end.
pub struct Reporter {
    place: Place,
    printer: Printer,
    tally: Mutex<tally::Tally>,
}

enum Printer {
    Plain(plain::Plain),
    Tty(tty::Tty),
    Quiet,
    RawJson(RawJson),
}

impl Reporter {
    /// Shows in this way at this place.
    pub fn new(mode: Mode, place: Place) -> Arc<Self> {
        let printer = match mode {
            Mode::Plain => Printer::Plain(plain::Plain::new(&place)),
            Mode::Tty => Printer::Tty(tty::Tty::new(place.colour())),
            Mode::Quiet => Printer::Quiet,
            Mode::RawJson => Printer::RawJson(RawJson::default()),
        };
        Arc::new(Self { place, printer, tally: Mutex::default() })
    }

    /// Ends the picture and sums up; in quiet mode nothing is said.
    pub fn succeeded(&self, built: &Built) {
        self.stop();
        let text = self.tally.lock().expect("no printer panics").summary(built);
        let _ = match &self.printer {
            Printer::Quiet => Ok(()),
            Printer::RawJson(_) => rawjson::summary(built),
            Printer::Plain(_) | Printer::Tty(_) => writeln!(std::io::stderr(), "{text}"),
        };
    }

    /// Ends the picture and repeats how the failed step's output ended.
    pub fn failed(&self) {
        self.stop();
        let Some(failed) = self.tally.lock().expect("no printer panics").failed() else { return };
        let mut err = std::io::stderr().lock();
        let _ = match &self.printer {
            // It is all that is seen of the output.
            Printer::Quiet => err.write_all(&failed.kept),
            Printer::RawJson(_) => Ok(()),
            Printer::Plain(_) | Printer::Tty(_) => err.write_all(&repeated(&failed, &self.place)),
        };
    }

    /// Takes live lines away; what is printed afterwards stands below.
    pub fn stop(&self) {
        match &self.printer {
            Printer::Tty(tty) => tty.finish(),
            Printer::Plain(plain) => plain.finish(),
            Printer::Quiet | Printer::RawJson(_) => {}
        }
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event<'_>) {
        self.tally.lock().expect("no printer panics").event(&event);
        match &self.printer {
            Printer::Plain(plain) => plain.event(event),
            Printer::Tty(tty) => tty.event(event),
            Printer::RawJson(raw) => raw.event(event),
            Printer::Quiet => {}
        }
    }
}

/// The last lines of the failed step, between two rules.
fn repeated(failed: &tally::FailedStep, place: &Place) -> Vec<u8> {
    let mut out = Vec::new();
    if failed.last_lines.is_empty() {
        return out;
    }
    let shown = failed.last_lines.len();
    let which = if shown < failed.lines { format!("the last {shown} of {} lines of", failed.lines) } else { "the output of".to_owned() };
    let _ = writeln!(out, "\n----- {which} {} (failed after {})", failed.name, text::seconds(failed.duration));
    for line in &failed.last_lines {
        match (place.is_terminal, place.ci) {
            (true, None) => out.extend_from_slice(text::harmless(line).as_bytes()),
            (_, Some(ci)) => out.extend([b"  ".to_vec(), sections::defuse(ci, line.clone())].concat()),
            (false, None) => out.extend_from_slice(line),
        }
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----\n\n");
    out
}
