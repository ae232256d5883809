//! A program on a terminal of its own, driven as a person would: typed at, looked at, resized.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::OpenptFlags,
    termios::Winsize,
};

use super::User;

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing shown for so long: the program waits for keys.
const QUIET: Duration = Duration::from_millis(400);

/// The person's side of the terminal.
pub struct Pty {
    master: File,
    child: Child,
    /// All that was shown since the last match.
    pub seen: String,
}

impl Pty {
    /// Starts a program of the caller's with a new terminal as its controlling one; setsid(1) takes it.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Pty {
        Self::start_as(User::Caller, command, rows, columns)
    }

    /// The same for a user: a command does not tell whose it is.
    pub fn start_as(user: User, command: &Command, rows: u16, columns: u16) -> Pty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave: OwnedFd = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut wrapped = user.command(Path::new("setsid"), Path::new("/"));
        wrapped.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        set_size(&master, rows, columns);
        Pty { child: wrapped.spawn().unwrap(), master: master.into(), seen: String::new() }
    }

    /// As if the window had been made larger or smaller.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// As if these keys had been pressed.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads on until the text is shown; what follows it is left for the next call.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let is_open = self.read_until(until);
            assert!(is_open || self.seen.contains(text), "{text:?} was not shown: {:?}", self.seen);
        }
    }

    /// Presses keys and reads on until nothing more is shown: line editors take a tab for text while more keys wait.
    pub fn press_and_look(&mut self, keys: &str) {
        self.press(keys);
        while self.read_until(Instant::now() + QUIET) {}
    }

    /// Reads on until the program has ended and gives its exit code.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        while self.read_until(until) {}
        if Instant::now() >= until {
            let _ = self.child.kill();
        }
        self.child.wait().unwrap().code()
    }

    /// Whether more may come. No program has the terminal any more: reading fails.
    fn read_until(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let ready = poll(&mut [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap();
        if ready == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(count @ 1..) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
            Ok(0) | Err(_) => return false,
        }
        true
    }
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    rustix::termios::tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
