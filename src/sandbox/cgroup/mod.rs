//! A control group for one step, where there is a hierarchy that we may use: v2 by delegation, v1 as root.
//!
//! In v2 a group that has processes can have no controlled groups below it. Ours is used if it is delegated to us: when
//! we are alone in it we move to a leaf of our own first. Otherwise its parent is, if that is ours too and our own group
//! has no limits that a step would escape in it. What no controller enforces is left to `fallback`.
//! Unaware of what runs.

mod find;
mod write;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use find::{Own, Version};
use serde::{Deserialize, Serialize};

/// Limits of one step; None is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `--memory`.
    pub memory_bytes: Option<u64>,
    /// `--memory-swap`: memory and swap together; `u64::MAX` is no limit, None is twice the memory.
    pub memory_swap_bytes: Option<u64>,
    /// `--cpu-quota`, `--cpus`: processor time in each period.
    pub cpu_quota_us: Option<u64>,
    /// `--cpu-period`.
    pub cpu_period_us: Option<u64>,
    /// `--cpu-shares`: weight against others, 1024 is everybody's.
    pub cpu_shares: Option<u64>,
    /// `--cpuset-cpus`: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`.
    pub pids: Option<u64>,
}

/// The period of processor time where none is given, as the kernel has it.
pub const DEFAULT_PERIOD_US: u64 = 100_000;

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits that a controller is for, and nothing else.
    fn of(&self, controller: &str) -> Self {
        let none = Self::default();
        match controller {
            "memory" => Self { memory_bytes: self.memory_bytes, memory_swap_bytes: self.memory_swap_bytes, ..none },
            "cpu" => Self { cpu_quota_us: self.cpu_quota_us, cpu_period_us: self.cpu_period_us, cpu_shares: self.cpu_shares, ..none },
            "cpuset" => Self { cpuset_cpus: self.cpuset_cpus.clone(), cpuset_mems: self.cpuset_mems.clone(), ..none },
            _ => Self { pids: self.pids, ..none },
        }
    }
}

const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];

/// What came of a step's use of its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Largest use of memory.
    pub memory_peak_bytes: Option<u64>,
    /// How many processes were killed for want of memory.
    pub oom_kills: u64,
    /// How often a new process was refused.
    pub pids_refused: u64,
}

/// The groups of one step; removed when dropped.
#[derive(Debug, Default)]
pub struct Group {
    parts: Vec<Part>,
    /// Controllers that could not be had, with the reason.
    pub missing: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Part {
    version: Version,
    directory: PathBuf,
}

impl Group {
    /// Makes groups for those limits that a controller can be had for.
    pub fn new(limits: &Limits) -> Self {
        if limits.is_empty() {
            return Self::default();
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cgroup, mountinfo) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let unified = find::v2(&cgroup, &mountinfo);
        Self::make(limits, |controller| match &unified {
            Some(own) if write::has_word(&own.directory.join("cgroup.controllers"), controller) => Some(own.clone()),
            _ => find::v1(controller, &cgroup, &mountinfo),
        })
    }

    fn make(limits: &Limits, own_group: impl Fn(&str) -> Option<Own>) -> Self {
        let mut group = Self::default();
        let name = new_name();
        for controller in CONTROLLERS {
            let wanted = limits.of(controller);
            if wanted.is_empty() {
                continue;
            }
            let made = match own_group(controller) {
                Some(own) => group.add_controller(controller, &own, &name, &wanted),
                None => Err(format!("there is no {controller} controller")),
            };
            if let Err(reason) = made {
                group.missing.push((controller, reason));
            }
        }
        group
    }

    fn add_controller(&mut self, controller: &str, own: &Own, name: &str, limits: &Limits) -> Result<(), String> {
        let base = match own.version {
            Version::V1 => own.directory.clone(),
            Version::V2 => match self.unified_base() {
                // A process is in one group only: two bases would leave the limits of the first behind.
                Some(base) => enable_in(base, controller).map(|()| base.to_owned())?,
                None => base_of_v2(&own.directory, controller)?,
            },
        };
        remove_left_over(&base);
        let directory = base.join(name);
        let is_known = self.parts.iter().any(|part| part.directory == directory);
        if !is_known {
            fs::create_dir(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
            self.parts.push(Part { version: own.version, directory: directory.clone() });
        }
        let written = match own.version {
            Version::V1 => write::v1(controller, &directory, limits),
            Version::V2 => write::v2(controller, &directory, limits),
        };
        written.map_err(|(file, error)| format!("cannot write {file} of {}: {error}", directory.display()))
    }

    fn unified_base(&self) -> Option<&Path> {
        self.parts.iter().find(|part| part.version == Version::V2)?.directory.parent()
    }

    /// Moves a process that has no children yet into the groups.
    pub fn enter(&self, pid: u32) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| write::set(&part.directory.join("cgroup.procs"), &pid.to_string()))
    }

