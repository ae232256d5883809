//! All processes that a step has started, where no pid namespace holds them together.
//!
//! The keeper is their subreaper: whoever loses its parent becomes the keeper's child, so the step is over when the keeper
//! has no child left. A process that may be gone is never signalled by its bare number: its parent is looked at again
//! through a descriptor that cannot come to mean another. Unaware of why they are to end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::sys::process::{self, Waited};

/// Makes the calling process the one to whom the orphans of its descendants come.
pub fn adopt() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Ends all descendants of the calling process and collects them.
pub fn end_all() -> io::Result<()> {
    loop {
        stop_all()?;
        let killed = descendants()?;
        for (pid, parent) in &killed {
            signal(*pid, *parent, Signal::KILL);
        }
        // Whoever was killed ends soon. Where the list missed the only one there is, it is made again.
        if !killed.is_empty() {
            match process::wait_for(None) {
                Err(error) if error.raw_os_error() != Some(libc::ECHILD) => return Err(error),
                _ => {}
            }
        }
        loop {
            match process::try_wait()? {
                Waited::Ended(_) => {}
                Waited::Running => break,
                Waited::NoChild => return Ok(()),
            }
        }
    }
}

/// What is stopped cannot fork, so that nobody gets away by forking.
fn stop_all() -> io::Result<()> {
    let mut stopped = BTreeSet::new();
    loop {
        let found: Vec<(i32, i32)> = descendants()?.into_iter().filter(|(pid, _)| !stopped.contains(pid)).collect();
        if found.is_empty() {
            return Ok(());
        }
        for (pid, parent) in found {
            signal(pid, parent, Signal::STOP);
            stopped.insert(pid);
        }
    }
}

/// Process ids with those of their parents.
fn descendants() -> io::Result<Vec<(i32, i32)>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            parents.insert(pid, parent);
        }
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let is_ours = |pid: i32| {
        let mut at = pid;
        // No chain is longer than there are processes; a number that was reused on the way must not make a circle.
        for _ in 0..parents.len() {
            match parents.get(&at) {
                Some(parent) if *parent == own => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    Ok(parents.iter().filter(|(pid, _)| is_ours(**pid)).map(|(pid, parent)| (*pid, *parent)).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold any.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Signals a process if it is still the one that was seen, or came to us meanwhile.
fn signal(pid: i32, parent: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    let Ok(descriptor) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if parent_of(pid.as_raw_nonzero().get()).is_some_and(|now| now == parent || now == own) {
        // It may have ended by now, which is what we want.
        let _ = rustix::process::pidfd_send_signal(descriptor, signal);
    }
}
