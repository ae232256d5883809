//! A terminal for a container: the container opens it, its other end comes to us over a socket and is connected with our
//! own terminal, which is in raw mode while it lasts. Unaware of what runs on it.

use std::{
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, OnceLock},
    thread::JoinHandle,
};

use rustix::termios::{OptionalActions, Termios};

use crate::sys::fdpass;

/// Our end of the container's terminal; dropped, our own terminal is as it was.
pub struct Terminal {
    /// There once the container has opened its terminal.
    ours: Arc<OnceLock<OwnedFd>>,
    before: Termios,
    screen: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Waits, beside the caller, for the container's terminal. Gives the end of the socket that is the container's.
    pub fn open() -> io::Result<(Self, UnixStream)> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(io::Error::other("the input device is not a TTY"));
        }
        let before = rustix::termios::tcgetattr(&stdin)?;
        let (socket, theirs) = UnixStream::pair()?;
        let ours = Arc::new(OnceLock::new());
        let (shared, settings) = (ours.clone(), before.clone());
        let connect = move || {
            // Without a terminal the container has not started, and says so elsewhere.
            let Ok(([_], Some(terminal))) = fdpass::receive(&socket).map(|(byte, mut fds)| (byte, fds.pop())) else { return };
            let terminal = shared.get_or_init(|| terminal);
            if connect(&shared, terminal, &settings).is_ok() && fdpass::send(&socket, &[0], &[]).is_ok() {
                copy_output(terminal);
            }
        };
        let screen = std::thread::Builder::new().name("screen".into()).spawn(connect)?;
        Ok((Self { ours, before, screen: Some(screen) }, theirs))
    }

    /// A function that makes the container's terminal as large as ours is now.
    pub fn resizer(&self) -> impl Fn() + Send + use<> {
        let ours = self.ours.clone();
        move || ours.get().into_iter().for_each(resize)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The last of the output is still on its way when the program has ended.
        if let Some(screen) = self.screen.take() {
            let _ = screen.join();
        }
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The container's terminal begins as ours was, then ours passes everything on as it is typed.
fn connect(shared: &Arc<OnceLock<OwnedFd>>, terminal: &OwnedFd, settings: &Termios) -> io::Result<()> {
    rustix::termios::tcsetattr(terminal, OptionalActions::Now, settings)?;
    resize(terminal);
    let mut raw = settings.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
    let ours = shared.clone();
    // Ends with the program: nobody can wake it from a read.
    std::thread::Builder::new().name("keyboard".into()).spawn(move || ours.get().into_iter().for_each(copy_input))?;
    Ok(())
}

fn resize(terminal: &OwnedFd) {
    // A terminal without a size leaves the other as it is.
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin()) {
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

fn copy_input(terminal: &OwnedFd) {
    let mut buffer = [0; 4096];
    let mut stdin = io::stdin().lock();
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        let mut rest = &buffer[..count];
        while let Ok(written @ 1..) = rustix::io::write(terminal.as_fd(), rest) {
            rest = &rest[written..];
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Until nobody has the other end any more, which reads as an error.
fn copy_output(terminal: &OwnedFd) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = rustix::io::read(terminal.as_fd(), &mut buffer) {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}
