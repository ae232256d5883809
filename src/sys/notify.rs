//! Seccomp user notification: another process's system call, held until we answer it.
//! Unaware of what is answered.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::seccomp::Instruction;

/// A held system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Names it in answers.
    pub id: u64,
    /// The thread that made it, in our pid namespace.
    pub pid: u32,
    /// Which call.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The answers' way in.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

/// Installs a filter for this thread and its children and returns the descriptor on which its held calls arrive.
pub fn install(program: &[Instruction]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::other("the filter is too long"))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // A call that we have begun to answer is not interrupted by signals, where the kernel can do that (5.19).
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    for flags in [flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, flags] {
        // SAFETY: the kernel copies `len` instructions from `filter` and writes nothing.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program as *const libc::sock_fprog) };
        if fd >= 0 {
            let fd = i32::try_from(fd).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::last_os_error())
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Takes a descriptor that `install` made.
    pub fn new(fd: OwnedFd) -> Self {
        // Waking the other side on our processor halves the cost of a call (6.6); older kernels refuse.
        const SYNC_WAKE_UP: u64 = 1;
        // SAFETY: this request takes its number by value.
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
        Self { fd }
    }

    /// The next held call; None when it has gone away meanwhile.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: the struct is plain numbers; the kernel asks for zeroes.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one `seccomp_notif`.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &mut call) } < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        Ok(Some(Call { id: call.id, pid: call.pid, number: call.data.nr.into(), arguments: call.data.args }))
    }

    /// Whether nobody is left who could make a call; `receive` then returns at once, with nothing.
    pub fn is_abandoned(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
            Ok(_) => Ok(polled[0].revents().contains(PollFlags::HUP)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the kernel do the call as if nobody had held it.
    pub fn let_through(&self, call: &Call) {
        self.send(libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 });
    }

    /// Answers with a value.
    pub fn answer(&self, call: &Call, value: i64) {
        self.send(libc::seccomp_notif_resp { id: call.id, val: value, error: 0, flags: 0 });
    }

    /// Answers with an error number.
    pub fn refuse(&self, call: &Call, errno: i32) {
        self.send(libc::seccomp_notif_resp { id: call.id, val: 0, error: -errno, flags: 0 });
    }

    /// Gives the caller a copy of `fd` and answers with its number there.
    pub fn answer_with_fd(&self, call: &Call, fd: impl AsFd, close_on_exec: bool) -> io::Result<()> {
        let add = libc::seccomp_notif_addfd {
            id: call.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_fd().as_raw_fd().unsigned_abs(),
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the request reads one `seccomp_notif_addfd`.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &add) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// A caller that is gone needs no answer.
    fn send(&self, answer: libc::seccomp_notif_resp) {
        // SAFETY: the request reads one `seccomp_notif_resp`.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &answer) };
    }
}

/// Reads another process's memory; returns how many bytes there were.
pub fn read_memory(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: buffer.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes into `buffer`; the remote address is checked by it.
    let count = unsafe { libc::process_vm_readv(pid as libc::pid_t, &local, 1, &remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes another process's memory, all or nothing.
pub fn write_memory(pid: u32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: the kernel only reads `bytes`; the remote address is checked by it.
    let count = unsafe { libc::process_vm_writev(pid as libc::pid_t, &local, 1, &remote, 1, 0) };
    if usize::try_from(count) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

/// A string of another process, without its NUL; at most a path long.
pub fn read_string(pid: u32, address: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut address = address;
    while text.len() < libc::PATH_MAX as usize {
        // Never across a page: the next one may not exist.
        let mut chunk = [0; 256];
        let left_in_page = 4096 - (address as usize & 4095);
        let count = read_memory(pid, address, &mut chunk[..left_in_page.min(256)])?;
        let read = &chunk[..count];
        if let Some(end) = read.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&read[..end]);
            return Ok(text);
        }
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        text.extend_from_slice(read);
        address += count as u64;
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// A resource limit by its number.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Not enforced since Linux 2.4.
    Rss = 5,
    /// Not enforced since Linux 2.4.
    Locks = 10,
    /// Of real-time processes.
    RealTime = 15,
}

#[repr(C)]
struct LimitPair {
    soft: u64,
    hard: u64,
}

/// Another process's soft limit; all ones is none.
pub fn soft_limit(pid: u32, limit: Limit) -> io::Result<u64> {
    Ok(limits(pid, limit, None)?.soft)
}

/// Sets another process's soft limit and leaves the hard one.
pub fn set_soft_limit(pid: u32, limit: Limit, value: u64) -> io::Result<()> {
    let hard = limits(pid, limit, None)?.hard;
    limits(pid, limit, Some(&LimitPair { soft: value, hard })).map(drop)
}

/// The limits before the change.
fn limits(pid: u32, limit: Limit, new: Option<&LimitPair>) -> io::Result<LimitPair> {
    let mut old = LimitPair { soft: 0, hard: 0 };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: prlimit64 reads one pair where `new` is not null and writes one to `old`.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, libc::c_long::from(pid), limit as libc::c_long, new, &mut old as *mut LimitPair) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(old) }
}
