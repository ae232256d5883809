//! Forking, executing and ending processes. Only single-threaded programs fork into our own code: the helper of
//! `sandbox::enter` and RUN's init.
//! Unaware of what the processes are for.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
    },
};

use nix::{
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{ForkResult, Pid},
};

/// What a process used and how it ended, from `wait4`.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Which child ended.
    pub pid: Pid,
    /// The exit code, when it exited.
    pub code: Option<i32>,
    /// The signal, when one ended it.
    pub signal: Option<i32>,
    /// Largest resident set of it or of a child it waited for.
    pub max_rss_kb: u64,
    /// User time with waited-for children.
    pub user_us: u64,
    /// System time with waited-for children.
    pub system_us: u64,
}

/// Runs `child` in a copy of this process; the copy ends with the code that it returns.
/// The caller promises, by calling it, that this process has one thread: `fork_is_safe` checks it.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    if !fork_is_safe() {
        return Err(io::Error::other("this process has more than one thread and may not fork"));
    }
    // SAFETY: there is one thread (checked above), so the copy has every lock in a known state.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = child();
            exit_now(code)
        }
    }
}

/// Runs `child` in a new process that borrows this one's memory, and returns once it has executed a program or ended with
/// the code that `child` returns. Copying a process for a child that soon executes costs more than all that such a child
/// does. What `child` does to memory is done to ours; descriptors, ids, masks and signal actions are its own.
pub fn vfork<F: FnOnce() -> i32>(child: F) -> io::Result<Pid> {
    extern "C" fn enter<F: FnOnce() -> i32>(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: this is the `Option<F>` below, whose owner is suspended until we are gone.
        let child = unsafe { &mut *child.cast::<Option<F>>() };
        let code = child.take().map(|child| std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)));
        exit_now(code.and_then(Result::ok).unwrap_or(101))
    }
    let stack = Stack::new()?;
    let mut child = Some(child);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone; the calling thread, whose variables the child uses, is suspended by
    // CLONE_VFORK for as long as the child shares our memory. Other threads go on as beside any other thread.
    let pid = unsafe { libc::clone(enter::<F>, stack.top(), flags, (&raw mut child).cast()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid))
}

/// Memory that a child runs on; whoever grows out of it meets a page that can't be touched. It is not given back: to take
/// memory away interrupts all processors, and who has borrowed its own to a child soon ends.
struct Stack {
    bottom: *mut libc::c_void,
}

