//! RUN's init: what rbuild re-executes itself as, in four roles.
//!
//! | Role | Where | Job |
//! |---|---|---|
//! | server | rbuild's namespaces | forks a keeper for each step (`forkserver`) |
//! | keeper | rbuild's namespaces, then a new mount namespace and back | builds the root, waits, takes the stubs away |
//! | reaper | pid 1 of the step | mounts /proc, pivots, waits for everybody, tells the exit |
//! | program | the step's process | changes ids, becomes the command |
//!
//! Each starts the next by fork: this program has one thread, until the reaper has nobody left to start. Where a parent
//! would only wait, the child borrows its memory (vfork): to copy it, and to touch all of it again, was a fifth of what a
//! small step costs. All die with rbuild: the first three by parent-death signal, the rest with pid 1. Unaware of builds.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
};

use nix::{sched::CloneFlags, unistd::Pid};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags},
    io::Errno,
    process::Signal,
    thread::LinkNameSpaceType,
};

use serde::{Deserialize, Serialize};

use super::{
    chroot,
    emulate::{self, Emulator, Scope},
    exec, files, forkserver,
    mounts::{self, Prepared},
    network::{Attachment, NAME_SERVER},
    outcome::{During, Exit, InitError, Message},
    rootfs::{self, OpenRoot, Proc},
    spec::{Mount, MountKind, Spec, Stdio},
    stubs::{Shape, Stubs},
    user::{self, User},
};
use crate::sys::{
    fdpass, loopback, mountns,
    notify::Listener,
    process::{self, Ended, Waited},
    root::RootDir,
};

/// The first argument that makes rbuild be RUN's init.
pub const ARGUMENT: &str = "__rbuild-init";

/// Where something is mounted in every step. Who puts them below a root filesystem spares the step to make them, which
/// leaves a directory of the image changed, and to take them away.
pub const MOUNT_POINTS: [(&str, Shape); 5] = [
    ("proc", Shape::Directory),
    ("sys", Shape::Directory),
    ("dev", Shape::Directory),
    ("etc/hosts", Shape::File),
    ("etc/resolv.conf", Shape::File),
];

/// Call this first in `main`: when rbuild was started as RUN's init, it runs steps and never returns.
pub fn init_if_asked() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != ARGUMENT) || args.next().is_some() {
        return;
    }
    let step = |control: &Control| match keep(control) {
        Ok(()) => 0,
        Err(error) => {
            control.tell(&Message::Failed(error));
            1
        }
    };
    process::exit_now(i32::from(forkserver::serve(step).is_err()))
}

/// What rbuild sends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The step.
    pub spec: Spec,
    /// What its network means here.
    pub network: Attachment,
    /// What is emulated; everything is where there is one id.
    pub emulated: Option<Scope>,
    /// There are no namespaces: the step gets a chroot.
    pub chroot: bool,
}

/// The socket to rbuild. It comes as standard input and is moved away from there.
pub(super) struct Control {
    socket: UnixStream,
}

impl From<UnixStream> for Control {
    fn from(socket: UnixStream) -> Self {
        Self { socket }
    }
}

