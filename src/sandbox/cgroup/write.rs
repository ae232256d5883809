//! The files of a control group: what is written for which limit, and what is read back.
//! Unaware of where groups come from.

use std::{fs, io, path::Path};

use super::{DEFAULT_PERIOD_US, Limits};

/// Which file, and what the kernel said.
type Refused = (&'static str, io::Error);

/// Writes a value. The files are there already; only a made-up tree has to be given them.
pub fn set(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    // One call: the kernel takes each as a value of its own.
    fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

/// Whether a file of words has this one.
pub fn has_word(path: &Path, word: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.split_whitespace().any(|found| found == word))
}

/// The number behind a word: `oom_kill 3`.
pub fn counter(text: &str, word: &str) -> u64 {
    let number = |line: &str| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(number).unwrap_or(0)
}

/// Lets the groups below `group` have a controller, and us move processes into them.
pub fn enable(group: &Path, controller: &str) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    if !has_word(&control, controller) {
        set(&control, &format!("+{controller}"))?;
    }
    rustix::fs::access(group, rustix::fs::Access::WRITE_OK)?;
    Ok(rustix::fs::access(group.join("cgroup.procs"), rustix::fs::Access::WRITE_OK)?)
}

/// Whether a step loses nothing by not being below this group.
pub fn is_unlimited(group: &Path) -> bool {
    let is_open = |name: &str| fs::read_to_string(group.join(name)).map_or(true, |text| text.starts_with("max"));
    ["memory.max", "memory.high", "memory.swap.max", "cpu.max", "pids.max"].into_iter().all(is_open)
}

/// The interface of v2.
pub fn v2(controller: &str, group: &Path, limits: &Limits) -> Result<(), Refused> {
    let write = |name: &'static str, value: String| set(&group.join(name), &value).map_err(|error| (name, error));
    match controller {
        "memory" => {
            if let Some(bytes) = limits.memory_bytes {
                write("memory.max", bytes.to_string())?;
            }
            let swap = match (limits.memory_bytes, limits.memory_swap_bytes) {
                (_, Some(u64::MAX)) => Some("max".to_owned()),
                (memory, Some(both)) => Some(both.saturating_sub(memory.unwrap_or(0)).to_string()),
                (Some(memory), None) => Some(memory.to_string()),
                (None, None) => None,
            };
            match swap.map(|swap| write("memory.swap.max", swap)) {
                // A kernel without swap has no file for it.
                Some(Err(error)) if limits.memory_swap_bytes.is_some() => Err(error),
                _ => Ok(()),
            }
        }
        "cpu" => {
            if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
                let quota = limits.cpu_quota_us.map_or("max".to_owned(), |quota| quota.to_string());
                write("cpu.max", format!("{quota} {}", limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)))?;
            }
            // As runc and systemd translate it: 2..262144 to 1..10000.
            let weight = |shares: u64| (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string();
            limits.cpu_shares.map_or(Ok(()), |shares| write("cpu.weight", weight(shares)))
        }
        "cpuset" => {
            limits.cpuset_cpus.clone().map_or(Ok(()), |cpus| write("cpuset.cpus", cpus))?;
            limits.cpuset_mems.clone().map_or(Ok(()), |mems| write("cpuset.mems", mems))
        }
        _ => limits.pids.map_or(Ok(()), |pids| write("pids.max", pids.to_string())),
    }
}

/// The interface of v1.
pub fn v1(controller: &str, group: &Path, limits: &Limits) -> Result<(), Refused> {
    let write = |name: &'static str, value: String| set(&group.join(name), &value).map_err(|error| (name, error));
    match controller {
        "memory" => {
            if let Some(bytes) = limits.memory_bytes {
                write("memory.limit_in_bytes", bytes.to_string())?;
            }
            let both = limits.memory_swap_bytes.or(limits.memory_bytes.map(|memory| memory.saturating_mul(2)));
            let both = both.map(|both| if both == u64::MAX { "-1".to_owned() } else { both.to_string() });
            match both.map(|both| write("memory.memsw.limit_in_bytes", both)) {
                // A kernel that doesn't count swap has no file for it.
                Some(Err(error)) if limits.memory_swap_bytes.is_some() => Err(error),
                _ => Ok(()),
            }
        }
        "cpu" => {
            limits.cpu_period_us.map_or(Ok(()), |period| write("cpu.cfs_period_us", period.to_string()))?;
            limits.cpu_quota_us.map_or(Ok(()), |quota| write("cpu.cfs_quota_us", quota.to_string()))?;
            limits.cpu_shares.map_or(Ok(()), |shares| write("cpu.shares", shares.to_string()))
        }
        "cpuset" => {
            // A new group has neither; without both no process can enter it.
            for (name, given) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
                let of_parent = || group.parent().and_then(|parent| fs::read_to_string(parent.join(name)).ok()).unwrap_or_default();
                write(name, given.clone().unwrap_or_else(|| of_parent().trim().to_owned()))?;
            }
            Ok(())
        }
        _ => limits.pids.map_or(Ok(()), |pids| write("pids.max", pids.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_has_a_file_for_each_limit() {
        let top = tempfile::tempdir().unwrap();
        let group = top.path().join("group");
        fs::create_dir(&group).unwrap();
        fs::write(top.path().join("cpuset.mems"), "0\n").unwrap();
        let limits = Limits {
            memory_bytes: Some(1000),
            cpu_quota_us: Some(50_000),
            cpuset_cpus: Some("1".into()),
            pids: Some(9),
            ..Limits::default()
        };
        let _ = ["memory", "cpu", "cpuset", "pids"].map(|controller| v1(controller, &group, &limits).unwrap());
        let mut found: Vec<String> = fs::read_dir(&group)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                format!("{}={}", path.file_name().unwrap().display(), fs::read_to_string(&path).unwrap())
            })
            .collect();
        found.sort();
        let expected = [
            "cpu.cfs_quota_us=50000",
            "cpuset.cpus=1",
            "cpuset.mems=0",
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=2000",
            "pids.max=9",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_counter_is_found_among_its_neighbours() {
        assert_eq!(counter("oom 7\noom_kill 3\noom_group_kill 9\n", "oom_kill"), 3);
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), 1);
        assert_eq!(counter("max 2\n", "max"), 2);
        assert_eq!(counter("nothing 1\n", "max"), 0);
    }

    #[test]
    fn a_group_with_a_limit_is_not_left() {
        let top = tempfile::tempdir().unwrap();
        assert!(is_unlimited(top.path()));
        fs::write(top.path().join("memory.max"), "max\n").unwrap();
        fs::write(top.path().join("cpu.max"), "max 100000\n").unwrap();
        assert!(is_unlimited(top.path()));
        fs::write(top.path().join("pids.max"), "100\n").unwrap();
        assert!(!is_unlimited(top.path()));
    }
}
