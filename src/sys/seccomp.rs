//! Puts a seccomp filter on this thread.
//! Unaware of what it filters.
#![allow(unsafe_code)]

use std::io;

/// One instruction of the filter's program.
pub type Instruction = libc::sock_filter;

/// Installs the filter for this thread and its children, for ever. Needs CAP_SYS_ADMIN here, or no_new_privs.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::other("the filter is too long"))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from `filter` and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program as *const libc::sock_fprog) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
