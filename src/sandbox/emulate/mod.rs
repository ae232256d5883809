//! Ids and owners for programs where the kernel has one id only (the `single` rung).
//!
//! Calls that change or tell ids, owners and devices are held by a seccomp filter and answered here, by pid 1 of the
//! step: nothing is traced and no library is loaded into anybody. What is answered:
//!
//! | Call | Answer |
//! |---|---|
//! | chown and its kin | the kernel does it for id 0 (with all its side effects), the owner is written down |
//! | set*id, get*id, setgroups | kept per process, see [`ids`]; the rights of root stay |
//! | mknod of a device | an empty file that stands for it; answered on `full` too, where nothing else is ([`Scope`]) |
//! | open, mkdir, symlink, mkfifo by somebody else than root, or in a set-gid directory | made here, with the owner written down; refused where only another user may write |
//! | stat, fstat, statx | only for files with something written down; the kernel answers the rest |
//!
//! Everything else and everything that fails is let through to the kernel, which then says what it has to say. Not
//! emulated: owners of sockets, other access checks between the users of one step (reading, removing, renaming, changing
//! modes), set-id programs, and programs of a 32-bit sibling architecture.
//!
//! # Why `stat` agrees with `chown` everywhere, and what that costs
//!
//! A held call is two switches between processes: about 5 us, and a third more to look for a record, against 0.6 us for the
//! kernel alone. `find` and `tar` of small files feel it (two to four times as long, benches/compare "rungs"); real builds take
//! 1.0 to 1.1 times the processor time (`make` of 100 files of C, `apt-get install`). On a busy machine the clock tells of
//! another cost: where the scheduler shares processors between sessions, the answers must come from the session that asks,
//! or `make` takes twice as long (see `exec::Power`). Steps that start sessions of their own still pay that.
//! Measured without it, on Debian 12: `useradd` alone gives /etc/shadow to root's group (it copies the owner that `fstat`
//! tells); `cp -a`, `mv` to another file system, `tar`, `rsync`, `sed -i`, `perl -i` and `gzip` lose owners with a success;
//! as the owner of a repository `git` refuses it; `initdb` fails, and installing PostgreSQL makes no cluster. `apt-get
//! install`, `dpkg-statoverride`, `install -o`, `su` and `ssh-keygen` do not mind. Each of those first is a wrong image or a
//! failed build, and none is named by the step.
//!
//! To hold `stat` only where owners are recorded is no way out: every Debian and Alpine base records some, and a step's
//! processes cannot be given another filter once they run. So the calls are few and short instead: nothing is polled or
//! allocated that need not be, and paths lead through /proc only where a step has changed its root.
//! Unaware of mounts and namespaces.

mod create;
mod filter;
pub(super) mod ids;
mod owners;
mod stat;
mod target;

use std::{
    collections::HashSet,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{fs::Mode, io::Errno};
use serde::{Deserialize, Serialize};

use self::{
    ids::{Ids, Triple},
    target::Target,
};
use super::{rootfs::Proc, user::User};
use crate::sys::{
    notify::{self, Call, Listener},
    process,
    recorded::{self, Last},
    seccomp::Instruction,
};

/// What of a step is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Making devices, which no user namespace may: a call that is rarely made, and nothing else is held.
    Devices,
    /// All of the above.
    Everything,
}

/// The filter that holds the calls.
pub fn held_calls(scope: Scope) -> Vec<Instruction> {
    filter::filter(scope)
}

/// How many threads should answer where everything is held. One alone would gather all that a step runs on its own processor:
/// each call wakes the answering thread where it was made, and is answered there.
pub fn threads() -> usize {
    const MOST: usize = 4;
    rustix::thread::sched_getaffinity(None).map_or(1, |set| (set.count() as usize).clamp(1, MOST))
}

/// Makes the calling process believe to be a user. Before the filter.
pub fn pretend(user: &User) -> io::Result<()> {
    Ids { user: Triple::all(user.uid), group: Triple::all(user.gid) }.give_to(0)
}

