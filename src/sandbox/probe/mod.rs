//! `rbuild doctor`: tries each gate of the privilege ladder and says what the kernel said, what that means and what
//! would change it.
//!
//! Call [`probe`] instead of `enter`, while there is one thread: what has to be tried inside is tried by a forked copy.
//! Unaware of how the answers are printed.

mod advice;
mod inside;
mod outside;

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::sys::process;

/// What to probe with.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Where the store is or will be; the file system is tried there.
    pub store: PathBuf,
    /// Where programs are looked for: the directories of PATH.
    pub search_path: Vec<PathBuf>,
}

impl ProbeOptions {
    /// Where a program is.
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.search_path.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
    }
}

/// How a gate was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Open.
    Open,
    /// Closed, and there is another way that costs something.
    Detour,
    /// Closed.
    Closed,
}

/// One probed gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Short and stable, such as `overlay`.
    pub name: String,
    /// What was tried.
    pub tried: String,
    /// How it went.
    pub outcome: Outcome,
    /// What the kernel or the file said.
    pub said: String,
    /// What it means for a build.
    pub meaning: String,
    /// What would open it, to copy and paste.
    pub fix: Option<String>,
}

impl Gate {
    fn new(name: &str, tried: &str) -> Self {
        Self { name: name.into(), tried: tried.into(), outcome: Outcome::Open, said: String::new(), meaning: String::new(), fix: None }
    }

    fn open(self, said: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { outcome: Outcome::Open, said: said.into(), meaning: meaning.into(), ..self }
    }

    fn detour(self, said: impl Into<String>, meaning: impl Into<String>, fix: Option<String>) -> Self {
        Self { outcome: Outcome::Detour, said: said.into(), meaning: meaning.into(), fix, ..self }
    }

    fn closed(self, said: impl Into<String>, meaning: impl Into<String>, fix: Option<String>) -> Self {
        Self { outcome: Outcome::Closed, said: said.into(), meaning: meaning.into(), fix, ..self }
    }
}

/// Probes every gate.
pub fn probe(options: &ProbeOptions) -> Vec<Gate> {
    let mut gates = outside::gates(options);
    match in_a_copy(|| inside::gates(options)) {
        Ok(more) => gates.extend(more),
        Err(error) => {
            gates.push(Gate::new("rung", "enter as a build would").closed(error.to_string(), "the probes inside could not be made", None))
        }
    }
    gates
}

/// Lets a forked copy of us find gates; what it does to itself ends with it.
fn in_a_copy(find: impl FnOnce() -> Vec<Gate>) -> io::Result<Vec<Gate>> {
    let (mut reader, writer) = io::pipe()?;
    let mut writer = Some(writer);
    let child = process::fork(|| {
        let gates = find();
        let text = serde_json::to_vec(&gates).unwrap_or_default();
        i32::from(writer.take().is_none_or(|mut writer| writer.write_all(&text).is_err()))
    })?;
    drop(writer);
    let mut text = Vec::new();
    reader.read_to_end(&mut text)?;
    process::wait_for(Some(child))?;
    Ok(serde_json::from_slice(&text)?)
}
