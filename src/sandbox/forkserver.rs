//! The process that each step's init is forked from: rbuild, executed a second time when the first step starts.
//!
//! A program of this size takes milliseconds to execute (its pages are mapped, relocated and initialised); to fork one
//! that has only just begun takes a fraction of that. rbuild itself can't fork: it has threads.
//!
//! | Message | Bytes | Descriptors |
//! |---|---|---|
//! | to the server | one | the init's end of its control socket, standard output, standard error |
//! | its answer | number of the process, or the error's, negative | one by which that process is watched and killed |
//!
//! The server is in a process group of its own, for what is typed at a terminal is for rbuild, and it dies with rbuild.
//! It says on the control socket how an init ended that did not end well, and closes it then: where the socket ends, the
//! init has ended and is collected. Unaware of what an init does.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use nix::unistd::Pid;
use rustix::{
    event::{PollFd, PollFlags},
    process::{PidfdFlags, Signal},
};

use super::{
    init::{self, Control, rustix_pid},
    outcome::Message,
    selfexe,
};
use crate::sys::{fdpass, process};

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// rbuild's view of the server.
struct Server {
    socket: UnixStream,
    /// Starts the server and lives as long: the server dies with the thread that started it.
    thread: JoinHandle<()>,
}

/// An init that was forked for us.
#[derive(Debug)]
pub(super) struct Forked {
    /// Its number, as we see it.
    pub pid: Pid,
    death: OwnedFd,
}

impl Forked {
    /// Kills it, if it is still there.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.death, Signal::KILL);
    }

    /// Waits until it has ended.
    pub fn wait(&self) {
        while rustix::event::poll(&mut [PollFd::new(&self.death, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
    }
}

/// Forks an init with these streams. The first call starts the server.
pub(super) fn fork(control: &UnixStream, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<Forked> {
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let Server { socket, .. } = match &mut *server {
        Some(server) => server,
        none => none.insert(Server::start()?),
    };
    let answer = fdpass::send(socket, &[0], &[control.as_fd(), stdout, stderr]).and_then(|()| fdpass::receive(socket));
    if answer.is_err() {
        // It is gone; the next step starts another.
        *server = None;
    }
    let (number, mut fds) = answer?;
    match (i32::from_ne_bytes(number), fds.pop()) {
        (pid @ 1.., Some(death)) => Ok(Forked { pid: Pid::from_raw(pid), death }),
        (errno, _) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
    }
}

/// Ends the server, if there is one: what it used then counts as ours.
pub fn end_server() {
    if let Some(Server { socket, thread }) = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        drop(socket);
        let _ = thread.join();
    }
}

impl Server {
    fn start() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = Command::new(selfexe::path()?);
        command.arg0("rbuild-init").arg(init::ARGUMENT).env_clear().current_dir("/").process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name("steps".into()).spawn(move || {
            let started = command.spawn();
            // The command still holds the other end, which would keep the socket open for ever.
            drop(command);
            let (child, started) = match started {
                Ok(child) => (Some(child), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = tell.send(started);
            let _ = child.map(|mut child| child.wait());
        })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Self { socket, thread })
    }
}

/// An init that runs, on the server's side.
struct Running {
    pid: Pid,
    death: OwnedFd,
    control: Control,
}

/// The server: forks what is asked for until rbuild has no more. `init` is what the forked process does; it returns its
/// exit code.
pub(super) fn serve(init: impl Fn(&Control) -> i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut running: Vec<Running> = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(&socket, PollFlags::IN)];
        polled.extend(running.iter().map(|one| PollFd::new(&one.death, PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        // From the end, so that the places of the others stay theirs.
        for index in (0..running.len()).rev().filter(|index| ready[index + 1]) {
            running.swap_remove(index).collect()?;
        }
        if !ready[0] {
            continue;
        }
        let fds = match fdpass::receive::<1>(&socket) {
            Ok((_, fds)) => fds,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let Ok([control, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else { return Err(io::ErrorKind::InvalidData.into()) };
        match start([control, stdout, stderr], &mut running, &init) {
            Ok(one) => {
                fdpass::send(&socket, &one.pid.as_raw().to_ne_bytes(), &[one.death.as_fd()])?;
                running.push(one);
            }
            Err(error) => fdpass::send(&socket, &(-error.raw_os_error().unwrap_or(libc::EIO)).to_ne_bytes(), &[])?,
        }
    }
}

fn start(streams: [OwnedFd; 3], running: &mut Vec<Running>, init: &impl Fn(&Control) -> i32) -> io::Result<Running> {
    let server = rustix::process::getpid();
    let child = || {
        // Another step's control socket must end with that step.
        running.clear();
        let placed = streams.iter().zip(0..).try_for_each(|(fd, number): (_, RawFd)| process::place_fd(fd.as_fd(), number));
        match placed.and_then(|()| Control::from_stdin()) {
            // Whoever has lost the server so early has lost rbuild.
            Ok(control) if rustix::process::getppid() == Some(server) => init(&control),
            _ => 1,
        }
    };
    let pid = process::fork(child)?;
    let death = rustix_pid(pid).map_err(io::Error::other).and_then(|pid| Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?));
    let [control, ..] = streams;
    let death = death.inspect_err(|_| {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).and_then(|()| nix::sys::wait::waitpid(pid, None));
    })?;
    Ok(Running { pid, death, control: Control::from(UnixStream::from(control)) })
}

impl Running {
    /// Takes the ended process away and tells of an end that was not a good one.
    fn collect(self) -> io::Result<()> {
        let ended = process::wait_for(Some(self.pid))?;
        if ended.code != Some(0) {
            self.control.tell(&Message::Died(format!("{ended:?}")));
        }
        Ok(())
    }
}
