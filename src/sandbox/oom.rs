//! Counts what the kernel's out-of-memory killer did.
//! Unaware of whom it killed.

/// How often it has killed since boot, in our cgroup where that is told, else on the machine.
pub fn kills() -> u64 {
    let cgroup = std::fs::read_to_string("/sys/fs/cgroup/memory.events").ok();
    let machine = || std::fs::read_to_string("/proc/vmstat").ok();
    cgroup.or_else(machine).map_or(0, |text| counter(&text))
}

fn counter(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_its_neighbours() {
        assert_eq!(counter("oom 7\noom_kill 3\noom_group_kill 9\n"), 3);
        assert_eq!(counter("nr_free_pages 1\n"), 0);
    }
}
