//! Gates that are seen before entering: user namespaces, id ranges, their helpers, what the process may become.
//! Unaware of what lies behind them.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{
    Gate, ProbeOptions,
    advice::{self, Container, Runner},
    in_a_copy, said,
};
use crate::{
    sandbox::{
        Limits, emulate,
        enter::{self, Refused},
        idmap, limits,
    },
    sys::{
        landlock::{self, Scope},
        notify,
        root::RootDir,
    },
};

/// All of them.
pub fn gates(options: &ProbeOptions) -> Vec<Gate> {
    let runner = options.runner;
    vec![
        kernel(),
        sysctls(runner),
        app_armor(runner),
        seccomp(),
        landlock(),
        user_namespace(runner),
        subordinate_ids(),
        helpers(options),
        no_new_privs(runner),
        capabilities(),
        openat2(),
        // Not in the copy that enters: a group that is delegated to us can be divided by its only process.
        cgroup(),
    ]
}

fn kernel() -> Gate {
    let gate = Gate::new("kernel", "read /proc/sys/kernel/osrelease");
    let release = advice::sysctl("kernel.osrelease").unwrap_or_default();
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = format!("{release} {}", std::env::consts::ARCH);
    match version {
        (0..5, _) | (5, 0..11) => gate.detour(
            text,
            "no overlay in user namespaces before 5.11: each step starts from a copy of its root",
            Some("Linux 5.11 or later".into()),
        ),
        (5, _) | (6, 0..7) => gate.open(text, "all rungs; emulators of other processors have to be registered by root before 6.7"),
        _ => gate.open(text, "has all that is asked of it"),
    }
}

/// The switches that close user namespaces for everybody; what they come to is tried by the next gates.
fn sysctls(runner: Option<Runner>) -> Gate {
    const NAMES: [&str; 3] =
        ["user.max_user_namespaces", "kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns"];
    let gate = Gate::new("sysctls", "read the switches of user namespaces");
    let values = NAMES.map(|name| (name, advice::sysctl(name)));
    let text = values.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_deref()?))).collect::<Vec<_>>().join(" ");
    let is = |name: &str, value: &str| values.iter().any(|(known, found)| *known == name && found.as_deref() == Some(value));
    let is_root = rustix::process::geteuid().is_root();
    if is(NAMES[0], "0") || (is(NAMES[1], "0") && !is_root) || (is(NAMES[2], "1") && !is_root) {
        return gate.closed(text, "user namespaces are switched off for us", advice::user_namespaces(runner));
    }
    gate.open(if text.is_empty() { "none here".to_owned() } else { text }, "do not stand in the way")
}

/// In a copy: a new user namespace in which we then do what AppArmor would forbid.
fn user_namespace(runner: Option<Runner>) -> Gate {
    match enter::try_user_namespace() {
        Ok(()) => blank_user_namespace().open("ok", "RUN gets namespaces of its own"),
        Err(refused) => user_namespace_refused(&refused, runner),
    }
}

fn blank_user_namespace() -> Gate {
    Gate::new("userns", "unshare(CLONE_NEWUSER | CLONE_NEWNS), map our id, change mount propagation inside")
}

/// The gate as the kernel has closed it.
pub fn user_namespace_refused(refused: &Refused, runner: Option<Runner>) -> Gate {
    let what_it_means = match refused.error.raw_os_error() {
        Some(libc::ENOSPC) => "the limit on user namespaces is reached: neither `full` nor `single`",
        _ if refused.doing.starts_with("unshare") => "a seccomp filter or a switch refuses user namespaces: neither `full` nor `single`",
        _ => "a security module leaves us no rights inside: neither `full` nor `single`",
    };
    blank_user_namespace().closed(format!("{}: {}", refused.doing, said(&refused.error)), what_it_means, advice::user_namespaces(runner))
}

/// The filter that we are under, and whether the kernel lets us have one of ours that asks us (the `single` rung).
fn seccomp() -> Gate {
    let gate = Gate::new("seccomp", "install a filter with SECCOMP_FILTER_FLAG_NEW_LISTENER");
    let mode = match advice::status("Seccomp").as_str() {
        "0" => "no filter yet".to_owned(),
        "2" => format!("{} filters already", advice::status("Seccomp_filters")),
        other => format!("Seccomp {other}"),
    };
    let tried = in_a_copy(|| {
        let _ = rustix::thread::set_no_new_privs(true);
        notify::install(&emulate::held_calls(emulate::Scope::Everything)).map(drop).map_err(|error| said(&error))
    });
    match tried {
        Ok(Ok(())) => gate.open(format!("ok, {mode}"), "ids and owners can be emulated"),
        Ok(Err(error)) => gate.detour(format!("{error}, {mode}"), "no `single` rung: only one id, and no emulation", None),
        Err(error) => gate.detour(format!("{}, {mode}", said(&error)), "no `single` rung: only one id, and no emulation", None),
    }
}

