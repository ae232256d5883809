//! Limits where no control group can be had: each process by itself, as far as the kernel can do that.
//!
//! | Limit | Instead | What it is not |
//! |---|---|---|
//! | `--memory` | RLIMIT_DATA: a larger allocation fails | each process has its own; files in memory and shared memory don't count; swap does not matter |
//! | `--cpus`, `--cpuset-cpus` | affinity to as many processors | a part of one; a step may change it |
//! | `--pids-limit` | RLIMIT_NPROC | counts all processes of the build's user; nothing holds root of the machine |
//! | `--cpu-shares`, `--memory-swap`, `--cpuset-mems` | nothing | |
//!
//! Unaware of control groups.

use super::{
    cgroup::{DEFAULT_PERIOD_US, Limits},
    spec::Ulimit,
};

/// What is set on the step's process itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnProcess {
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Processors that it may use.
    pub processors: Option<Vec<usize>>,
    /// One sentence for each limit that is not what was asked for.
    pub notes: Vec<String>,
}

/// How `limits` are kept without control groups. `available` are the processors that we may use, `threads` how many we
/// have ourselves.
pub fn on_process(limits: &Limits, available: &[usize], threads: u64, is_root: bool) -> OnProcess {
    let mut kept = OnProcess::default();
    let mut note = |text: &str| kept.notes.push(text.to_owned());
    if let Some(bytes) = limits.memory_bytes {
        kept.ulimits.push(Ulimit { name: "data".into(), soft: bytes, hard: bytes });
        note("--memory limits each process of a step by itself (RLIMIT_DATA), not all together");
    }
    if limits.memory_swap_bytes.is_some() {
        note("--memory-swap has no effect");
    }
    if let Some(quota) = limits.cpu_quota_us {
        let count = quota.div_ceil(limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US).max(1)).max(1);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(available.len());
        kept.processors = Some(available[..count].to_vec());
        note(&format!("a step may use {count} processors as a whole"));
    }
    if limits.cpu_shares.is_some() {
        note("--cpu-shares has no effect");
    }
    if let Some(set) = limits.cpuset_cpus.as_deref().and_then(processors) {
        kept.processors = Some(set.into_iter().filter(|number| available.contains(number)).collect());
        note("--cpuset-cpus is set as the affinity of a step, which it may change");
    }
    if limits.cpuset_mems.is_some() {
        note("--cpuset-mems has no effect");
    }
    match limits.pids {
        Some(_) if is_root => note("--pids-limit has no effect: the kernel lets root of the machine have any number of processes"),
        Some(pids) => {
            let all = pids.saturating_add(threads);
            kept.ulimits.push(Ulimit { name: "nproc".into(), soft: all, hard: all });
            note("--pids-limit counts the processes of all steps that run as one user");
        }
        None => {}
    }
    kept
}

/// `0-2,4` as numbers; None if it is no such list.
pub fn processors(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= 8192 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_the_kernels() {
        assert_eq!(processors("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(processors("7"), Some(vec![7]));
        for wrong in ["", "a", "2-1", "1,,2", "0-9999999"] {
            assert_eq!(processors(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_limit_is_kept_or_told() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            memory_swap_bytes: Some(1),
            cpu_quota_us: Some(150_000),
            cpu_shares: Some(1),
            cpuset_mems: Some("0".into()),
            pids: Some(10),
            ..Limits::default()
        };
        let kept = on_process(&limits, &[0, 1, 2, 3], 5, false);
        let names: Vec<(&str, u64)> = kept.ulimits.iter().map(|limit| (limit.name.as_str(), limit.hard)).collect();
        assert_eq!(names, [("data", 1 << 20), ("nproc", 15)]);
        assert_eq!(kept.processors, Some(vec![0, 1]));
        assert_eq!(kept.notes.len(), 6);
        let cpuset = Limits { cpuset_cpus: Some("1-9".into()), ..Limits::default() };
        assert_eq!(on_process(&cpuset, &[0, 1, 2], 5, true).processors, Some(vec![1, 2]));
        let pids = Limits { pids: Some(10), ..Limits::default() };
        assert_eq!(on_process(&pids, &[0], 5, true).ulimits, []);
        assert_eq!(on_process(&Limits::default(), &[0], 5, false), OnProcess::default());
    }
}
