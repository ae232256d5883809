//! Runs one step from rbuild's side: starts RUN's init, hands it the spec, passes its output on, learns its end.
//! Unaware of how the step is isolated.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use nix::unistd::Pid;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    pipe::PipeFlags,
};

use super::{
    cgroup::{Group, Usage},
    emulate::Scope,
    enter::{self, Rung},
    forkserver::{self, Forked},
    gateway,
    init::Order,
    limits, network, oom,
    outcome::{Exit, Message, RunError},
    spec::{Spec, Stdio},
    ssh,
};
use crate::sys::fdpass;

/// What a pipe holds and one read takes at most: a step that floods its output is woken, and wakes us, as seldom as can be.
const PIPE_BYTES: usize = 1 << 20;

/// What one read takes of a step that says little.
const READ_BYTES: usize = 1 << 14;

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Ends running steps from another thread.
#[derive(Debug, Clone)]
pub struct Cancel {
    event: Arc<OwnedFd>,
    flag: Arc<AtomicBool>,
}

impl Cancel {
    /// Nothing cancelled yet.
    pub fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event), flag: Arc::default() })
    }

    /// Ends all steps that run with this handle, also those that start later.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        // Full means that it has been cancelled often enough.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Set once it is cancelled: what else is to end then looks at it now and again.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }
}

/// Runs a step to its end and hands its output on as it comes.
pub fn run(spec: &Spec, cancel: Option<&Cancel>, output: impl FnMut(Stream, &[u8])) -> Result<Exit, RunError> {
    run_with(spec, cancel, None, |_| (), output)
}

/// What an attached step reads and writes.
#[derive(Debug)]
pub enum Attached {
    /// Our standard streams.
    Streams,
    /// Our standard output and standard error; there is nothing to read.
    Outputs,
    /// A terminal of its own, the other end of which comes over this socket; one byte back lets the program begin.
    Terminal(UnixStream),
}

/// Runs a step that a person has in front of them. `started` learns the process that passes signals on to the step's
/// program.
pub fn run_attached(spec: &Spec, attached: Attached, cancel: Option<&Cancel>, started: impl FnOnce(Pid)) -> Result<Exit, RunError> {
    let (stdio, terminal) = match attached {
        Attached::Streams => (Stdio::Inherit, None),
        Attached::Outputs => (Stdio::Outputs, None),
        Attached::Terminal(socket) => (Stdio::Terminal, Some(socket)),
    };
    run_with(&Spec { stdio, ..spec.clone() }, cancel, terminal, started, |_, _| ())
}