impl Stack {
    const SIZE_BYTES: usize = 2 << 20;
    const GUARD_BYTES: usize = 64 << 10;

    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: new memory at a place of the kernel's choice.
        let bottom = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if bottom == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the lowest pages of the memory just made.
        match unsafe { libc::mprotect(bottom, Self::GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(Self { bottom }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Stacks grow downwards.
    fn top(&self) -> *mut libc::c_void {
        self.bottom.wrapping_byte_add(Self::SIZE_BYTES)
    }
}

/// Whether this process has only one thread; where /proc does not say, the caller's word is taken.
fn fork_is_safe() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |entries| entries.count() == 1)
}

/// Ends this process without running destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// What there is to say of our children.
#[derive(Debug, Clone, Copy)]
pub enum Waited {
    /// One has ended.
    Ended(Ended),
    /// None of them has.
    Running,
    /// There is none.
    NoChild,
}

/// Waits for a child (`None`: any) and says how it ended.
pub fn wait_for(pid: Option<Pid>) -> io::Result<Ended> {
    match wait(pid, 0)? {
        Some(ended) => Ok(ended),
        None => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Collects a child that has ended, if one has.
pub fn try_wait() -> io::Result<Waited> {
    match wait(None, libc::WNOHANG) {
        Ok(Some(ended)) => Ok(Waited::Ended(ended)),
        Ok(None) => Ok(Waited::Running),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Waited::NoChild),
        Err(error) => Err(error),
    }
}

fn wait(pid: Option<Pid>, options: libc::c_int) -> io::Result<Option<Ended>> {
    loop {
        let mut status = 0;
        // SAFETY: `rusage` is plain numbers, all zeroes are a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both out-pointers are valid for the duration of the call.
        let found = unsafe { libc::wait4(pid.map_or(-1, Pid::as_raw), &mut status, options, &mut usage) };
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if found == 0 {
            return Ok(None);
        }
        let micros = |time: libc::timeval| u64::try_from(i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_usec)).unwrap_or(0);
        return Ok(Some(Ended {
            pid: Pid::from_raw(found),
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
            max_rss_kb: u64::try_from(usage.ru_maxrss).unwrap_or(0),
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
        }));
    }
}

/// A descriptor that can be read when children have ended, instead of the signal that says so.
pub fn watch_children() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Leaves every signal that asks a program to end, or a terminal sends, without effect.
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE] {
        // SAFETY: SIG_IGN installs no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Replaces this process; returns only the error.
pub fn exec(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(program, args, env) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: only flags of descriptors change; close_range takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    // Before Linux 5.11: one by one.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if fd >= 0 && fd.unsigned_abs() >= first {
            // SAFETY: F_SETFD on a number that may be closed by now is answered with EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Puts `fd` at descriptor number `number`, without close-on-exec.
pub fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 closes what `number` was before; only RUN's init uses it, for 0, 1 and 2, which nobody owns.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number that the mounted /proc has for a thread of our pid namespace, where that /proc is of one further out.
pub fn pid_in_proc(tid: u32) -> io::Result<u32> {
    // PIDFD_THREAD (6.9) takes any thread; before, only a thread that its process is named after.
    let flags = [rustix::process::PidfdFlags::from_bits_retain(libc::O_EXCL as u32), rustix::process::PidfdFlags::empty()];
    let tid = rustix::process::Pid::from_raw(tid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    let opened = flags.into_iter().find_map(|flags| rustix::process::pidfd_open(tid, flags).ok());
    let Some(fd) = opened else { return find_in_proc(tid.as_raw_nonzero().get()) };
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    number.filter(|pid| *pid > 0).ok_or(io::ErrorKind::NotFound.into())
}

/// The same by looking at everybody: a thread whose innermost number is `tid` in our own pid namespace.
fn find_in_proc(tid: i32) -> io::Result<u32> {
    let ours = std::fs::read_link("/proc/self/ns/pid")?;
    for process in std::fs::read_dir("/proc")?.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit()) {
        if std::fs::read_link(process.path().join("ns/pid")).ok().as_ref() != Some(&ours) {
            continue;
        }
        for thread in std::fs::read_dir(process.path().join("task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let innermost = status.lines().find_map(|line| line.strip_prefix("NSpid:")).and_then(|pids| pids.split_whitespace().last());
            if innermost.and_then(|pid| pid.parse().ok()) == Some(tid) {
                return thread.file_name().to_str().and_then(|name| name.parse().ok()).ok_or(io::ErrorKind::NotFound.into());
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Makes a command's process die when the thread that starts it ends.
pub fn end_with_this_thread(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // We may have been orphaned before the tie was made.
        if rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get().unsigned_abs() != parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and neither allocates nor takes locks.
    unsafe { command.pre_exec(tie) };
}

/// Lets this thread run soon after it is woken, for a short time: what it has to do takes a tenth of a millisecond, and it
/// would else wait until others have had turns of many. Its share of the processor stays the same. Needs Linux 6.12.
pub fn take_short_turns() -> io::Result<()> {
    const SHORTEST_NS: u64 = 100_000;
    // SAFETY: the struct is plain numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to `attributes`.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.sched_runtime = SHORTEST_NS;
    // SAFETY: the kernel reads as many bytes as the struct says it has.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the program that this process becomes have huge pages: our allocator refuses them, which is inherited.
pub fn allow_huge_pages() {
    // SAFETY: the call takes numbers only. A kernel without the setting has nothing to undo.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0) };
}

/// How many processors this process may use; asked once, for the answer is in many files.
pub fn processors() -> usize {
    static KNOWN: OnceLock<usize> = OnceLock::new();
    *KNOWN.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Has the C library's allocator make do with one heap: what is written in C allocates little here, and a heap for each of
/// our threads costs more than all of that.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes numbers only.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Whom [`forward_signals_to`] names.
static FORWARD_TO: AtomicI32 = AtomicI32::new(0);

/// Passes every signal that asks a program to do something on to a child, instead of being ended by it.
pub fn forward_signals_to(child: Pid) {
    FORWARD_TO.store(child.as_raw(), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(forward), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2] {
        // SAFETY: the handler makes one system call and keeps errno; both are allowed in a handler.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

extern "C" fn forward(signal: libc::c_int) {
    let errno = nix::errno::Errno::last_raw();
    // SAFETY: kill takes two numbers. The child is waited for by us alone, so the number is still its own.
    unsafe { libc::kill(FORWARD_TO.load(Ordering::SeqCst), signal) };
    nix::errno::Errno::set_raw(errno);
}

/// Gives all signals their default action and an empty mask, as a new program expects them.
pub fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL installs no handler of ours; numbers that can't be changed are refused with EINVAL.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: an empty set is made before it is used; the old mask is not asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowing_child_leaves_its_code_and_what_it_wrote() {
        let mut seen = String::new();
        let child = vfork(|| {
            seen.push_str("written by the child");
            3
        });
        assert_eq!(wait_for(Some(child.unwrap())).unwrap().code, Some(3));
        assert_eq!(seen, "written by the child");
        let program = vfork(|| {
            let args = [c"sh".to_owned(), c"-c".to_owned(), c"exit 5".to_owned()];
            drop(exec(c"/bin/sh", &args, &[]));
            1
        });
        assert_eq!(wait_for(Some(program.unwrap())).unwrap().code, Some(5));
        let fails = vfork(|| panic!("on purpose"));
        assert_eq!(wait_for(Some(fails.unwrap())).unwrap().code, Some(101));
    }
}
