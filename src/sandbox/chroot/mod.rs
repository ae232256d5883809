//! A step as root of a plain container, where there are no namespaces and nothing can be mounted (the `chroot` rung).
//!
//! The root is a directory of ours that holds a whole tree. What other rungs mount is moved to its place and away again
//! ([`covers`]), /dev and /proc are made ([`devices`]), and the processes are held together by their descent ([`family`]).
//!
//! | Elsewhere | Here |
//! |---|---|
//! | bind, read-only or discarded | a copy that rbuild has made, thrown away after the step; `readonly` is not enforced |
//! | cache mount | the cache's own directory, moved in and back: one step at a time has it |
//! | tmpfs, /dev/shm | a directory, removed afterwards; `size` is not enforced |
//! | secret | a file in the private directory, removed when the step ends, and when rbuild is killed |
//! | /proc | files that tell of the machine; of /proc/self the mounts only |
//! | /sys | an empty directory |
//! | pid namespace | all descendants are stopped and killed at the end |
//! | a network of its own | the container's; its abstract sockets are out of reach as below; network `none` is refused |
//! | host name | the container's own |
//!
//! What holds a step inside: the chroot, no descriptor but its own three, and capabilities: CAP_SYS_CHROOT is taken away,
//! without which nobody leaves a chroot, and CAP_MKNOD, with which one could make the disk. As rbuild has the former, the
//! kernel also lets the step trace no process of rbuild's and look into none (`ptrace` asks for all capabilities of the
//! other). Signals to the container's other processes and their abstract sockets are held back by Landlock (Linux 6.12), and
//! the filter for system calls is added, where both cost nothing: without CAP_SYS_ADMIN they take no_new_privs, which a step
//! of another user than root may not get, or its `sudo` would not work. Such a step may not send signals to root's processes
//! anyway; the container's own filter holds for all.
//!
//! The keeper is not killed with rbuild: it sees that nobody listens any more, ends the step and clears up. Only where
//! both are killed at once does a secret stay in the private directory, until the store is used next.
//! Unaware of what builds do with it.

mod covers;
mod devices;
mod family;

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::unistd::Pid;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{PidfdFlags, Signal},
};

use self::{
    covers::{Covers, Entry},
    devices::Outputs,
};
use super::{
    exec,
    init::{self, Control, Order},
    mounts,
    network::Attachment,
    outcome::{During, Exit, InitError, Message},
    spec::{MountKind, RootFs, Source, Spec, Stdio},
    user::{self, User},
};
use crate::sys::{
    process::{self, Waited},
    recorded,
    root::RootDir,
};

/// Carries a step out and tells its end.
pub fn keep(control: &Control, order: &Order, stdin: Option<OwnedFd>) -> Result<(), InitError> {
    // A terminal's signals are for rbuild, who tells us by going away.
    process::ignore_signals();
    family::adopt().during("adopt the step's processes")?;
    let (root, scratch) = open_root(&order.spec)?;
    let user = user::resolve(&order.spec.user, &root).map_err(InitError::User)?;
    init::make_cwd(&root, &order.spec.cwd, &user)?;
    let mut covers = Covers::new(&scratch).during("open the scratch directory")?;
    let result = match place_all(order, &root, &mut covers) {
        Ok(outputs) => run(control, order, &root, &user, stdin, &outputs),
        Err(error) => Err(error),
    };
    let ended = family::end_all().during("end the step's processes");
    let cleared = covers.take_away().during("clear up after the step");
    let exit = ended.and(cleared).and(result)?;
    if let Some(exit) = exit {
        control.tell(&Message::Exited(exit));
    }
    Ok(())
}

fn open_root(spec: &Spec) -> Result<(RootDir, PathBuf), InitError> {
    let missing = |text: &str| Err(io::Error::other(text.to_owned())).during("open the root directory");
    let (RootFs::Directory(path), Some(scratch)) = (&spec.rootfs, &spec.scratch) else {
        return missing("without mounts it has to be a whole tree, with a scratch directory beside it");
    };
    Ok((RootDir::open(path).during("open the root directory")?, scratch.clone()))
}

