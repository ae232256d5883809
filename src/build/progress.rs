//! What happens during a build, as events. The build never prints: printers implement [`Progress`].
//! Unaware of terminals.

use std::time::Duration;

use crate::dockerfile::lint::Warning;

/// Identity of a step in the events of one build; counts from 1 in the order of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct StepId(pub usize);

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A step exists. Sent once for each step before anything else about it.
    Declared {
        /// Which.
        step: StepId,
        /// `[builder 2/5] RUN make`.
        name: &'a str,
        /// Steps it waits for.
        inputs: &'a [StepId],
    },
    /// Work began.
    Started {
        /// Which.
        step: StepId,
    },
    /// Nothing to do: the result of an earlier build is used.
    Cached {
        /// Which.
        step: StepId,
    },
    /// The step's process wrote something.
    Output {
        /// Which.
        step: StepId,
        /// Where it wrote.
        stream: OutputStream,
        /// What, cut anywhere.
        bytes: &'a [u8],
    },
    /// Bytes moved on behalf of a step: a pull, an unpack, an export.
    Moved {
        /// Which.
        step: StepId,
        /// `sha256:.. pull`, `exporting layers`.
        what: &'a str,
        /// So far.
        done_bytes: u64,
        /// In all, when known.
        total_bytes: Option<u64>,
    },
    /// Something worth a line: a wait for another build, a fall-back.
    Note {
        /// Which step, or the build as a whole.
        step: Option<StepId>,
        /// One line.
        text: &'a str,
    },
    /// Done.
    Finished {
        /// Which.
        step: StepId,
        /// How long it worked.
        duration: Duration,
    },
    /// Failed.
    Failed {
        /// Which.
        step: StepId,
        /// Why, in one line.
        error: &'a str,
        /// How long it worked.
        duration: Duration,
    },
}

/// Takes events from any thread.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);

    /// What lint found in the Dockerfile; once for each build, before its first step.
    fn warnings(&self, _warnings: &[Warning]) {}
}

/// Takes events and forgets them.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}
