//! Counts what the kernel's out-of-memory killer did.
//! Unaware of whom it killed.

use std::{fs::File, io::Read};

/// How often it has killed since boot, in our cgroup where that is told, else on the machine.
pub fn kills() -> u64 {
    let text = read("/sys/fs/cgroup/memory.events").or_else(|| read("/proc/vmstat"));
    text.map_or(0, |text| counter(&text))
}

/// In one read, if may be: the kernel adds up all its counters for each.
fn read(path: &str) -> Option<String> {
    let mut text = String::with_capacity(32 << 10);
    File::open(path).ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    Some(text)
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
