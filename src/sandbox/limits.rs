//! Brings the limits of a step to bear: by control groups as far as they can be had, by the process itself otherwise.
//! Unaware of how either is done.

use super::{
    cgroup::{Group, Limits},
    fallback::{self, OnProcess},
    spec::Spec,
};

pub use super::fallback::processors;

/// Makes the step's groups; what they can't hold is asked of the process, in its spec.
pub(super) fn apply(spec: &mut Spec) -> Group {
    let group = Group::new(&spec.limits);
    let kept = on_process(&group.left(&spec.limits));
    spec.ulimits.extend(kept.ulimits);
    spec.processors = kept.processors;
    group
}

/// How limits are kept here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The control groups of one step.
    pub groups: Vec<String>,
    /// Why there are not more.
    pub missing: Vec<String>,
    /// What holds instead of those that are missing.
    pub notes: Vec<String>,
}

/// Finds out how these limits are kept, by making the groups of a step.
pub fn kept(limits: &Limits) -> Kept {
    let group = Group::new(limits);
    let mut missing: Vec<String> = group.missing.iter().map(|(_, reason)| reason.clone()).collect();
    missing.dedup();
    Kept { groups: group.places(), missing, notes: on_process(&group.left(limits)).notes }
}

/// What of these limits is not enforced as it was meant, and why; nothing where control groups do it all.
pub fn shortfalls(limits: &Limits) -> Vec<String> {
    let Kept { missing, notes, .. } = kept(limits);
    if notes.is_empty() {
        return notes;
    }
    vec![format!("limits without a control group ({}): {}", missing.join("; "), notes.join("; "))]
}

fn on_process(left: &Limits) -> OnProcess {
    if left.is_empty() {
        return OnProcess::default();
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) as u64;
    let maps = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut first = maps.split_whitespace();
    // Before entering, an ordinary user's map is the machine's too.
    let is_root = rustix::process::geteuid().is_root() && (first.next(), first.next()) == (Some("0"), Some("0"));
    fallback::on_process(left, &available_processors(), threads, is_root)
}

fn available_processors() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    set.map_or_else(|_| vec![0], |set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|number| set.is_set(*number)).collect())
}
