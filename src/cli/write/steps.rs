//! Steps of our own after those of the build: an export is shown like a step of the Dockerfile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    build::{Event, Progress, StepId},
    cli::failure::Failure,
    export::Meter,
};

/// Time between two looks at a meter.
const TICK: Duration = Duration::from_millis(100);

/// What the bytes of an export are called.
const WRITTEN: &str = "written";

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

    /// The same, with the bytes that `meter` counts meanwhile.
    pub async fn metered<T>(&self, name: &str, meter: &Meter, work: impl AsyncFnOnce(StepId) -> Result<T, Failure>) -> Result<T, Failure> {
        self.step(name, async |step| {
            let (inner, moving) = (self.inner.clone(), meter.clone());
            // Of a task of its own: an export does not give way to others of its thread.
            let ticker = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(TICK).await;
                    let (done_bytes, total_bytes) = moving.read();
                    inner.event(Event::Moved {
                        step,
                        what: WRITTEN,
                        done_bytes: done_bytes.min(total_bytes.unwrap_or(u64::MAX)),
                        total_bytes,
                    });
                }
            });
            let result = work(step).await;
            ticker.abort();
            // Nothing is told of a step that is over.
            let _ = ticker.await;
            let (done, total) = meter.read();
            let whole = total.unwrap_or(done);
            if result.is_ok() && whole > 0 {
                self.inner.event(Event::Moved { step, what: WRITTEN, done_bytes: whole, total_bytes: Some(whole) });
            }
            result
        })
        .await
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