fn run_with(
    spec: &Spec,
    cancel: Option<&Cancel>,
    terminal: Option<UnixStream>,
    started: impl FnOnce(Pid),
    mut output: impl FnMut(Stream, &[u8]),
) -> Result<Exit, RunError> {
    let oom_before = oom::kills();
    let mut spec = spec.clone();
    // Their sockets and threads live as long as the step.
    let _proxies = ssh::start_proxies(&mut spec).map_err(RunError::Start)?;
    let timeout = spec.timeout;
    // Removed after the step, which is declared later.
    let group = limits::apply(&mut spec);
    let chroot = enter::current() == Rung::Chroot;
    let network =
        if chroot { network::without_namespaces(&spec.network) } else { Ok(network::attachment(&spec.network, &spec.extra_hosts)) };
    let network = network.map_err(RunError::Start)?;
    gateway::resolve(&mut spec.extra_hosts, &network).map_err(RunError::Start)?;
    let emulated = emulated(&spec);
    let mut step = Step::start(&Order { spec, network, emulated, chroot }, &group, terminal).map_err(RunError::Start)?;
    started(step.init.pid);
    let deadline = timeout.map(|timeout| (Instant::now() + timeout, timeout));
    let mut answer = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut sources = step.sources();
    while !sources.is_empty() {
        let ready = wait(&sources, cancel, deadline.map(|(at, _)| at)).map_err(RunError::Start)?;
        match ready {
            Ready::Cancelled => return Err(RunError::Cancelled),
            Ready::TimedOut => return Err(deadline.map_or(RunError::Cancelled, |(_, timeout)| RunError::TimedOut(timeout))),
            Ready::Source(index) => match sources[index].read(&mut buffer) {
                Ok(0) => drop(sources.swap_remove(index)),
                Ok(count) => {
                    match sources[index].stream() {
                        Some(stream) => output(stream, &buffer[..count]),
                        None => answer.extend_from_slice(&buffer[..count]),
                    }
                    if count == buffer.len() {
                        buffer.resize(PIPE_BYTES, 0);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RunError::Start(error)),
            },
        }
    }
    step.ended = true;
    let usage = group.usage();
    let mut exit = match understand(&answer) {
        // It was init that was killed for the memory of its step.
        Err(RunError::Silent(_)) if usage.oom_kills > 0 => killed(),
        result => result?,
    };
    note_usage(&mut exit, usage, || oom::kills() > oom_before);
    Ok(exit)
}

/// What no namespace of ours gives a step.
fn emulated(spec: &Spec) -> Option<Scope> {
    match enter::current() {
        Rung::Single => Some(Scope::Everything),
        Rung::Full if spec.emulate_ids => Some(Scope::Everything),
        Rung::Full => Some(Scope::Devices),
        Rung::Chroot | Rung::Copy => None,
    }
}

fn killed() -> Exit {
    let (signal, none) = (Some(9), 0);
    let (max_rss_kb, user_us, system_us) = (none, none, none);
    Exit { code: 137, signal, out_of_memory: true, memory_peak_bytes: None, out_of_pids: false, max_rss_kb, user_us, system_us }
}

/// A compiler that was killed makes its make fail, and the end of a pipe hides it: what the step's own group tells counts
/// whatever the code is. The machine's counter may tell of somebody else.
fn note_usage(exit: &mut Exit, usage: Usage, was_killing: impl FnOnce() -> bool) {
    exit.memory_peak_bytes = usage.memory_peak_bytes;
    exit.out_of_memory = usage.oom_kills > 0 || exit.code == 137 && was_killing();
    exit.out_of_pids = exit.code != 0 && usage.pids_refused > 0;
}

/// The first message counts: a program that was never started has told why before its process ended.
fn understand(answer: &[u8]) -> Result<Exit, RunError> {
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(line) {
        Ok(Message::Exited(exit)) => Ok(exit),
        Ok(Message::Failed(error)) => Err(RunError::Init(error)),
        Ok(Message::Died(how)) => Err(RunError::Silent(how)),
        Err(error) => Err(RunError::Silent(error.to_string())),
    }
}

/// RUN's init; dropped early, it and all below it are killed.
struct Step {
    init: Forked,
    control: Option<UnixStream>,
    /// Where what it writes arrives, when that is captured.
    outputs: Vec<Source>,
    /// It clears up by itself when nobody listens any more.
    clears_up: bool,
    ended: bool,
}

impl Step {
    fn start(order: &Order, group: &Group, terminal: Option<UnixStream>) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let mut outputs = Vec::new();
        let init = match (order.spec.stdio, &terminal) {
            (Stdio::Capture, _) => {
                let ((out, their_out), (err, their_err)) = (pipe()?, pipe()?);
                outputs.extend([Source::Output(Stream::Stdout, out), Source::Output(Stream::Stderr, err)]);
                forkserver::fork(&theirs, their_out.as_fd(), their_err.as_fd())?
            }
            // The program takes the terminal for these; nobody else has anything to say there.
            (_, Some(_)) => {
                let null = File::options().write(true).open("/dev/null")?;
                forkserver::fork(&theirs, null.as_fd(), null.as_fd())?
            }
            (_, None) => forkserver::fork(&theirs, io::stdout().as_fd(), io::stderr().as_fd())?,
        };
        let step = Self { init, control: Some(control), outputs, clears_up: order.chroot, ended: false };
        // It waits for its order, and has no children yet.
        group.enter(step.init.pid.as_raw().unsigned_abs())?;
        step.send(order, terminal)?;
        Ok(step)
    }

    fn send(&self, order: &Order, terminal: Option<UnixStream>) -> io::Result<()> {
        let Some(mut control) = self.control.as_ref() else { return Ok(()) };
        let text = serde_json::to_vec(order)?;
        let stdin = io::stdin();
        let passed = match order.spec.stdio {
            Stdio::Capture | Stdio::Outputs => None,
            Stdio::Inherit => Some(stdin.as_fd()),
            Stdio::Terminal => terminal.as_ref().map(AsFd::as_fd),
        };
        fdpass::send(control, &text[..1], passed.as_slice())?;
        control.write_all(&text[1..])?;
        control.shutdown(Shutdown::Write)
    }

    fn sources(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.outputs).into_iter().chain(self.control.take().map(Source::Control)).collect()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            // The other end sees that this one is closed.
            drop(self.control.take());
            if !self.clears_up {
                self.init.kill();
            }
            self.init.wait();
        }
    }
}

/// A pipe for much output, the reading end first.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // A user may have used up what pipes may take: then it is smaller.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, theirs))
}

/// Something that init or the step writes to.
enum Source {
    Output(Stream, OwnedFd),
    Control(UnixStream),
}

impl Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Output(_, fd) => Ok(rustix::io::read(fd, buffer)?),
            Source::Control(socket) => socket.read(buffer),
        }
    }

    fn stream(&self) -> Option<Stream> {
        match self {
            Source::Output(stream, _) => Some(*stream),
            Source::Control(_) => None,
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Output(_, fd) => fd.as_fd(),
            Source::Control(socket) => socket.as_fd(),
        }
    }
}

enum Ready {
    Source(usize),
    Cancelled,
    TimedOut,
}

fn wait(sources: &[Source], cancel: Option<&Cancel>, deadline: Option<Instant>) -> io::Result<Ready> {
    loop {
        let mut polled: Vec<PollFd<'_>> = sources.iter().map(|source| PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN)).collect();
        polled.extend(cancel.map(|cancel| PollFd::new(&*cancel.event, PollFlags::IN)));
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(0) => return Ok(Ready::TimedOut),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if polled.get(sources.len()).is_some_and(|event| !event.revents().is_empty()) {
            return Ok(Ready::Cancelled);
        }
        if let Some(index) = polled.iter().position(|source| !source.revents().is_empty()) {
            return Ok(Ready::Source(index));
        }
    }
}
