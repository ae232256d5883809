//! Says nothing while all goes well; shows a failed step's output.

use std::{collections::BTreeMap, io::Write, sync::Mutex};

use crate::build::{Event, Progress, StepId};

/// As much of a step's output as is kept for the case that it fails.
const KEPT_BYTES: usize = 64 * 1024;

/// Keeps each step's last output.
#[derive(Default)]
pub struct Quiet {
    tails: Mutex<BTreeMap<StepId, Vec<u8>>>,
}

impl Progress for Quiet {
    fn event(&self, event: Event<'_>) {
        let mut tails = self.tails.lock().expect("no printer panics");
        match event {
            Event::Output { step, bytes, .. } => {
                let tail = tails.entry(step).or_default();
                tail.extend_from_slice(bytes);
                if tail.len() > 2 * KEPT_BYTES {
                    tail.drain(..tail.len() - KEPT_BYTES);
                }
            }
            Event::Finished { step, .. } => {
                tails.remove(&step);
            }
            Event::Failed { step, .. } => {
                let tail = tails.remove(&step).unwrap_or_default();
                let _ = std::io::stderr().write_all(&tail);
            }
            _ => {}
        }
    }
}
