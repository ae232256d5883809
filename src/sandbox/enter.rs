//! Enters the user namespace in which rbuild is root, once, at the top of `main`.
//!
//! The process moves itself: it unshares a user and a mount namespace while it has one thread, and a helper forked
//! just before, which stayed outside, writes the id maps (itself as root, by newuidmap and newgidmap otherwise). The
//! process id, the terminal, the signals and the working directory stay what they were, there is no second program to
//! forward anything to and no mark in the environment that could be forged.
//! Unaware of what is done inside.

use std::{
    fs,
    io::{self, Read, Write},
    process::{Command, Stdio},
    sync::OnceLock,
};

use nix::{
    sched::CloneFlags,
    unistd::{Pid, User},
};
use rustix::process::DumpableBehavior;

use super::{
    idmap::{self, Range},
    probe::{self, Gate, Runner},
};
use crate::sys::{mountns, process};

/// A step of the privilege ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// No namespaces and no chroot: only COPY.
    Copy,
    /// Root in a plain container: chroot, no mounts.
    Chroot,
    /// A user namespace with one id.
    Single,
    /// A user namespace with a range of ids, or root that can mount.
    Full,
}

/// What the caller wants of `enter`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Stand on this rung and no other.
    pub rung: Option<Rung>,
    /// Who runs us, for advice.
    pub runner: Option<Runner>,
}

/// Where rbuild stands.
#[derive(Debug, Clone)]
pub struct Entered {
    /// The rung.
    pub rung: Rung,
    /// Why it is not a higher one.
    pub reason: Option<String>,
    /// How many ids there are.
    pub ids: u64,
    /// The gate that is closed, where one keeps us from a higher rung.
    pub obstacle: Option<Gate>,
}

static CURRENT: OnceLock<Entered> = OnceLock::new();

/// The rung on which `enter` has put this process.
pub fn current() -> Rung {
    CURRENT.get().map_or(Rung::Full, |entered| entered.rung)
}

/// What keeps this process from a higher rung: the hint of every error that comes of it.
pub fn obstacle() -> Option<&'static Gate> {
    CURRENT.get()?.obstacle.as_ref()
}

/// Why rbuild cannot stand where it was told to.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The wanted rung is out of reach.
    #[error("the `{wanted}` rung is out of reach: {reason}")]
    OutOfReach {
        /// The rung.
        wanted: Rung,
        /// What stood in the way.
        reason: String,
        /// The gate that is closed.
        obstacle: Option<Box<Gate>>,
    },
    /// Entered halfway, where nothing works.
    #[error("entering the user namespace broke off: {0}")]
    Broken(String),
}

impl std::fmt::Display for Rung {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Rung::Full => "full",
            Rung::Single => "single",
            Rung::Chroot => "chroot",
            Rung::Copy => "copy",
        })
    }
}

impl std::str::FromStr for Rung {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Rung::Full, Rung::Single, Rung::Chroot, Rung::Copy];
        all.into_iter().find(|rung| rung.to_string() == text).ok_or_else(|| format!("no such rung: {text} (full, single, chroot, copy)"))
    }
}

/// How the maps get written.
#[derive(Debug)]
enum Maps {
    /// By ourselves, being root outside.
    Direct(Vec<Range>, Vec<Range>),
    /// By the setuid helpers.
    Helpers(Vec<Range>, Vec<Range>),
    /// One id, by ourselves from inside; with the reason for no more and the gate that is closed.
    Own(String, Option<Gate>),
}

/// The highest id of our user namespace that is mapped, with all below it.
pub fn highest_id() -> u32 {
    static HIGHEST: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *HIGHEST.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| idmap::highest(&idmap::identity(&text)));
        let users = read("/proc/self/uid_map").unwrap_or(0);
        users.min(read("/proc/self/gid_map").unwrap_or(0))
    })
}