/// Puts everything in its place, parents before what lies in them.
fn place_all(order: &Order, root: &RootDir, covers: &mut Covers) -> Result<Outputs, InitError> {
    let outputs = place_kernels(root, covers)?;
    // The generated files come first: a mount of the step may hide them, or all of /etc.
    let generated = init::generated_files(&order.spec, &Attachment::Host);
    let (generated, own) = (mounts::in_order(&generated)?, mounts::in_order(&order.spec.mounts)?);
    for (target, kind) in generated.into_iter().chain(own) {
        const KERNEL: [&str; 2] = ["/proc", "/sys"];
        let refuse = |reason: String| InitError::Mount { target: target.display().to_string(), reason };
        if KERNEL.iter().any(|path| target.starts_with(path)) {
            return Err(refuse("nothing is mounted inside /proc or /sys".into()));
        }
        place_one(&target, kind, root, covers).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(outputs)
}

/// The file systems of the kernel, as far as there is something to show.
fn place_kernels(root: &RootDir, covers: &mut Covers) -> Result<Outputs, InitError> {
    let directory = |covers: &mut Covers| -> Result<PathBuf, InitError> {
        let path = covers.new_path();
        fs::create_dir(&path).and_then(|()| devices::set_mode(&path, 0o755)).during("make a directory")?;
        Ok(path)
    };
    let place = |covers: &mut Covers, path: &Path, target: &str| {
        let entry = covers.entry(path)?;
        covers.place(root, Path::new(target), entry, false)
    };
    let proc = directory(covers)?;
    devices::make_proc(&proc)?;
    place(covers, &proc, "/proc").during("put /proc in place")?;
    let sys = directory(covers)?;
    place(covers, &sys, "/sys").during("put /sys in place")?;
    let dev = directory(covers)?;
    let outputs = devices::make_dev(&dev)?;
    place(covers, &dev, "/dev").during("put /dev in place")?;
    Ok(outputs)
}

fn place_one(target: &Path, kind: &MountKind, root: &RootDir, covers: &mut Covers) -> io::Result<()> {
    let (what, returns) = match kind {
        MountKind::Moved { source: Source::Directory(path), subpath, returns } => {
            let is_whole = !subpath.components().any(|part| matches!(part, std::path::Component::Normal(_)));
            let what = if is_whole { Entry::of_path(path)? } else { Entry::find(&RootDir::open(path)?, subpath)? };
            (what, *returns)
        }
        MountKind::Tmpfs { .. } => {
            let mode = covers.mode_at(root, target)?;
            let path = covers.new_path();
            fs::create_dir(&path)?;
            devices::set_mode(&path, mode)?;
            (covers.entry(&path)?, false)
        }
        MountKind::Secret { bytes, mode, uid, gid } => (new_file(covers, bytes, *mode, (*uid, *gid))?, false),
        MountKind::File { bytes, mode } => (new_file(covers, bytes, *mode, (0, 0))?, false),
        MountKind::Bind { .. } | MountKind::Discard { .. } | MountKind::Moved { .. } | MountKind::Ssh { .. } => {
            return Err(io::Error::other("nothing can be mounted here (the `chroot` rung)"));
        }
    };
    covers.place(root, target, what, returns)
}

fn new_file(covers: &mut Covers, bytes: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<Entry> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = covers.new_path();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(bytes)?;
    recorded::give(&path, owner.0, owner.1)?;
    devices::set_mode(&path, mode)?;
    covers.entry(&path)
}

/// Starts the program and waits; None when rbuild has gone away.
fn run(
    control: &Control,
    order: &Order,
    root: &RootDir,
    user: &User,
    stdin: Option<OwnedFd>,
    outputs: &Outputs,
) -> Result<Option<Exit>, InitError> {
    let program = || {
        let error = match enter_root(root) {
            Ok(()) => exec::become_program(&order.spec, user, stdin, &exec::Power::WithoutNamespaces),
            Err(error) => error,
        };
        control.tell(&Message::Failed(error));
        1
    };
    let program = process::fork(program).during("fork")?;
    if order.spec.stdio != Stdio::Capture {
        process::forward_signals_to(program);
    }
    let death = rustix::process::pidfd_open(init::rustix_pid(program)?, PidfdFlags::empty()).during("watch the program")?;
    loop {
        // The time is for orphans, whose end wakes nobody.
        const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut polled = [
            PollFd::new(&death, PollFlags::IN),
            PollFd::new(control, PollFlags::empty()),
            PollFd::new(&outputs.stdout, PollFlags::IN),
            PollFd::new(&outputs.stderr, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, Some(&PATIENCE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).during("wait for the step"),
        }
        let nobody_listens = !polled[1].revents().is_empty();
        pass_on(&outputs.stdout, io::stdout().as_fd());
        pass_on(&outputs.stderr, io::stderr().as_fd());
        if let Some(exit) = collect(program).during("wait for the program")? {
            return Ok(Some(exit));
        }
        if nobody_listens {
            return Ok(None);
        }
    }
}

fn enter_root(root: &RootDir) -> Result<(), InitError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).during("tie the step to the sandbox")?;
    rustix::process::fchdir(root).during("enter the root")?;
    rustix::process::chroot(".").during("change the root")
}

/// What was written to /dev/stdout or /dev/stderr, as far as there is room for it.
fn pass_on(from: &OwnedFd, to: impl AsFd) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) {
        let mut rest = &buffer[..count];
        while let Ok(written @ 1..) = rustix::io::write(&to, rest) {
            rest = &rest[written..];
        }
    }
}

/// Collects whoever has ended; the program's own end is the step's.
fn collect(program: Pid) -> io::Result<Option<Exit>> {
    while let Waited::Ended(ended) = process::try_wait()? {
        if ended.pid == program {
            return Ok(Some(init::exit_of(ended)));
        }
    }
    Ok(None)
}
