//! Limits of this process. Unaware of who needs many descriptors or much memory.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit};

/// Allows as many open files as the system lets us have; gives what was allowed before, for the processes we start.
pub fn raise_open_files() -> (u64, u64) {
    let before = rustix::process::getrlimit(Resource::Nofile);
    // Refused is no failure: then there is what there was.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    (before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX))
}

/// How much memory there is for us: the machine's, or what the tightest control group above us leaves of it.
pub fn memory_bytes() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let total = read(Path::new("/proc/meminfo")).and_then(|text| total_of(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit_of(line, &read));
    total.into_iter().chain(limits).min()
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// The limit that a line of /proc/self/cgroup leads to, of version 1 or 2; that of a group holds for all below it.
fn limit_of(line: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    let (top, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    let above = Path::new(group.trim_start_matches('/')).ancestors();
    let limits = above.filter_map(|group| read(&Path::new(top).join(group).join(file))?.trim().parse::<u64>().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_in_either_version() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "2048\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let read = |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned());
        assert_eq!(limit_of("0::/a/b", &read), Some(2048));
        assert_eq!(limit_of("4:memory:/x", &read), Some(4096));
        assert_eq!(limit_of("3:cpu,cpuacct:/x", &read), None);
        assert_eq!(limit_of("0::/", &read), None);
        assert_eq!(total_of("MemTotal:       24664560 kB\nMemFree: 1 kB\n"), Some(24_664_560 << 10));
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = raise_open_files();
        let now = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(u64::MAX), hard);
        assert_eq!(raise_open_files(), (hard, hard));
    }
}