/// Answers calls.
pub struct Emulator {
    listener: Listener,
    scope: Scope,
    /// Who the step started as.
    user: User,
    /// Whose numbers our /proc has.
    proc: Proc,
    /// Who asked to keep the powers of root when giving up its id (`setpriv` does, to change groups afterwards).
    keepers: Mutex<HashSet<u32>>,
    /// Some process may have another root than we do.
    has_chroots: AtomicBool,
    /// Whoever changes something is alone: nobody sees a file whose owner is not written down yet.
    changing: RwLock<()>,
}

/// What becomes of a call.
enum Answer {
    /// The kernel does it.
    Through,
    Value(i64),
    Error(i32),
    /// Answered already.
    Done,
}

impl AsFd for Emulator {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Emulator {
    /// Answers what arrives at a listener. The process's own mode mask is cleared: new files get what is asked for.
    pub fn new(listener: Listener, scope: Scope, user: User, proc: Proc) -> Self {
        rustix::process::umask(Mode::empty());
        let (keepers, has_chroots, changing) = Default::default();
        Self { listener, scope, user, proc, keepers, has_chroots, changing }
    }

    /// Answers calls until nobody is left who could make one. A thread of its own does nothing else: to look each time
    /// whether the step has ended would be a sixth of what a call costs.
    pub fn answer_all(&self) -> io::Result<()> {
        // Somebody waits for each answer. An error means that the kernel knows no turns (before 6.12).
        let _ = process::take_short_turns();
        while !self.listener.is_abandoned()? {
            while self.answer_next()? {}
        }
        Ok(())
    }

    /// Answers one call; false when there was none.
    pub fn answer_next(&self) -> io::Result<bool> {
        let Some(call) = self.listener.receive()? else { return Ok(false) };
        // What cannot be emulated is as if it were not.
        match self.decide_in_turn(&call).unwrap_or(Answer::Through) {
            Answer::Through => self.listener.let_through(&call),
            Answer::Value(value) => self.listener.answer(&call, value),
            Answer::Error(errno) => self.listener.refuse(&call, errno),
            Answer::Done => {}
        }
        Ok(true)
    }

    fn decide_in_turn(&self, call: &Call) -> io::Result<Answer> {
        if filter::only_tells(call.number) {
            let _shared = self.changing.read().unwrap_or_else(PoisonError::into_inner);
            return self.decide(call);
        }
        let _alone = self.changing.write().unwrap_or_else(PoisonError::into_inner);
        self.decide(call)
    }

