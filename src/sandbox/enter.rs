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

use super::idmap::{self, Range};
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
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stand on this rung and no other.
    pub rung: Option<Rung>,
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
}

static CURRENT: OnceLock<Rung> = OnceLock::new();

/// The rung on which `enter` has put this process.
pub(super) fn current() -> Rung {
    CURRENT.get().copied().unwrap_or(Rung::Full)
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
    /// One id, by ourselves from inside; with the reason for no more.
    Own(String),
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
    let _ = CURRENT.set(entered.rung);
    Ok(entered)
}

fn enter_rung(options: &Options) -> Result<Entered, EnterError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let lowest = match options.rung {
        Some(rung @ (Rung::Chroot | Rung::Copy)) => return Ok(Entered { rung, reason: Some("as asked".into()), ids: 1 }),
        Some(rung) => rung,
        None => Rung::Copy,
    };
    let maps = if options.rung == Some(Rung::Single) { Maps::Own("as asked".into()) } else { choose_maps(uid, gid) };
    if let (Some(Rung::Full), Maps::Own(reason)) = (options.rung, &maps) {
        return Err(EnterError::OutOfReach { wanted: Rung::Full, reason: reason.clone() });
    }
    let entered = match unshare_with(&maps, uid, gid) {
        Ok(entered) => entered,
        Err(Unshare::Refused(error)) => without_user_namespace(uid, &error),
        Err(Unshare::Broken(reason)) => return Err(EnterError::Broken(reason)),
    };
    if entered.rung < lowest {
        return Err(EnterError::OutOfReach { wanted: lowest, reason: entered.reason.unwrap_or_default() });
    }
    Ok(entered)
}

fn choose_maps(uid: u32, gid: u32) -> Maps {
    if uid == 0 {
        let read = |path: &str| fs::read_to_string(path).map(|text| idmap::identity(&text)).unwrap_or_default();
        let (uids, gids) = (read("/proc/self/uid_map"), read("/proc/self/gid_map"));
        return match idmap::size(&uids).min(idmap::size(&gids)) {
            0 | 1 => Maps::Own("this container has one id only".into()),
            _ => Maps::Direct(uids, gids),
        };
    }
    let name = User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    let read = |path: &str| fs::read_to_string(path).map(|text| idmap::subordinate(&text, name.as_deref(), uid)).unwrap_or_default();
    let (uids, gids) = (read("/etc/subuid"), read("/etc/subgid"));
    let missing = |path: &str| {
        let name = name.clone().unwrap_or_else(|| uid.to_string());
        Maps::Own(format!("no range of ids for {name} in {path}"))
    };
    match (uids.is_empty(), gids.is_empty()) {
        (true, _) => missing("/etc/subuid"),
        (_, true) => missing("/etc/subgid"),
        _ if rustix::thread::no_new_privs().unwrap_or(false) => Maps::Own("no_new_privs is set: newuidmap has no power".into()),
        _ => Maps::Helpers(idmap::delegated(uid, &uids), idmap::delegated(gid, &gids)),
    }
}

enum Unshare {
    /// Nothing has changed.
    Refused(io::Error),
    /// We are inside without a usable map.
    Broken(String),
}

fn unshare_with(maps: &Maps, uid: u32, gid: u32) -> Result<Entered, Unshare> {
    let helper = match maps {
        Maps::Own(_) => None,
        _ => Some(Helper::start(maps).map_err(Unshare::Refused)?),
    };
    let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let written = match (&unshared, helper) {
        (Err(error), helper) => {
            helper.map(|helper| helper.finish(false));
            return Err(Unshare::Refused((*error).into()));
        }
        (Ok(()), Some(helper)) => helper.finish(true),
        (Ok(()), None) => Err(match maps {
            Maps::Own(reason) => reason.clone(),
            _ => String::new(),
        }),
    };
    let entered = match (written, maps) {
        (Ok(()), Maps::Direct(uids, gids) | Maps::Helpers(uids, gids)) => {
            Entered { rung: Rung::Full, reason: None, ids: idmap::size(uids).min(idmap::size(gids)) }
        }
        (result, _) => {
            write_own_map(uid, gid).map_err(|error| Unshare::Broken(format!("cannot map our own id: {error}")))?;
            Entered { rung: Rung::Single, reason: result.err(), ids: 1 }
        }
    };
    // Entering may have taken our own /proc files away from us.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    mountns::make_all_private().map_err(|error| Unshare::Broken(format!("cannot make mounts private: {error}")))?;
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

/// Root that may mount needs no user namespace; root that may not can still chroot.
fn without_user_namespace(uid: u32, error: &io::Error) -> Entered {
    let reason = match error.raw_os_error() {
        Some(libc::ENOSPC) => "user namespaces are used up (user.max_user_namespaces)".to_owned(),
        Some(libc::EPERM | libc::EACCES) => format!("a new user namespace is refused: {error}"),
        _ => format!("no user namespace: {error}"),
    };
    let ids = fs::read_to_string("/proc/self/uid_map").map(|text| idmap::size(&idmap::identity(&text))).unwrap_or(1);
    if uid == 0 && nix::sched::unshare(CloneFlags::CLONE_NEWNS).is_ok() && mountns::make_all_private().is_ok() {
        return Entered { rung: Rung::Full, reason: None, ids };
    }
    Entered { rung: if uid == 0 { Rung::Chroot } else { Rung::Copy }, reason: Some(reason), ids }
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
        Maps::Own(_) => Ok(()),
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
