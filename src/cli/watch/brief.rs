//! Progress between the lines of an app that writes to the same terminal: what runs is named once, a failed step's output
//! is shown when it has failed. Unaware of what is built.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    build::{Event, Progress, StepId},
    cli::progress::Reporter,
    dockerfile::lint::Warning,
};

/// In front of a quiet reporter.
pub struct Brief {
    inner: Arc<Reporter>,
    names: Mutex<BTreeMap<StepId, String>>,
    ran: AtomicUsize,
}

impl Brief {
    /// Nothing has run yet.
    pub fn new(inner: Arc<Reporter>) -> Arc<Self> {
        Arc::new(Self { inner, names: Mutex::default(), ran: AtomicUsize::new(0) })
    }

    /// How many steps did something.
    pub fn ran(&self) -> usize {
        self.ran.load(Ordering::Relaxed)
    }

    /// How a failed step's output ended.
    pub fn show_failure(&self) {
        self.inner.failed();
    }
}

impl Progress for Brief {
    fn event(&self, event: Event<'_>) {
        match &event {
            Event::Declared { step, name, .. } => {
                self.names.lock().expect("no holder panics").insert(*step, name.lines().next().unwrap_or_default().to_owned());
            }
            Event::Started { step } => {
                // What takes no time needs no line; a RUN may take any.
                let name = self.names.lock().expect("no holder panics").get(step).cloned().unwrap_or_default();
                if name.contains("] RUN ") {
                    eprintln!("  {name}");
                }
            }
            Event::Finished { duration, .. } if !duration.is_zero() => drop(self.ran.fetch_add(1, Ordering::Relaxed)),
            Event::Note { text, .. } if text.starts_with("warning") => eprintln!("{text}"),
            _ => {}
        }
        self.inner.event(event);
    }

    fn warnings(&self, warnings: &[Warning]) {
        self.inner.warnings(warnings);
    }
}