    fn keepers(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, call: &Call) -> io::Result<Answer> {
        // Only calls with paths need it; the others never look into /proc.
        let in_proc = if self.proc == Proc::Outer { process::pid_in_proc(call.pid).unwrap_or(0) } else { call.pid };
        let target = Target { pid: call.pid, in_proc, has_our_root: !self.has_chroots.load(Ordering::Relaxed) };
        let [first, second, third, fourth, ..] = call.arguments;
        match call.number {
            libc::SYS_getuid => Ok(Answer::Value(Ids::of(call.pid)?.user.real.into())),
            libc::SYS_geteuid => Ok(Answer::Value(Ids::of(call.pid)?.user.effective.into())),
            libc::SYS_getgid => Ok(Answer::Value(Ids::of(call.pid)?.group.real.into())),
            libc::SYS_getegid => Ok(Answer::Value(Ids::of(call.pid)?.group.effective.into())),
            libc::SYS_getresuid => write_three(call, Ids::of(call.pid)?.user),
            libc::SYS_getresgid => write_three(call, Ids::of(call.pid)?.group),
            libc::SYS_getgroups => self.get_groups(call),
            libc::SYS_setuid => self.change(call, |ids, root| Some(Ids { user: ids.user.set(first as u32, root)?, ..ids })),
            libc::SYS_setgid => self.change(call, |ids, root| Some(Ids { group: ids.group.set(first as u32, root)?, ..ids })),
            libc::SYS_setreuid => {
                self.change(call, |ids, root| Some(Ids { user: ids.user.set_two(first as u32, second as u32, root)?, ..ids }))
            }
            libc::SYS_setregid => {
                self.change(call, |ids, root| Some(Ids { group: ids.group.set_two(first as u32, second as u32, root)?, ..ids }))
            }
            libc::SYS_setresuid => self
                .change(call, |ids, root| Some(Ids { user: ids.user.set_three([first, second, third].map(|id| id as u32), root)?, ..ids })),
            libc::SYS_setresgid => self.change(call, |ids, root| {
                Some(Ids { group: ids.group.set_three([first, second, third].map(|id| id as u32), root)?, ..ids })
            }),
            libc::SYS_setfsuid => Ok(Answer::Value(Ids::of(call.pid)?.user.effective.into())),
            libc::SYS_setfsgid => Ok(Answer::Value(Ids::of(call.pid)?.group.effective.into())),
            libc::SYS_setgroups => Ok(if self.has_powers(call.pid)? { Answer::Value(0) } else { Answer::Error(libc::EPERM) }),
            libc::SYS_prctl => {
                let mut keepers = self.keepers();
                let _ = if second == 1 { keepers.insert(call.pid) } else { keepers.remove(&call.pid) };
                Ok(Answer::Through)
            }
            libc::SYS_fchown => chown(call, target.descriptor(first as i32), Last::Followed, second, third),
            libc::SYS_fchownat => {
                let last = last_of(call.arguments[4]);
                chown_at(call, target, first as i32, second, (third, fourth), last, call.arguments[4])
            }
            libc::SYS_mknodat => self.mknod(target, first as i32, second, third as u32, fourth),
            libc::SYS_mkdirat => self.mkdir(target, first as i32, second, third as u32),
            libc::SYS_symlinkat => self.symlink(target, first, second as i32, third),
            libc::SYS_openat => self.open(call, target, first as i32, second, third as u32, fourth as u32),
            libc::SYS_newfstatat => stat_at(target, first as i32, second, third, fourth),
            libc::SYS_fstat => stat_of(target, target.descriptor(first as i32), Last::Followed, second),
            libc::SYS_statx => statx(call, target),
            libc::SYS_chroot => {
                self.has_chroots.store(true, Ordering::Relaxed);
                Ok(Answer::Through)
            }
            _ => self.decide_old(call, target),
        }
    }

