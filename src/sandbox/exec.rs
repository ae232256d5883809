//! The last steps before the program: limits, ids, capabilities, then exec.
//! Unaware of mounts.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags},
    process::{Resource, Rlimit},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid},
};

use super::{
    console, emulate, mounts,
    outcome::{During, InitError},
    seccomp,
    spec::{Network, Spec, Stdio, Ulimit},
    user::User,
};
use crate::sys::{
    self, fdpass,
    landlock::{self, Scope},
    process,
    seccomp::Instruction,
};

/// Docker's default capabilities: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
/// net_raw, sys_chroot, mknod, audit_write, setfcap.
pub const CAPABILITIES: u64 = 0xa804_25fb;

/// With what powers a program is left.
#[derive(Debug)]
pub enum Power {
    /// Those of root in namespaces of its own. Devices are emulated; the socket takes the descriptor on which held calls
    /// arrive.
    Namespaced(UnixStream),
    /// The same where there is one id.
    OneId(UnixStream),
    /// Those with which nobody gets out of a chroot.
    WithoutNamespaces,
}

impl Power {
    /// Whether the program stays in the session that pid 1 of the step has started. The scheduler shares the processors between
    /// sessions (autogroup): on a busy machine each held call would wait for the turn of two, that of whoever makes it and
    /// that of whoever answers it. A terminal belongs to who has started the session.
    pub fn shares_session(&self, spec: &Spec) -> bool {
        matches!(self, Power::OneId(_)) && spec.stdio != Stdio::Terminal
    }
}

/// Becomes the step's program. Returns only with the reason why not.
/// `stdin` is what it reads instead of nothing.
pub fn become_program(spec: &Spec, user: &User, stdin: Option<OwnedFd>, power: &Power) -> InitError {
    match prepare(spec, user, stdin, power) {
        Ok(()) => exec(spec, user),
        Err(error) => error,
    }
}

fn prepare(spec: &Spec, user: &User, stdin: Option<OwnedFd>, power: &Power) -> Result<(), InitError> {
    // No terminal of ours to push characters into.
    if power.shares_session(spec) {
        rustix::process::setpgid(None, None).during("start a process group")?;
    } else {
        rustix::process::setsid().during("start a session")?;
    }
    match (spec.stdio, stdin) {
        (Stdio::Terminal, Some(socket)) => console::open(socket.into())?,
        (_, stdin) => set_stdin(stdin)?,
    }
    if matches!(spec.stdio, Stdio::Capture | Stdio::Terminal) {
        own_streams(user);
    }
    if let Some(processors) = &spec.processors {
        set_processors(processors)?;
    }
    for limit in &spec.ulimits {
        set_limit(limit)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // `..` takes the word before it away, as where the directory was made.
    let cwd = mounts::clean(Path::new(&spec.cwd));
    let entered = enter_cwd(&cwd);
    let path = variable(&spec.env, "PATH");
    let program = spec.args.first().and_then(|name| find_program(name, path).ok());
    let filter = seccomp::filter(program.is_some_and(|program| is_32_bit(&program)));
    match power {
        Power::Namespaced(reaper) => {
            keep_inside(spec, false);
            give_up_power(user, &filter, Some(reaper), CAPABILITIES)?;
        }
        Power::OneId(reaper) => {
            keep_inside(spec, false);
            give_up_power_with_one_id(user, &filter, reaper)?;
        }
        Power::WithoutNamespaces if may_filter(user)? => {
            keep_inside(spec, true);
            give_up_power(user, &filter, None, in_chroot()?)?;
        }
        Power::WithoutNamespaces => give_up_power(user, &[], None, in_chroot()?)?,
    }
    // A directory that root may not enter (on a network file system) may still be the user's.
    entered.or_else(|_| enter_cwd(&cwd)).during(&format!("enter {}", spec.cwd))?;
    process::close_on_exec_from(3).during("close descriptors")?;
    process::reset_signals();
    process::allow_huge_pages();
    Ok(())
}

/// Others' abstract sockets belong to the network that a step has not asked for, even where it has no other; signals are
/// held back where no pid namespace does it. Kernels before 6.12 can't: see the table in `chroot`.
fn keep_inside(spec: &Spec, has_others_processes: bool) {
    let sockets = (spec.network != Network::Host).then_some(Scope::AbstractSockets);
    let signals = has_others_processes.then_some(Scope::Signals);
    let scopes: Vec<Scope> = sockets.into_iter().chain(signals).collect();
    if !scopes.is_empty() {
        let _ = landlock::restrict(&scopes);
    }
}

/// Without an input it is the image's own /dev/null.
fn set_stdin(stdin: Option<OwnedFd>) -> Result<(), InitError> {
    let stdin = match stdin {
        Some(stdin) => stdin,
        None => OpenOptions::new().read(true).open("/dev/null").during("open /dev/null")?.into(),
    };
    process::place_fd(stdin.as_fd(), 0).during("set standard input")
}

/// The pipes belong to the user, who may open /dev/stdout again.
fn own_streams(user: &User) {
    for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
        // Streams of a kind without an owner of its own are left as they are.
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    }
}

