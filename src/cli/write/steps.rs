//! Steps of our own after those of the build: an export is shown like a step of the Dockerfile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    build::{Event, Progress, StepId},
    cli::failure::Failure,
};

/// Passes events on and remembers the last step that was declared, so that ours can follow it.
pub struct Steps {
    inner: Arc<dyn Progress>,
    last: AtomicUsize,
}

impl Steps {
    /// In front of a printer.
    pub fn new(inner: Arc<dyn Progress>) -> Arc<Self> {
        Arc::new(Self { inner, last: AtomicUsize::new(0) })
    }

    /// Shows `work` as one step.
    pub async fn step<T>(&self, name: &str, work: impl AsyncFnOnce(StepId) -> Result<T, Failure>) -> Result<T, Failure> {
        let step = StepId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let started = Instant::now();
        self.inner.event(Event::Declared { step, name, inputs: &[] });
        self.inner.event(Event::Started { step });
        let result = work(step).await;
        let duration = started.elapsed();
        match &result {
            Ok(_) => self.inner.event(Event::Finished { step, duration }),
            Err(failure) => self.inner.event(Event::Failed { step, error: &failure.message, duration }),
        }
        result
    }
}

impl Progress for Steps {
    fn event(&self, event: Event<'_>) {
        if let Event::Declared { step, .. } = event {
            self.last.fetch_max(step.0, Ordering::Relaxed);
        }
        self.inner.event(event);
    }

    fn warnings(&self, warnings: &[crate::dockerfile::lint::Warning]) {
        self.inner.warnings(warnings);
    }
}