    /// The limits that are not enforced here.
    pub fn left(&self, limits: &Limits) -> Limits {
        let of = |controller: &str| {
            let is_missing = self.missing.iter().any(|(name, _)| *name == controller);
            if is_missing { limits.of(controller) } else { Limits::default() }
        };
        let (memory, cpu, cpuset, pids) = (of("memory"), of("cpu"), of("cpuset"), of("pids"));
        Limits {
            memory_bytes: memory.memory_bytes,
            memory_swap_bytes: memory.memory_swap_bytes,
            cpuset_cpus: cpuset.cpuset_cpus,
            cpuset_mems: cpuset.cpuset_mems,
            pids: pids.pids,
            ..cpu
        }
    }

    /// Where the groups are, and by which of the kernel's interfaces.
    pub fn places(&self) -> Vec<String> {
        let place = |part: &Part| {
            let version = match part.version {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            format!("{version} in {}", part.directory.parent().unwrap_or(&part.directory).display())
        };
        self.parts.iter().map(place).collect()
    }

    /// What was used so far.
    pub fn usage(&self) -> Usage {
        let number = |name: &str| self.read(name).and_then(|text| text.trim().parse().ok());
        let counter = |name: &str, word: &str| self.read(name).map_or(0, |text| write::counter(&text, word));
        Usage {
            memory_peak_bytes: number("memory.peak").or_else(|| number("memory.max_usage_in_bytes")),
            oom_kills: counter("memory.events", "oom_kill").max(counter("memory.oom_control", "oom_kill")),
            pids_refused: counter("pids.events", "max"),
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        self.parts.iter().find_map(|part| fs::read_to_string(part.directory.join(name)).ok())
    }
}

impl Drop for Group {
    /// Processes that were killed a moment ago may still be on their way out.
    fn drop(&mut self) {
        for part in &self.parts {
            if part.version == Version::V2 {
                let _ = fs::write(part.directory.join("cgroup.kill"), "1");
            }
            let started = Instant::now();
            while fs::remove_dir(&part.directory).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && started.elapsed() < Duration::from_secs(2)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn new_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("rbuild-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Groups of a build that was killed stay behind, empty.
fn remove_left_over(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("rbuild-")?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // One with processes can't be removed.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The group in which groups with this controller can be made.
fn base_of_v2(own: &Path, controller: &str) -> Result<PathBuf, String> {
    // One at a time: two steps that start at once would both move us.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // We have moved to a leaf before.
    let own = match own.file_name().and_then(|name| name.to_str()) {
        Some(name) if name == leaf_name() => own.parent().unwrap_or(own),
        _ => own,
    };
    let reason = match make_room(own).map_err(|error| format!("{}: {error}", own.display())).and_then(|()| enable_in(own, controller)) {
        Ok(()) => return Ok(own.to_owned()),
        Err(reason) => reason,
    };
    match own.parent().filter(|parent| parent.join("cgroup.procs").exists()) {
        Some(parent) if write::is_unlimited(own) && write::enable(parent, controller).is_ok() => Ok(parent.to_owned()),
        _ => Err(reason),
    }
}

fn enable_in(base: &Path, controller: &str) -> Result<(), String> {
    write::enable(base, controller).map_err(|error| format!("{} is not ours to divide: {error}", base.display()))
}

fn leaf_name() -> String {
    format!("rbuild-{}-self", std::process::id())
}

/// Leaves our group free of processes, if we are the only one in it. Some controllers could be enabled in one that is not,
/// but then no process could be moved to the groups below.
fn make_room(own: &Path) -> io::Result<()> {
    // The one at the top of all has no type, and may be divided as it is.
    if !own.join("cgroup.type").exists() {
        return Ok(());
    }
    let processes = fs::read_to_string(own.join("cgroup.procs"))?;
    let us = std::process::id().to_string();
    if processes.lines().any(|pid| pid != us) {
        return Err(io::Error::other("other processes than rbuild are in it"));
    }
    if processes.is_empty() {
        return Ok(());
    }
    let leaf = own.join(leaf_name());
    fs::create_dir(&leaf).or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    write::set(&leaf.join("cgroup.procs"), &us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            memory_bytes: Some(64 << 20),
            cpu_quota_us: Some(150_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".into()),
            pids: Some(50),
            ..Limits::default()
        }
    }

    /// A directory with the files that a delegated group of v2 has.
    fn delegated(top: &Path, processes: &str) {
        fs::write(top.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        fs::write(top.join("cgroup.subtree_control"), "memory\n").unwrap();
        fs::write(top.join("cgroup.type"), "domain\n").unwrap();
        fs::write(top.join("cgroup.procs"), processes).unwrap();
    }

    #[test]
    fn a_delegated_group_of_v2_gets_a_child_with_the_limits() {
        let top = tempfile::tempdir().unwrap();
        delegated(top.path(), "");
        let own = Own { version: Version::V2, directory: top.path().to_owned() };
        let group = Group::make(&limits(), |_| Some(own.clone()));
        assert_eq!(group.missing, []);
        assert_eq!(group.parts.len(), 1);
        let child = group.parts[0].directory.clone();
        let text = |name: &str| fs::read_to_string(child.join(name)).unwrap();
        assert_eq!(text("memory.max"), "67108864");
        assert_eq!(text("memory.swap.max"), "67108864");
        assert_eq!(text("cpu.max"), "150000 100000");
        assert_eq!(text("cpu.weight"), "20");
        assert_eq!(text("cpuset.cpus"), "0-1");
        assert_eq!(text("pids.max"), "50");
        group.enter(4321).unwrap();
        assert_eq!(text("cgroup.procs"), "4321");
        fs::write(child.join("memory.peak"), "1000\n").unwrap();
        fs::write(child.join("memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
        fs::write(child.join("pids.events"), "max 7\n").unwrap();
        assert_eq!(group.usage(), Usage { memory_peak_bytes: Some(1000), oom_kills: 2, pids_refused: 7 });
        // The last thing that was asked for is what is written.
        assert_eq!(fs::read_to_string(top.path().join("cgroup.subtree_control")).unwrap(), "+pids");
        fs::remove_dir_all(child).unwrap();
    }

    #[test]
    fn we_leave_a_group_in_which_we_are_alone_and_no_other() {
        let top = tempfile::tempdir().unwrap();
        delegated(top.path(), &format!("{}\n", std::process::id()));
        make_room(top.path()).unwrap();
        assert_eq!(fs::read_to_string(top.path().join(leaf_name()).join("cgroup.procs")).unwrap(), std::process::id().to_string());
        delegated(top.path(), &format!("1\n{}\n", std::process::id()));
        assert!(make_room(top.path()).is_err());
    }

    /// The kernel would let `pids` and `cpu` be enabled there, and then refuse every process in the groups below.
    #[test]
    fn a_group_with_other_processes_is_not_divided() {
        let top = tempfile::tempdir().unwrap();
        let own = top.path().join("session.scope");
        fs::create_dir(&own).unwrap();
        delegated(&own, &format!("1\n{}\n", std::process::id()));
        let at = Own { version: Version::V2, directory: own.clone() };
        let group = Group::make(&limits(), |_| Some(at.clone()));
        let reason = format!("{}: other processes than rbuild are in it", own.display());
        assert_eq!(group.missing, CONTROLLERS.map(|controller| (controller, reason.clone())));
        assert_eq!(group.parts.len(), 0);
        // Its parent is ours too: all limits are in one group of it.
        delegated(top.path(), "");
        let group = Group::make(&limits(), |_| Some(at.clone()));
        assert_eq!((group.missing.len(), group.parts.len()), (0, 1));
        assert_eq!(group.parts[0].directory.parent(), Some(top.path()));
        fs::remove_dir_all(&group.parts[0].directory).unwrap();
    }

    #[test]
    fn what_no_controller_enforces_is_left() {
        let group = Group::make(&limits(), |_| None);
        assert_eq!(group.missing.len(), 4);
        assert_eq!(group.left(&limits()), limits());
        let group = Group { parts: Vec::new(), missing: vec![("pids", "none".into())] };
        assert_eq!(group.left(&limits()), Limits { pids: Some(50), ..Limits::default() });
    }

    #[test]
    fn groups_of_the_dead_are_removed() {
        let top = tempfile::tempdir().unwrap();
        let dead = top.path().join("rbuild-4194305-0");
        let alive = top.path().join(format!("rbuild-{}-0", std::process::id()));
        let other = top.path().join("user.slice");
        let _ = [&dead, &alive, &other].map(|path| fs::create_dir(path).unwrap());
        remove_left_over(top.path());
        assert!(!dead.exists() && alive.exists() && other.exists());
    }
}