fn enter_cwd(path: &Path) -> io::Result<()> {
    // No magic links: /proc/self/fd/N as working directory would lead out.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty())?,
        result => result?,
    };
    Ok(rustix::process::fchdir(fd)?)
}

fn set_processors(processors: &[usize]) -> Result<(), InitError> {
    let mut set = rustix::thread::CpuSet::new();
    processors.iter().for_each(|number| set.set(*number));
    rustix::thread::sched_setaffinity(None, &set).during("choose processors")
}

fn set_limit(limit: &Ulimit) -> Result<(), InitError> {
    let resource = match limit.name.as_str() {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        other => return Err(io::Error::other("no such limit")).during(&format!("set ulimit {other}")),
    };
    let value = |number: u64| (number != u64::MAX).then_some(number);
    let wanted = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
    rustix::process::setrlimit(resource, wanted).during(&format!("set ulimit {}={}:{}", limit.name, limit.soft, limit.hard))
}

/// Ids, the filter and capabilities, in the order in which each may still be changed. `reaper` makes devices.
fn give_up_power(user: &User, filter: &[Instruction], reaper: Option<&UnixStream>, capabilities: u64) -> Result<(), InitError> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if let Err(error) = rustix::thread::set_thread_groups(&groups) {
        // With one id, groups can't be set; that is no loss where there are none to give up.
        if user.groups.iter().any(|gid| *gid != 0) || error != rustix::io::Errno::PERM {
            return Err(error).during("set supplementary groups");
        }
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).during(&format!("become group {}", user.gid))?;
    drop_bounding_set(capabilities)?;
    if !filter.is_empty() {
        sys::seccomp::install(filter).during("install the seccomp filter")?;
    }
    if let Some(reaper) = reaper {
        // Without it (somebody may hold our own calls already) devices are refused, and the rest works.
        let listener = sys::notify::install(&emulate::held_calls(emulate::Scope::Devices)).ok();
        let handed: Vec<BorrowedFd<'_>> = listener.iter().map(AsFd::as_fd).collect();
        fdpass::send(reaper, &[0], &handed).during("hand over the emulation filter")?;
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid).during(&format!("become user {}", user.uid))?;
    limit_capabilities(user, capabilities)
}

/// What of the default capabilities we have and a chroot holds.
fn in_chroot() -> Result<u64, InitError> {
    const SYS_CHROOT: u64 = 1 << 18;
    const MKNOD: u64 = 1 << 27;
    let ours = rustix::thread::capabilities(None).during("read our capabilities")?.permitted;
    Ok(CAPABILITIES & ours.bits() & !(SYS_CHROOT | MKNOD))
}

/// Without CAP_SYS_ADMIN a filter takes no_new_privs: root loses nothing by it, another user's `sudo` would not work.
fn may_filter(user: &User) -> Result<bool, InitError> {
    let ours = rustix::thread::capabilities(None).during("read our capabilities")?.effective;
    if ours.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(true);
    }
    if user.uid == 0 {
        rustix::thread::set_no_new_privs(true).during("set no_new_privs")?;
    }
    Ok(user.uid == 0)
}