/// Moves this process to where it is root. Call it while there is one thread.
pub fn enter(options: &Options) -> Result<Entered, EnterError> {
    let entered = enter_rung(options)?;
    // Only the first call can have moved us.
    let _ = CURRENT.set(entered.clone());
    Ok(entered)
}

fn enter_rung(options: &Options) -> Result<Entered, EnterError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let as_asked = || Some("as asked".to_owned());
    let entered = match options.rung {
        Some(Rung::Copy) => Entered { rung: Rung::Copy, reason: as_asked(), ids: 1, obstacle: None },
        Some(Rung::Chroot) => {
            let entered = stay_outside(uid, None, None);
            Entered { reason: entered.reason.or_else(as_asked), ..entered }
        }
        Some(Rung::Single) => enter_namespace(&Maps::Own("as asked".into(), None), uid, gid, options.runner)?,
        Some(Rung::Full) | None => {
            let maps = choose_maps(uid, gid, options.runner);
            match (options.rung, maps) {
                (Some(wanted), Maps::Own(reason, obstacle)) => {
                    return Err(EnterError::OutOfReach { wanted, reason, obstacle: obstacle.map(Box::new) });
                }
                (_, maps) => enter_namespace(&maps, uid, gid, options.runner)?,
            }
        }
    };
    match options.rung {
        Some(wanted) if entered.rung < wanted => {
            let Entered { reason, obstacle, .. } = entered;
            Err(EnterError::OutOfReach { wanted, reason: reason.unwrap_or_default(), obstacle: obstacle.map(Box::new) })
        }
        _ => Ok(entered),
    }
}

/// Whoever unshares cannot come back: what may fail is tried by a copy first.
fn enter_namespace(maps: &Maps, uid: u32, gid: u32, runner: Option<Runner>) -> Result<Entered, EnterError> {
    match try_user_namespace() {
        Ok(()) => unshare_with(maps, uid, gid).map_err(EnterError::Broken),
        Err(refused) => Ok(without_user_namespace(uid, &refused, runner)),
    }
}

/// Why there is no user namespace in which we have rights.
#[derive(Debug)]
pub(super) struct Refused {
    /// What was being done.
    pub doing: &'static str,
    /// What the kernel said.
    pub error: io::Error,
}

/// Does in a copy of this process what `enter` does.
pub(super) fn try_user_namespace() -> Result<(), Refused> {
    const STAGES: [&str; 4] =
        ["fork", "unshare(CLONE_NEWUSER | CLONE_NEWNS)", "write /proc/self/uid_map", "change mount propagation inside"];
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let refused = |stage: usize, error: io::Error| Refused { doing: STAGES[stage], error };
    let (mut answer, mut tell) = io::pipe().map_err(|error| refused(0, error))?;
    let child = process::fork(|| {
        let stages: [&dyn Fn() -> io::Result<()>; 3] = [
            &|| Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?),
            &|| write_own_map(uid, gid),
            &mountns::make_all_private,
        ];
        for (index, stage) in stages.iter().enumerate() {
            if let Err(error) = stage() {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                return i32::from(tell.write_all(&[index as u8 + 1, errno as u8]).is_err());
            }
        }
        i32::from(tell.write_all(&[0, 0]).is_err())
    });
    child.and_then(|pid| process::wait_for(Some(pid))).map_err(|error| refused(0, error))?;
    let mut told = [0; 2];
    answer.read_exact(&mut told).map_err(|error| refused(0, error))?;
    match told {
        [0, _] => Ok(()),
        [stage, errno] => Err(refused(usize::from(stage), io::Error::from_raw_os_error(errno.into()))),
    }
}

