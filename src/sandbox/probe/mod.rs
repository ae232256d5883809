//! `rbuild doctor`: tries each gate of the privilege ladder and says what the kernel said, what that means and what
//! would change it.
//!
//! Call [`probe`] instead of `enter`, while there is one thread: what has to be tried inside is tried by a forked copy.
//! Unaware of how the answers are printed.

mod advice;
mod inside;
mod outside;

use std::{
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use advice::Runner;
pub(super) use inside::emulators;
pub(super) use outside::{capabilities, helper_failed, missing_for_chroot, no_new_privs, subordinate_ids, user_namespace_refused};

use super::enter::Rung;
use crate::sys::process;

/// What to probe with.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Where the store is or will be; the file system is tried there.
    pub store: PathBuf,
    /// Where programs are looked for: the directories of PATH.
    pub search_path: Vec<PathBuf>,
    /// The rung that was asked for.
    pub rung: Option<Rung>,
    /// Who runs us, for advice.
    pub runner: Option<Runner>,
}

impl ProbeOptions {
    /// Where a program is.
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.search_path.iter().map(|directory| directory.join(name)).find(|path| path.is_file())
    }
}

/// All that `doctor` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The rung that a build would stand on; None where there is none.
    pub rung: Option<String>,
    /// Why it is not a higher one.
    pub reason: Option<String>,
    /// The gate that is in the way of a higher one.
    pub obstacle: Option<Gate>,
    /// Every gate, in the order in which a build meets them.
    pub gates: Vec<Gate>,
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

impl fmt::Display for Gate {
    /// One line, which is also the hint of the errors that a closed gate causes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}: {}", self.name, self.tried, self.said, self.meaning)?;
        match &self.fix {
            Some(fix) => write!(out, "; fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// What the kernel said, by its name too.
pub(super) fn said(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    match error.raw_os_error() {
        Some(number) => format!("{:?} ({text})", nix::errno::Errno::from_raw(number)),
        None => text.to_owned(),
    }
}

/// Probes every gate.
pub fn probe(options: &ProbeOptions) -> Findings {
    let mut gates = outside::gates(options);
    match in_a_copy(|| inside::findings(options)) {
        Ok(found) => {
            gates.extend(found.gates);
            Findings { gates, ..found }
        }
        Err(error) => {
            gates.push(Gate::new("inside", "enter as a build would").closed(said(&error), "the probes inside could not be made", None));
            Findings { rung: None, reason: Some(error.to_string()), obstacle: None, gates }
        }
    }
}

/// Lets a forked copy of us find something; what it does to itself ends with it.
fn in_a_copy<T: Serialize + DeserializeOwned>(find: impl FnOnce() -> T) -> io::Result<T> {
    let (mut reader, writer) = io::pipe()?;
    let mut writer = Some(writer);
    let child = process::fork(|| {
        let found = find();
        let text = serde_json::to_vec(&found).unwrap_or_default();
        i32::from(writer.take().is_none_or(|mut writer| writer.write_all(&text).is_err()))
    })?;
    drop(writer);
    let mut text = Vec::new();
    reader.read_to_end(&mut text)?;
    process::wait_for(Some(child))?;
    Ok(serde_json::from_slice(&text)?)
}