fn limit_capabilities(user: &User, capabilities: u64) -> Result<(), InitError> {
    rustix::thread::clear_ambient_capability_set().during("clear ambient capabilities")?;
    let kept = if user.uid == 0 { CapabilitySet::from_bits_retain(capabilities) } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).during("set capabilities")
}

/// The same where there is one id: the user's are emulated, the powers follow them.
fn give_up_power_with_one_id(user: &User, filter: &[Instruction], emulator: &UnixStream) -> Result<(), InitError> {
    emulate::pretend(user).during(&format!("become user {}", user.uid))?;
    drop_bounding_set(CAPABILITIES)?;
    if user.uid != 0 {
        // Really we stay id 0, which would get its powers back at exec.
        let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        rustix::thread::set_capabilities_secure_bits(bits).during("give up the powers of root")?;
    }
    if !filter.is_empty() {
        sys::seccomp::install(filter).during("install the seccomp filter")?;
    }
    let listener = sys::notify::install(&emulate::held_calls(emulate::Scope::Everything)).during("install the emulation filter")?;
    fdpass::send(emulator, &[0], &[listener.as_fd()]).during("hand over the emulation filter")?;
    drop(listener);
    limit_capabilities(user, CAPABILITIES)
}

fn drop_bounding_set(kept: u64) -> Result<(), InitError> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept & (1 << number) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).during("drop a capability from the bounding set"),
        }
    }
    Ok(())
}

fn exec(spec: &Spec, user: &User) -> InitError {
    let Some(name) = spec.args.first() else {
        return refuse(126, "no command to run".into());
    };
    let mut env = spec.env.clone();
    if !env.iter().any(|(key, _)| key == "HOME") {
        env.push(("HOME".into(), user.home.clone()));
    }
    let program = match find_program(name, variable(&env, "PATH")) {
        Ok(program) => program,
        Err(error) => return error,
    };
    let strings = || -> Result<_, std::ffi::NulError> {
        let args: Result<Vec<CString>, _> = spec.args.iter().map(|arg| CString::new(arg.as_str())).collect();
        let env: Result<Vec<CString>, _> = env.iter().map(|(key, value)| CString::new(format!("{key}={value}"))).collect();
        Ok((CString::new(program.as_os_str().as_encoded_bytes())?, args?, env?))
    };
    let Ok((file, args, env)) = strings() else {
        return refuse(126, format!("exec {}: a NUL byte in arguments or environment", program.display()));
    };
    let error = process::exec(&file, &args, &env);
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    refuse(code, format!("exec {}: {}", program.display(), plain(&error)))
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> &'a str {
    env.iter().rev().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
}

/// Whether a program is an ELF file of the 32-bit class: the image is then of a 32-bit platform.
fn is_32_bit(program: &Path) -> bool {
    let mut head = [0; 5];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == *b"\x7fELF\x01"
}

/// The file that `name` means: itself when it has a slash, else the first executable in `path`.
fn find_program(name: &str, path: &str) -> Result<PathBuf, InitError> {
    if name.contains('/') {
        return match std::fs::metadata(name) {
            Err(error) => Err(refuse(127, format!("exec: \"{name}\": stat {name}: {}", plain(&error)))),
            Ok(metadata) if metadata.is_dir() => Err(refuse(126, format!("exec: \"{name}\": is a directory"))),
            Ok(_) if !may_execute(Path::new(name)) => Err(refuse(126, format!("exec: \"{name}\": permission denied"))),
            Ok(_) => Ok(PathBuf::from(name)),
        };
    }
    let candidates = path.split(':').map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name));
    let found = candidates.into_iter().find(|candidate| candidate.is_file() && may_execute(candidate));
    found.ok_or_else(|| refuse(127, format!("exec: \"{name}\": executable file not found in $PATH")))
}

fn may_execute(path: &Path) -> bool {
    let any_bit = std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o111 != 0);
    any_bit && rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn refuse(code: i32, message: String) -> InitError {
    InitError::Exec { message, code }
}

/// The sentence of the kernel without Rust's "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
