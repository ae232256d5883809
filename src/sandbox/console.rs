//! The terminal of a step: a pair of its own devpts, so that `tty` and `ttyname` know it by a path that is there. Its other
//! end goes to rbuild over a socket. Unaware of what is done with it there.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::{fs::Mode, pty::OpenptFlags};

use super::outcome::{During, InitError};
use crate::sys::{fdpass, mountns, process};

/// Opens a terminal, gives the other end away, and makes it the session's own and all three standard streams. Returns when
/// rbuild says that it has its size.
pub fn open(socket: UnixStream) -> Result<(), InitError> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let other = open_pair(flags).during("open a terminal")?;
    rustix::pty::unlockpt(&other).during("unlock the terminal")?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&other, flags).during("open the terminal")?;
    // As a console it is also known to programs that look for one. Where /dev is not ours there is none.
    let _ = bind_console(&other);
    fdpass::send(&socket, &[0], &[other.as_fd()]).during("hand over the terminal")?;
    drop(other);
    fdpass::receive::<1>(&socket).during("wait for the terminal's size")?;
    for number in 0..=2 {
        process::place_fd(terminal.as_fd(), number).during("set standard streams")?;
    }
    rustix::process::ioctl_tiocsctty(io::stdin()).during("take the terminal")
}

/// The devpts at hand: `/dev/ptmx` may be a device of another one.
fn open_pair(flags: OpenptFlags) -> io::Result<OwnedFd> {
    let own = rustix::fs::open(
        "/dev/pts/ptmx",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    );
    match own {
        Ok(fd) => Ok(fd),
        Err(_) => Ok(rustix::pty::openpt(flags)?),
    }
}

fn bind_console(other: &OwnedFd) -> io::Result<()> {
    let name = rustix::pty::ptsname(other, Vec::new())?;
    let path = Path::new("/dev/console");
    let terminal = mountns::clone_host_path(Path::new(name.to_str().map_err(io::Error::other)?))?;
    let place = File::options().create_new(true).write(true).open(path)?;
    mountns::attach(terminal, place)
}