/// What keeps a step from those with whom it shares a network or a pid namespace.
fn landlock() -> Gate {
    let gate = Gate::new("landlock", "give up signals and abstract sockets outside with landlock_restrict_self");
    let tried = in_a_copy(|| {
        let _ = rustix::thread::set_no_new_privs(true);
        landlock::restrict(&[Scope::Signals, Scope::AbstractSockets]).map_err(|error| said(&error))
    });
    let otherwise = "on the host's network RUN reaches abstract sockets, and on the `chroot` rung signals reach the container's processes";
    let fix = |said: &str| match said.split_whitespace().next() {
        Some("EOPNOTSUPP") => Some("a kernel that is started with lsm=landlock,..".to_owned()),
        Some("EPERM") => None,
        _ => Some("Linux 6.12 or later".to_owned()),
    };
    match tried {
        Ok(Ok(())) => gate.open("ok", "RUN reaches no abstract socket and no process outside, whatever it shares"),
        Ok(Err(said)) => gate.detour(said.clone(), otherwise, fix(&said)),
        Err(error) => gate.detour(said(&error), otherwise, None),
    }
}

fn app_armor(runner: Option<Runner>) -> Gate {
    let gate = Gate::new("apparmor", "kernel.apparmor_restrict_unprivileged_userns and our profile");
    let profile = fs::read_to_string("/proc/self/attr/current").unwrap_or_default().trim_matches(['\0', '\n']).to_owned();
    let profile = if profile.is_empty() { "none".to_owned() } else { profile };
    match advice::sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() {
        Some("1") if (profile == "unconfined" || profile == "none") && !rustix::process::geteuid().is_root() => gate.closed(
            format!("restriction 1, profile {profile}"),
            "programs without a profile get user namespaces without any power",
            advice::user_namespaces(runner),
        ),
        Some(value) => gate.open(format!("restriction {value}, profile {profile}"), "does not restrict us"),
        None => gate.open(format!("no such restriction, profile {profile}"), "does not restrict us"),
    }
}

/// The range of ids that a user has.
pub fn subordinate_ids() -> Gate {
    let gate = Gate::new("subids", "/etc/subuid and /etc/subgid, /proc/self/uid_map");
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let size = idmap::size(&idmap::identity(&map));
        return match size {
            0 | 1 => gate.detour(format!("{size} id"), "this container has no range of ids: the `single` rung", None),
            _ => gate.open(format!("root with {size} ids"), "owners are real; no range needed"),
        };
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    let count = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        idmap::subordinate(&text, user.as_deref(), uid).iter().map(|(_, count)| u64::from(*count)).sum::<u64>()
    };
    let (uids, gids) = (count("/etc/subuid"), count("/etc/subgid"));
    let name = user.unwrap_or_else(|| uid.to_string());
    let said = format!("{uids} uids, {gids} gids for {name}");
    let start = first_free_id();
    let range = format!("{start}-{}", start + 65535);
    let fix = Some(format!("sudo usermod --add-subuids {range} --add-subgids {range} {name}"));
    match uids.min(gids) {
        0 => gate.detour(said, "one id: the `single` rung, owners are emulated", fix),
        1..65535 => gate.detour(said, "files of ids past the range cannot be unpacked", fix),
        _ => gate.open(said, "owners are real"),
    }
}

/// Behind all ranges that somebody has.
fn first_free_id() -> u64 {
    let ends = ["/etc/subuid", "/etc/subgid"].into_iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let end = |line: &str| {
            let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u64>());
            Some(fields.next()?.ok()? + fields.next()?.ok()?)
        };
        text.lines().filter_map(end).collect::<Vec<_>>()
    });
    ends.chain([100_000]).max().unwrap_or(100_000)
}

fn helpers(options: &ProbeOptions) -> Gate {
    let gate = Gate::new("newuidmap", "newuidmap and newgidmap in PATH, with their rights");
    if rustix::process::geteuid().is_root() {
        return gate.open("not needed by root", "root writes its own maps");
    }
    let fix = Some(format!("sudo {}", advice::install(("uidmap", "shadow-utils", "shadow-uidmap", "shadow"))));
    for name in ["newuidmap", "newgidmap"] {
        let Some(path) = options.find(name) else {
            return gate.detour(format!("{name} is not installed"), "one id: the `single` rung", fix);
        };
        if !has_rights(&path) {
            let said = format!("{} has neither the setuid bit nor file capabilities", path.display());
            let fix = Some(format!("sudo chmod u+s {}", path.display()));
            return gate.detour(said, "one id: the `single` rung", fix);
        }
    }
    gate.open("installed", "a range of ids can be mapped")
}