    /// Calls that only old architectures have.
    #[cfg(target_arch = "x86_64")]
    fn decide_old(&self, call: &Call, target: Target) -> io::Result<Answer> {
        let [first, second, third, ..] = call.arguments;
        const HERE: i32 = libc::AT_FDCWD;
        match call.number {
            libc::SYS_chown => chown(call, target.path(HERE, first)?, Last::Followed, second, third),
            libc::SYS_lchown => chown(call, target.path(HERE, first)?, Last::Itself, second, third),
            libc::SYS_mknod => self.mknod(target, HERE, first, second as u32, third),
            libc::SYS_mkdir => self.mkdir(target, HERE, first, second as u32),
            libc::SYS_symlink => self.symlink(target, first, HERE, second),
            libc::SYS_open => self.open(call, target, HERE, first, second as u32, third as u32),
            libc::SYS_creat => {
                let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
                self.open(call, target, HERE, first, flags, second as u32)
            }
            libc::SYS_stat => stat_of(target, target.path(HERE, first)?, Last::Followed, second),
            libc::SYS_lstat => stat_of(target, target.path(HERE, first)?, Last::Itself, second),
            _ => Ok(Answer::Through),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn decide_old(&self, _call: &Call, _target: Target) -> io::Result<Answer> {
        Ok(Answer::Through)
    }

    fn has_powers(&self, pid: u32) -> io::Result<bool> {
        Ok(Ids::of(pid)?.is_root() || self.keepers().contains(&pid))
    }

    /// Sets new ids by a rule that knows the old ones and whether everything is allowed.
    fn change(&self, call: &Call, rule: impl FnOnce(Ids, bool) -> Option<Ids>) -> io::Result<Answer> {
        let old = Ids::of(call.pid)?;
        match rule(old, self.has_powers(call.pid)?) {
            Some(new) => new.give_to(call.pid).map(|()| Answer::Value(0)),
            None => Ok(Answer::Error(libc::EPERM)),
        }
    }

    /// Those of the step's user, and for whoever changed their group that group: what `setgroups` gave is not kept.
    /// The groups that the process really has are of the world outside.
    fn get_groups(&self, call: &Call) -> io::Result<Answer> {
        let [size, address, ..] = call.arguments;
        let ids = Ids::of(call.pid)?;
        let is_first = (ids.user.effective, ids.group.effective) == (self.user.uid, self.user.gid);
        let mut groups = if is_first { self.user.groups.clone() } else { vec![ids.group.effective] };
        groups.sort_unstable();
        if size > 0 {
            if (size as usize) < groups.len() {
                return Ok(Answer::Error(libc::EINVAL));
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            notify::write_memory(call.pid, address, &bytes)?;
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    fn mknod(&self, target: Target, directory: i32, path: u64, mode: u32, device: u64) -> io::Result<Answer> {
        if self.scope == Scope::Everything && mode & libc::S_IFMT == libc::S_IFIFO {
            let path = target.path(directory, path)?;
            let ids = Ids::of(target.pid)?;
            if self.is_refused(target, &path, &ids, false) {
                return Ok(Answer::Error(libc::EACCES));
            }
            let owner = create::owner_of_new(&path, &ids);
            return Ok(owner.map_or(Answer::Through, |owner| from_result(create::make_pipe(target, &path, mode, owner))));
        }
        if !matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
            return Ok(Answer::Through);
        }
        if !self.may_make_devices(target)? {
            return Ok(Answer::Error(libc::EPERM));
        }
        let made = owners::make_device(&target.path(directory, path)?, create::masked(target, mode), device);
        Ok(made.map_or_else(|error| Answer::Error(error.raw_os_error().unwrap_or(libc::EPERM)), |()| Answer::Value(0)))
    }

    fn may_make_devices(&self, target: Target) -> io::Result<bool> {
        const MKNOD: u64 = 1 << 27;
        match self.scope {
            Scope::Devices => Ok(target.capabilities() & MKNOD != 0),
            Scope::Everything => Ok(Ids::of(target.pid)?.is_root()),
        }
    }

    fn mkdir(&self, target: Target, directory: i32, path: u64, mode: u32) -> io::Result<Answer> {
        let ids = Ids::of(target.pid)?;
        let path = target.path(directory, path)?;
        if self.is_refused(target, &path, &ids, false) {
            return Ok(Answer::Error(libc::EACCES));
        }
        let Some(owner) = create::owner_of_new(&path, &ids) else { return Ok(Answer::Through) };
        Ok(from_result(create::make_directory(target, &path, mode, owner)))
    }

    fn open(&self, call: &Call, target: Target, directory: i32, path: u64, flags: u32, mode: u32) -> io::Result<Answer> {
        let ids = Ids::of(target.pid)?;
        let path = target.path(directory, path)?;
        let writes = flags & (libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC) as u32 != 0;
        let is_unnamed = flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32;
        if !is_unnamed && self.is_refused(target, &path, &ids, writes) {
            return Ok(Answer::Error(libc::EACCES));
        }
        let Some(owner) = create::owner_of_new(&path, &ids) else { return Ok(Answer::Through) };
        let Some(file) = create::open_new(target, &path, flags, mode, owner) else { return Ok(Answer::Through) };
        self.listener.answer_with_fd(call, file, flags & libc::O_CLOEXEC as u32 != 0)?;
        Ok(Answer::Done)
    }

    fn symlink(&self, target: Target, content: u64, directory: i32, path: u64) -> io::Result<Answer> {
        let ids = Ids::of(target.pid)?;
        let path = target.path(directory, path)?;
        if self.is_refused(target, &path, &ids, false) {
            return Ok(Answer::Error(libc::EACCES));
        }
        let Some(owner) = create::owner_of_new(&path, &ids) else { return Ok(Answer::Through) };
        let content = notify::read_string(target.pid, content)?;
        Ok(from_result(create::make_link(OsStr::from_bytes(&content), &path, owner)))
    }

    fn is_refused(&self, target: Target, path: &Path, ids: &Ids, writes: bool) -> bool {
        !self.keepers().contains(&target.pid) && create::is_refused(path, ids, writes)
    }
}

fn from_result(result: Result<(), Errno>) -> Answer {
    result.map_or_else(|error| Answer::Error(error.raw_os_error()), |()| Answer::Value(0))
}

fn last_of(flags: u64) -> Last {
    if flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0 { Last::Itself } else { Last::Followed }
}

fn write_three(call: &Call, triple: Triple) -> io::Result<Answer> {
    for (address, id) in call.arguments.iter().zip([triple.real, triple.effective, triple.saved]) {
        notify::write_memory(call.pid, *address, &id.to_ne_bytes())?;
    }
    Ok(Answer::Value(0))
}

fn chown_at(call: &Call, target: Target, directory: i32, path: u64, ids: (u64, u64), last: Last, flags: u64) -> io::Result<Answer> {
    let located = target.path(directory, path)?;
    // With an empty name the descriptor itself is meant, which is a link to follow.
    let last = if flags & libc::AT_EMPTY_PATH as u64 != 0 && is_descriptor(&located) { Last::Followed } else { last };
    chown(call, located, last, ids.0, ids.1)
}

/// Whether a path of ours is a descriptor of the target and nothing below it.
fn is_descriptor(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("fd")) || path.ends_with("cwd")
}

fn chown(call: &Call, path: PathBuf, last: Last, uid: u64, gid: u64) -> io::Result<Answer> {
    let ids = Ids::of(call.pid)?;
    let (uid, gid) = (uid as u32, gid as u32);
    if !ids.is_root() {
        // An owner may give a file to a group of theirs and to themselves.
        let (owner, _) = recorded::owner(&path, last).unwrap_or_default();
        let own = owner == ids.user.effective;
        let same_user = uid == u32::MAX || uid == owner;
        let own_group = gid == u32::MAX || gid == ids.group.effective;
        if !(own && same_user && own_group) {
            return Ok(Answer::Error(libc::EPERM));
        }
    }
    Ok(from_result(owners::change_owner(&path, last, uid, gid)))
}

fn stat_at(target: Target, directory: i32, path: u64, address: u64, flags: u64) -> io::Result<Answer> {
    // Most calls of the C library's fstat come this way, with an empty name.
    let located = target.path(directory, path)?;
    let empty = flags & libc::AT_EMPTY_PATH as u64 != 0 && is_descriptor(&located);
    stat_of(target, located, if empty { Last::Followed } else { last_of(flags) }, address)
}

fn stat_of(target: Target, path: PathBuf, last: Last, address: u64) -> io::Result<Answer> {
    let Some(difference) = stat::difference(&path, last) else { return Ok(Answer::Through) };
    difference.write_stat(&path, last, target.pid, address)?;
    Ok(Answer::Value(0))
}

fn statx(call: &Call, target: Target) -> io::Result<Answer> {
    let [directory, path, flags, mask, address, _] = call.arguments;
    let located = target.path(directory as i32, path)?;
    let empty = flags & libc::AT_EMPTY_PATH as u64 != 0 && is_descriptor(&located);
    let last = if empty { Last::Followed } else { last_of(flags) };
    let Some(difference) = stat::difference(&located, last) else { return Ok(Answer::Through) };
    let own_flags = if last == Last::Itself { libc::AT_SYMLINK_NOFOLLOW as u32 } else { 0 };
    difference.write_statx(&located, own_flags, mask as u32, call.pid, address)?;
    Ok(Answer::Value(0))
}