fn choose_maps(uid: u32, gid: u32, runner: Option<Runner>) -> Maps {
    if uid == 0 {
        let read = |path: &str| fs::read_to_string(path).map(|text| idmap::identity(&text)).unwrap_or_default();
        let (uids, gids) = (read("/proc/self/uid_map"), read("/proc/self/gid_map"));
        return match idmap::size(&uids).min(idmap::size(&gids)) {
            0 | 1 => Maps::Own("this container has one id only".into(), Some(probe::subordinate_ids())),
            _ => Maps::Direct(uids, gids),
        };
    }
    let name = User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    let read = |path: &str| fs::read_to_string(path).map(|text| idmap::subordinate(&text, name.as_deref(), uid)).unwrap_or_default();
    let (uids, gids) = (read("/etc/subuid"), read("/etc/subgid"));
    let missing = |path: &str| {
        let name = name.clone().unwrap_or_else(|| uid.to_string());
        Maps::Own(format!("no range of ids for {name} in {path}"), Some(probe::subordinate_ids()))
    };
    match (uids.is_empty(), gids.is_empty()) {
        (true, _) => missing("/etc/subuid"),
        (_, true) => missing("/etc/subgid"),
        _ if rustix::thread::no_new_privs().unwrap_or(false) => {
            Maps::Own("no_new_privs is set: newuidmap has no power".into(), Some(probe::no_new_privs(runner)))
        }
        _ => Maps::Helpers(idmap::delegated(uid, &uids), idmap::delegated(gid, &gids)),
    }
}

/// Moves us, for good; the error says in which state nothing works.
fn unshare_with(maps: &Maps, uid: u32, gid: u32) -> Result<Entered, String> {
    let helper = match maps {
        Maps::Own(..) => None,
        _ => Some(Helper::start(maps).map_err(|error| format!("cannot start the helper that writes the id maps: {error}"))?),
    };
    let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let written = match (unshared, helper) {
        (Err(error), helper) => {
            helper.map(|helper| helper.finish(false));
            return Err(format!("a user namespace was refused on the second try: {error}"));
        }
        (Ok(()), Some(helper)) => helper.finish(true).map_err(|reason| (reason.clone(), Some(probe::helper_failed(&reason)))),
        (Ok(()), None) => Err(match maps {
            Maps::Own(reason, obstacle) => (reason.clone(), obstacle.clone()),
            _ => unreachable!("only our own map needs no helper"),
        }),
    };
    let entered = match (written, maps) {
        (Ok(()), Maps::Direct(uids, gids) | Maps::Helpers(uids, gids)) => {
            Entered { rung: Rung::Full, reason: None, ids: idmap::size(uids).min(idmap::size(gids)), obstacle: None }
        }
        (result, _) => {
            write_own_map(uid, gid).map_err(|error| format!("cannot map our own id: {error}"))?;
            let (reason, obstacle) = result.err().unzip();
            Entered { rung: Rung::Single, reason, ids: 1, obstacle: obstacle.flatten() }
        }
    };
    // Entering may have taken our own /proc files away from us.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    mountns::make_all_private().map_err(|error| format!("cannot make mounts private: {error}"))?;
    Ok(entered)
}

/// Maps us to root; what a helper has already written stays.
fn write_own_map(uid: u32, gid: u32) -> io::Result<()> {
    let is_empty = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim().is_empty());
    if is_empty("/proc/self/uid_map") {
        fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    }
    if is_empty("/proc/self/gid_map") {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
    }
    Ok(())
}

/// Root that may mount needs no user namespace.
fn without_user_namespace(uid: u32, refused: &Refused, runner: Option<Runner>) -> Entered {
    let obstacle = probe::user_namespace_refused(refused, runner);
    if uid == 0 && nix::sched::unshare(CloneFlags::CLONE_NEWNS).is_ok() && mountns::make_all_private().is_ok() {
        let ids = fs::read_to_string("/proc/self/uid_map").map(|text| idmap::size(&idmap::identity(&text))).unwrap_or(1);
        return Entered { rung: Rung::Full, reason: None, ids, obstacle: None };
    }
    let reason = format!("no user namespace: {}: {}", refused.doing, probe::said(&refused.error));
    stay_outside(uid, Some(reason), Some(obstacle))
}