impl Control {
    pub(super) fn from_stdin() -> io::Result<Self> {
        Ok(Self { socket: UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?) })
    }

    /// The spec, which ends where rbuild closes its writing half, and the descriptor that came with it.
    fn receive_order(&self) -> io::Result<(Order, Option<OwnedFd>)> {
        let (first, mut fds) = fdpass::receive::<1>(&self.socket)?;
        let mut text = first.to_vec();
        (&self.socket).read_to_end(&mut text)?;
        Ok((serde_json::from_slice(&text)?, fds.pop()))
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Only the first message counts. Nobody to hear it: rbuild is gone and we shall be soon.
    pub(super) fn tell(&self, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        let _ = (&self.socket).write_all(&line);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the reaper needs from the keeper.
struct Ready {
    root: RootDir,
    proc_target: OwnedFd,
    user: User,
}

fn keep(control: &Control) -> Result<(), InitError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (order, stdin) = control.receive_order().during("read the spec")?;
    if order.chroot {
        return chroot::keep(control, &order, stdin);
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie the sandbox to rbuild")?;
    let outside = File::open("/proc/self/ns/mnt").during("open the mount namespace")?;
    unshare(&order.spec, &order.network)?;
    let mut stubs = Stubs::default();
    let ready = build_root(&order, &mut stubs)?;
    let emulated = order.emulated.filter(|_| is_emulated(&ready.user)).unwrap_or(Scope::Devices);
    let reap = || reap(&order.spec, &ready, Streams { stdin, control }, emulated);
    let reaper = match (order.spec.stdio, emulated) {
        (Stdio::Capture, Scope::Devices) => process::vfork(reap).during("fork")?,
        (stdio, _) => {
            let reaper = process::fork(reap).during("fork")?;
            if stdio != Stdio::Capture {
                process::forward_signals_to(reaper);
            }
            reaper
        }
    };
    let ended = process::wait_for(Some(reaper)).during("wait for the step")?;
    drop(ready);
    // Leaving the step's mount namespace ends it, and with it all that covers the stubs.
    rustix::thread::move_into_link_name_space(outside.as_fd(), Some(LinkNameSpaceType::Mount)).during("leave the mount namespace")?;
    stubs.remove();
    match ended.code {
        Some(0) => Ok(()),
        _ => Err(InitError::Setup { doing: "keep the step".into(), reason: format!("its first process ended: {ended:?}"), errno: None }),
    }
}

/// A user whose ids exist is that user really: what they can't do needs no emulation.
fn is_emulated(user: &User) -> bool {
    user.uid == 0 || user.uid.max(user.gid) > super::enter::highest_id()
}

fn unshare(spec: &Spec, network: &Attachment) -> Result<(), InitError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    if *network == Attachment::Empty {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    nix::sched::unshare(flags).during("make namespaces")?;
    match network {
        Attachment::Host => {}
        Attachment::Empty => loopback::bring_up().during("bring up the loopback interface")?,
        Attachment::Join(path) => {
            let namespace = File::open(path).during("open the build's network")?;
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).during("join the build's network")?;
        }
    }
    mountns::make_all_private().during("make mounts private")?;
    nix::unistd::sethostname(&spec.hostname).during("set the host name")
}

fn build_root(Order { spec, network, emulated, .. }: &Order, stubs: &mut Stubs) -> Result<Ready, InitError> {
    let OpenRoot { mount, staging } = rootfs::open(&spec.rootfs)?;
    let root = RootDir::from_fd(mount);
    let user = user::resolve(&spec.user, &root).map_err(InitError::User)?;
    let mut own = spec.mounts.clone();
    if *emulated == Some(Scope::Everything) {
        own.iter_mut().for_each(|mount| close_to_others(mount, &user));
    }
    let generated: Vec<Prepared> = mounts::prepare(&generated_files(spec, network), &staging)?;
    let prepared: Vec<Prepared> = mounts::prepare(&own, &staging)?;
    mountns::attach(&root, &staging).during("mount the root")?;
    // Before anything is mounted: the path means what the image says.
    make_cwd(&root, &spec.cwd, &user)?;
    let proc_target = stubs.open_or_make(&root, Path::new("/proc"), Shape::Directory).during("make /proc")?;
    rootfs::mount_dev(&root, stubs, spec.shm_size_bytes)?;
    rootfs::mount_sys(&root, stubs, *network != Attachment::Host)?;
    // The reaper mounts /proc later; until then nothing can be put there.
    let placeholder = rootfs::empty_directory().during("make an empty tmpfs")?;
    mountns::attach(&placeholder, &proc_target).during("reserve /proc")?;
    // The generated files come first: a mount of the step may hide them, or all of /etc.
    mounts::attach_all(generated, &root, stubs)?;
    mounts::attach_all(prepared, &root, stubs)?;
    mountns::detach(placeholder).during("free /proc")?;
    Ok(Ready { root, proc_target, user })
}

pub(super) fn generated_files(spec: &Spec, network: &Attachment) -> Vec<Mount> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let hosts = files::hosts(&spec.hostname, &spec.extra_hosts);
    let forward = matches!(network, Attachment::Join(_)).then_some(NAME_SERVER);
    let resolv = files::resolv_conf(&read("/etc/resolv.conf").unwrap_or_default(), forward);
    let file =
        |target: &str, text: String| Mount { target: target.into(), kind: MountKind::File { bytes: text.into_bytes(), mode: 0o644 } };
    vec![file("/etc/hosts", hosts), file("/etc/resolv.conf", resolv)]
}

/// With one id, everybody owns everything: a secret that the step's user may not read is closed to its owner too.
fn close_to_others(mount: &mut Mount, user: &User) {
    let MountKind::Secret { mode, uid, gid, .. } = &mut mount.kind else { return };
    let bits = if *uid == user.uid {
        *mode >> 6
    } else if user.groups.contains(gid) {
        *mode >> 3
    } else {
        *mode
    };
    if user.uid != 0 {
        *mode = (*mode & !0o700) | ((bits & 7) << 6);
    }
}

/// Makes the working directory as the user's own, with its missing parents; it belongs to the layer.
pub(super) fn make_cwd(root: &RootDir, cwd: &str, user: &User) -> Result<(), InitError> {
    if root.open_in(Path::new(cwd), OFlags::PATH, Mode::empty()).is_ok() {
        return Ok(());
    }
    let mut made = Stubs::default();
    made.open_or_make(root, &mounts::clean(Path::new(cwd)), Shape::Directory).during(&format!("make the working directory {cwd}"))?;
    made.keep_as(user.uid, user.gid).during("give the working directory to the user")
}

/// What the program still needs of the world outside.
struct Streams<'a> {
    stdin: Option<OwnedFd>,
    control: &'a Control,
}

/// Pid 1 of the step: finishes the root, starts the program, waits for it. When it ends, the kernel ends the rest.
fn reap(spec: &Spec, ready: &Ready, streams: Streams<'_>, emulated: Scope) -> i32 {
    let control = streams.control;
    let result = match emulated {
        Scope::Devices => start_and_answer(spec, ready, streams),
        Scope::Everything => start_with_one_id(spec, ready, streams).and_then(wait_for_program),
    };
    control.tell(&result.map_or_else(Message::Failed, Message::Exited));
    0
}

