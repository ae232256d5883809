//! Gates that are seen before entering: user namespaces, id ranges, their helpers, what the process may become.
//! Unaware of what lies behind them.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::sched::CloneFlags;

use super::{Gate, ProbeOptions, advice, in_a_copy};
use crate::{
    sandbox::idmap,
    sys::{mountns, root::RootDir},
};

/// All of them.
pub fn gates(options: &ProbeOptions) -> Vec<Gate> {
    vec![user_namespace(), app_armor(), subordinate_ids(), helpers(options), no_new_privs(), capabilities(), openat2()]
}

/// In a copy: a new user namespace in which we then do what AppArmor would forbid.
fn user_namespace() -> Gate {
    let blank = Gate::new("userns", "unshare(CLONE_NEWUSER | CLONE_NEWNS), then change mount propagation inside");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let copy = blank.clone();
    let tried = in_a_copy(|| {
        let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
        let used = unshared.and_then(|()| {
            fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
            mountns::make_all_private()
        });
        vec![match used {
            Ok(()) => copy.open("ok", "RUN gets namespaces of its own"),
            Err(error) => {
                let said = match error.raw_os_error() {
                    Some(libc::ENOSPC) => format!("{error}: the limit on user namespaces is reached"),
                    _ => error.to_string(),
                };
                copy.closed(said, "no `full` or `single` rung without being root that may mount", advice::user_namespaces())
            }
        }]
    });
    match tried {
        Ok(mut gates) if !gates.is_empty() => gates.remove(0),
        Ok(_) => blank.closed("no answer", "could not be tried", None),
        Err(error) => blank.closed(error.to_string(), "could not be tried", None),
    }
}

fn app_armor() -> Gate {
    let gate = Gate::new("apparmor", "kernel.apparmor_restrict_unprivileged_userns and our profile");
    let profile = fs::read_to_string("/proc/self/attr/current").unwrap_or_default().trim_matches(['\0', '\n']).to_owned();
    let profile = if profile.is_empty() { "none".to_owned() } else { profile };
    match advice::sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() {
        Some("1") if profile == "unconfined" || profile == "none" => gate.closed(
            format!("restriction 1, profile {profile}"),
            "programs without a profile get user namespaces without any power",
            advice::user_namespaces(),
        ),
        Some(value) => gate.open(format!("restriction {value}, profile {profile}"), "does not restrict us"),
        None => gate.open(format!("no such restriction, profile {profile}"), "does not restrict us"),
    }
}

fn subordinate_ids() -> Gate {
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
    let fix = Some(format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"));
    match uids.min(gids) {
        0 => gate.detour(said, "one id: the `single` rung, owners are emulated", fix),
        1..65535 => gate.detour(said, "files of ids past the range cannot be unpacked", fix),
        _ => gate.open(said, "owners are real"),
    }
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

fn has_rights(path: &Path) -> bool {
    let setuid = fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o4000 != 0);
    let mut value = [0; 64];
    setuid || rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|length| length > 0)
}

fn no_new_privs() -> Gate {
    let gate = Gate::new("no_new_privs", "NoNewPrivs in /proc/self/status");
    let fix = match advice::container() {
        Some("kubernetes") => Some("securityContext: {allowPrivilegeEscalation: true}, or hostUsers: false".to_owned()),
        _ => None,
    };
    match advice::status("NoNewPrivs").as_str() {
        "1" if !rustix::process::geteuid().is_root() => gate.detour("1", "newuidmap has no power: the `single` rung", fix),
        value => gate.open(value, "helpers keep their rights"),
    }
}

fn capabilities() -> Gate {
    let gate = Gate::new("capabilities", "CapEff and Seccomp in /proc/self/status");
    let effective = u64::from_str_radix(&advice::status("CapEff"), 16).unwrap_or(0);
    let said = format!("CapEff {effective:016x}, Seccomp {}", advice::status("Seccomp"));
    let has = |number: u32| effective & (1 << number) != 0;
    const SYS_CHROOT: u32 = 18;
    const SYS_ADMIN: u32 = 21;
    match (has(SYS_ADMIN), has(SYS_CHROOT)) {
        (true, _) => gate.open(said, "may mount without a user namespace"),
        (false, true) => gate.open(said, "may chroot: the `chroot` rung is in reach whatever else is closed"),
        (false, false) => gate.open(said, "an ordinary process: RUN needs a user namespace"),
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
