//! A terminal for a container: a pseudo-terminal whose other end is ours, in raw mode while it lasts.
//! Unaware of what runs on it.

use std::{
    io::{self, IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use rustix::{
    pty::OpenptFlags,
    termios::{OptionalActions, Termios},
};

/// Our end of the pseudo-terminal; dropped, our own terminal is as it was.
pub struct Terminal {
    ours: Arc<OwnedFd>,
    before: Termios,
    output: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Opens a pseudo-terminal and connects it with our standard streams. Gives the end that is the container's.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(io::Error::other("the input device is not a TTY"));
        }
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let before = rustix::termios::tcgetattr(&stdin)?;
        rustix::termios::tcsetattr(&theirs, OptionalActions::Now, &before)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let mut terminal = Self { ours: Arc::new(ours), before, output: None };
        terminal.resize();
        terminal.connect()?;
        Ok((terminal, theirs))
    }

    /// Makes it as large as ours is now.
    pub fn resize(&self) {
        resize(&self.ours);
    }

    /// A function that does so from elsewhere.
    pub fn resizer(&self) -> impl Fn() + Send + use<> {
        let ours = self.ours.clone();
        move || resize(&ours)
    }

    fn connect(&mut self) -> io::Result<()> {
        let (input, output) = (self.ours.clone(), self.ours.clone());
        // Ends with the program: nobody can wake it from a read.
        std::thread::Builder::new().name("keyboard".into()).spawn(move || copy_input(&input))?;
        self.output = Some(std::thread::Builder::new().name("screen".into()).spawn(move || copy_output(&output))?);
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The last of the output is still on its way when the program has ended.
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn resize(ours: &OwnedFd) {
    // A terminal without a size leaves the other as it is.
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin()) {
        let _ = rustix::termios::tcsetwinsize(ours, size);
    }
}

fn copy_input(ours: &OwnedFd) {
    let mut buffer = [0; 4096];
    let mut stdin = io::stdin().lock();
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        let mut rest = &buffer[..count];
        while let Ok(written @ 1..) = rustix::io::write(ours.as_fd(), rest) {
            rest = &rest[written..];
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Until nobody has the other end any more, which reads as an error.
fn copy_output(ours: &OwnedFd) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = rustix::io::read(ours.as_fd(), &mut buffer) {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}