/// The helpers were there and failed.
pub fn helper_failed(reason: &str) -> Gate {
    let fix = Some(format!("sudo {}", advice::install(("uidmap", "shadow-utils", "shadow-uidmap", "shadow"))));
    Gate::new("newuidmap", "write our id maps with newuidmap and newgidmap").detour(reason, "one id: the `single` rung", fix)
}

fn has_rights(path: &Path) -> bool {
    let setuid = fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o4000 != 0);
    let mut value = [0; 64];
    setuid || rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|length| length > 0)
}

/// Whether set-id programs have any power.
pub fn no_new_privs(runner: Option<Runner>) -> Gate {
    let gate = Gate::new("no_new_privs", "NoNewPrivs in /proc/self/status");
    let fix = match (advice::container(), runner) {
        (Some(Container::Kubernetes), _) => {
            Some("securityContext: {allowPrivilegeEscalation: true}, or spec: {hostUsers: false}".to_owned())
        }
        (Some(_), Some(Runner::GitLab)) => Some("config.toml: [runners.docker] security_opt without no-new-privileges".to_owned()),
        (Some(_), _) => Some("docker run without --security-opt no-new-privileges".to_owned()),
        (None, _) => None,
    };
    match advice::status("NoNewPrivs").as_str() {
        "1" if !rustix::process::geteuid().is_root() => gate.detour("1", "newuidmap has no power: the `single` rung", fix),
        value => gate.open(value, "helpers keep their rights"),
    }
}

/// What the `chroot` rung asks of root, by their numbers.
const FOR_CHROOT: [(u32, &str); 7] =
    [(0, "CHOWN"), (1, "DAC_OVERRIDE"), (3, "FOWNER"), (6, "SETGID"), (7, "SETUID"), (8, "SETPCAP"), (18, "SYS_CHROOT")];

fn effective_capabilities() -> u64 {
    u64::from_str_radix(&advice::status("CapEff"), 16).unwrap_or(0)
}

/// The capabilities that root lacks for the `chroot` rung, as a sentence.
pub fn missing_for_chroot() -> Option<String> {
    let names = missing_capabilities()?;
    Some(format!("root here lacks {names}"))
}

fn missing_capabilities() -> Option<String> {
    let effective = effective_capabilities();
    let missing: Vec<&str> = FOR_CHROOT.iter().filter(|(number, _)| effective & (1 << number) == 0).map(|(_, name)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// What we may do without a user namespace.
pub fn capabilities() -> Gate {
    let gate = Gate::new("capabilities", "CapEff in /proc/self/status");
    let effective = effective_capabilities();
    let said = format!("{effective:016x}");
    const SYS_ADMIN: u64 = 1 << 21;
    if effective & SYS_ADMIN != 0 {
        return gate.open(said, "may mount without a user namespace");
    }
    match (rustix::process::geteuid().is_root(), missing_capabilities()) {
        (true, None) => gate.open(said, "may chroot: the `chroot` rung is in reach whatever else is closed"),
        (true, Some(names)) => gate.detour(
            format!("{said} lacks {names}"),
            "no `chroot` rung: RUN needs a user namespace",
            Some(advice::capability(&names, None)),
        ),
        (false, _) => gate.open(said, "an ordinary process: RUN needs a user namespace"),
    }
}

fn openat2() -> Gate {
    let gate = Gate::new("openat2", "openat2(\"/\", RESOLVE_IN_ROOT)");
    let how = rustix::fs::ResolveFlags::IN_ROOT;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::openat2(rustix::fs::CWD, "/", flags, rustix::fs::Mode::empty(), how) {
        Ok(_) => gate.open("ok", "paths are resolved by the kernel"),
        Err(error) => {
            let walks = RootDir::open(Path::new("/")).and_then(|root| root.sub_root(Path::new("etc"))).is_ok();
            let meaning = if walks { "paths are walked one name at a time, a little slower" } else { "paths cannot be resolved safely" };
            gate.detour(error.to_string(), meaning, None)
        }
    }
}

/// Makes a group as a step would get it; it is removed again.
fn cgroup() -> Gate {
    let gate = Gate::new("cgroup", "make a control group with limits of memory, processors and processes");
    let wanted = Limits { memory_bytes: Some(1 << 30), cpu_quota_us: Some(100_000), pids: Some(1000), ..Limits::default() };
    let kept = limits::kept(&wanted);
    let held = match kept.groups.is_empty() {
        true => "no group".to_owned(),
        false => kept.groups.join(", "),
    };
    if kept.missing.is_empty() {
        return gate.open(held, "--memory, --cpus and --pids-limit hold for a step as a whole");
    }
    let said = format!("{held}; {}", kept.missing.join("; "));
    gate.detour(said, format!("instead: {}", kept.notes.join("; ")), Some(advice::control_groups()))
}