/// Finishes the root and starts the program by `fork`.
fn start(
    spec: &Spec,
    ready: &Ready,
    streams: Streams<'_>,
    power: &exec::Power,
    fork: fn(&mut dyn FnMut() -> i32) -> io::Result<Pid>,
) -> Result<(Pid, Proc), InitError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie the step to the sandbox")?;
    let proc = rootfs::mount_proc(&ready.proc_target)?;
    rootfs::mask(&ready.root)?;
    mountns::pivot_into(ready.root.as_fd()).during("change the root")?;
    let Streams { mut stdin, control } = streams;
    let mut program = || {
        // Told before the reaper can tell the exit of a program that never was.
        control.tell(&Message::Failed(exec::become_program(spec, &ready.user, stdin.take(), power)));
        1
    };
    let program = fork(&mut program).during("fork")?;
    if spec.stdio != Stdio::Capture {
        process::forward_signals_to(program);
    }
    Ok((program, proc))
}

/// Waits for the program and answers the few calls that are held.
fn start_and_answer(spec: &Spec, ready: &Ready, streams: Streams<'_>) -> Result<Exit, InitError> {
    let children = process::watch_children().during("watch the program")?;
    let (ours, theirs) = UnixStream::pair().during("make a socket")?;
    let power = exec::Power::Namespaced(theirs);
    let (program, proc) = start(spec, ready, streams, &power, |child| process::vfork(child))?;
    drop(power);
    let mut listener = take_listener(&ours).map(|listener| Emulator::new(listener, Scope::Devices, ready.user.clone(), proc));
    loop {
        while let Waited::Ended(ended) = process::try_wait().during("wait for the program")? {
            if ended.pid == program {
                return Ok(exit_of(ended));
            }
        }
        let mut polled = vec![PollFd::new(&children, PollFlags::IN)];
        polled.extend(listener.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).during("wait for the program"),
        }
        let told = polled.get(1).map_or(PollFlags::empty(), PollFd::revents);
        while let Ok(Some(_)) = children.read_signal() {}
        match &listener {
            Some(listener) if told.contains(PollFlags::IN) => drop(listener.answer_next().during("answer calls")?),
            // Nobody is left who could make a call.
            _ if told.contains(PollFlags::HUP) => listener = None,
            _ => {}
        }
    }
}

/// Without a listener the program has told why before it ended, or does without.
fn take_listener(socket: &UnixStream) -> Option<Listener> {
    let (_, mut fds) = fdpass::receive::<1>(socket).ok()?;
    fds.pop().map(Listener::new)
}

/// Starts the program where nearly all it does with ids is held: threads of ours answer until the end.
fn start_with_one_id(spec: &Spec, ready: &Ready, streams: Streams<'_>) -> Result<Pid, InitError> {
    let (ours, theirs) = UnixStream::pair().during("make a socket")?;
    let tell = streams.control.try_clone().during("copy a socket")?;
    let power = exec::Power::OneId(theirs);
    if power.shares_session(spec) {
        rustix::process::setsid().during("start a session")?;
    }
    // Its calls are held before it executes anything.
    let (program, proc) = start(spec, ready, streams, &power, |child| process::fork(child))?;
    drop(power);
    if let Some(listener) = take_listener(&ours) {
        let emulator = Arc::new(Emulator::new(listener, Scope::Everything, ready.user.clone(), proc));
        for _ in 0..emulate::threads() {
            let emulator = Arc::clone(&emulator);
            let tell = tell.try_clone().during("copy a socket")?;
            std::thread::Builder::new().spawn(move || answer(&emulator, &tell)).during("start a thread")?;
        }
    }
    Ok(program)
}

/// Collects every process that ends, orphans too, until the program does.
fn wait_for_program(program: Pid) -> Result<Exit, InitError> {
    loop {
        let ended = process::wait_for(None).during("wait for the program")?;
        if ended.pid == program {
            return Ok(exit_of(ended));
        }
    }
}

pub(super) fn exit_of(ended: Ended) -> Exit {
    Exit {
        code: ended.code.unwrap_or_else(|| 128 + ended.signal.unwrap_or(0)),
        signal: ended.signal,
        out_of_memory: false,
        memory_peak_bytes: None,
        out_of_pids: false,
        max_rss_kb: ended.max_rss_kb,
        user_us: ended.user_us,
        system_us: ended.system_us,
    }
}

fn answer(emulator: &Emulator, control: &Control) {
    if let Err(error) = emulator.answer_all() {
        let told = Err::<(), _>(error).during("answer calls");
        told.unwrap_or_else(|error| control.tell(&Message::Failed(error)));
        // Pid 1 of the step: with it the rest ends.
        process::exit_now(0);
    }
}

pub(super) fn rustix_pid(pid: Pid) -> Result<rustix::process::Pid, InitError> {
    rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::Error::from(io::ErrorKind::InvalidInput)).during("watch the program")
}