/// Root that may not mount can still chroot.
fn stay_outside(uid: u32, reason: Option<String>, obstacle: Option<Gate>) -> Entered {
    let missing = if uid == 0 { probe::missing_for_chroot() } else { Some("only root may".to_owned()) };
    match missing {
        None => {
            let ids = fs::read_to_string("/proc/self/uid_map").map(|text| idmap::size(&idmap::identity(&text))).unwrap_or(1);
            Entered { rung: Rung::Chroot, reason, ids, obstacle }
        }
        Some(missing) => {
            let reason = reason.into_iter().chain([format!("no chroot: {missing}")]).collect::<Vec<_>>().join("; ");
            Entered { rung: Rung::Copy, reason: Some(reason), ids: 1, obstacle: obstacle.or_else(|| Some(probe::capabilities())) }
        }
    }
}

/// The process outside that writes our maps.
struct Helper {
    pid: Pid,
    go: io::PipeWriter,
    answer: io::PipeReader,
}

impl Helper {
    fn start(maps: &Maps) -> io::Result<Self> {
        let (mut wait, go) = io::pipe()?;
        let mut go = Some(go);
        let (answer, mut tell) = io::pipe()?;
        let parent = std::process::id();
        let pid = process::fork(|| {
            // Our own copy would keep the pipe open, and us waiting, after the parent was killed.
            drop(go.take());
            let mut byte = [0];
            // A closed pipe would mean that the parent is gone; it writes 0 when there is nothing to do.
            if !matches!(wait.read(&mut byte), Ok(1)) || byte[0] == 0 {
                return 0;
            }
            match write_maps(maps, parent) {
                Ok(()) => 0,
                Err(reason) => {
                    let _ = tell.write_all(reason.as_bytes());
                    1
                }
            }
        })?;
        Ok(Self { pid, go: go.expect("only the copy gives it away"), answer })
    }

    fn finish(mut self, go: bool) -> Result<(), String> {
        let told = self.go.write_all(&[u8::from(go)]);
        drop(self.go);
        let ended = process::wait_for(Some(self.pid)).map_err(|error| error.to_string())?;
        let mut reason = String::new();
        let _ = self.answer.read_to_string(&mut reason);
        match (told, ended.code) {
            (Ok(()), Some(0)) => Ok(()),
            (Err(error), _) => Err(error.to_string()),
            _ if reason.is_empty() => Err(format!("the helper ended: {ended:?}")),
            _ => Err(reason),
        }
    }
}

fn write_maps(maps: &Maps, pid: u32) -> Result<(), String> {
    match maps {
        Maps::Own(..) => Ok(()),
        Maps::Direct(uids, gids) => {
            let write = |name: &str, map: &[Range]| {
                fs::write(format!("/proc/{pid}/{name}"), idmap::to_text(map)).map_err(|error| format!("cannot write {name}: {error}"))
            };
            write("uid_map", uids).and_then(|()| write("gid_map", gids))
        }
        Maps::Helpers(uids, gids) => {
            // Both at once: each takes about a millisecond.
            let first = start_helper("newuidmap", pid, uids);
            let second = start_helper("newgidmap", pid, gids);
            finish_helper("newuidmap", first).and_then(|()| finish_helper("newgidmap", second))
        }
    }
}

fn start_helper(name: &str, pid: u32, map: &[Range]) -> io::Result<std::process::Child> {
    let numbers = map.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let mut command = Command::new(name);
    command.arg(pid.to_string()).args(numbers.map(|number| number.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

fn finish_helper(name: &str, child: io::Result<std::process::Child>) -> Result<(), String> {
    let output = child.and_then(std::process::Child::wait_with_output).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{name} is not installed"),
        _ => format!("cannot run {name}: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_are_ordered_and_named() {
        assert!(Rung::Full > Rung::Single && Rung::Single > Rung::Chroot && Rung::Chroot > Rung::Copy);
        for rung in [Rung::Full, Rung::Single, Rung::Chroot, Rung::Copy] {
            assert_eq!(rung.to_string().parse(), Ok(rung));
        }
        assert!("root".parse::<Rung>().is_err());
    }
}
