//! The fixes, in the words of the distribution or runner that we are on.
//! Unaware of what was probed.

use std::fs;

/// How to install a package whose name differs between distributions: (debian, fedora, alpine, arch).
pub fn install(names: (&str, &str, &str, &str)) -> String {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    install_on(&os, names)
}

fn install_on(os_release: &str, (debian, fedora, alpine, arch): (&str, &str, &str, &str)) -> String {
    let value = |key: &str| os_release.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("").trim_matches('"').to_owned();
    let family = format!("{} {}", value("ID="), value("ID_LIKE="));
    let is = |names: &[&str]| family.split_whitespace().any(|id| names.contains(&id));
    if is(&["alpine"]) {
        format!("apk add {alpine}")
    } else if is(&["fedora", "rhel", "centos", "amzn", "suse"]) {
        format!("dnf install {fedora}")
    } else if is(&["arch"]) {
        format!("pacman -S {arch}")
    } else {
        format!("apt-get install {debian}")
    }
}

/// Who runs us, as far as it changes where a setting is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// A job of GitHub Actions, in a container or not.
    GitHub,
    /// A job of GitLab CI.
    GitLab,
}

/// What kind of container we seem to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Kubernetes,
    Docker,
    Podman,
}

/// The container that we seem to be in.
pub fn container() -> Option<Container> {
    let exists = |path: &str| fs::exists(path).unwrap_or(false);
    if exists("/var/run/secrets/kubernetes.io") {
        Some(Container::Kubernetes)
    } else if exists("/.dockerenv") {
        Some(Container::Docker)
    } else if exists("/run/.containerenv") {
        Some(Container::Podman)
    } else {
        None
    }
}

/// A line of /proc/self/status.
pub fn status(key: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim));
    line.unwrap_or("").to_owned()
}

/// A sysctl, where it exists.
pub fn sysctl(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(text.trim().to_owned())
}

/// What opens user namespaces here.
pub fn user_namespaces(runner: Option<Runner>) -> Option<String> {
    let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
    if is("user.max_user_namespaces", "0") {
        return Some("sudo sysctl -w user.max_user_namespaces=15000".into());
    }
    if is("kernel.unprivileged_userns_clone", "0") {
        return Some("sudo sysctl -w kernel.unprivileged_userns_clone=1".into());
    }
    let is_restricted = is("kernel.apparmor_restrict_unprivileged_userns", "1") && !rustix::process::geteuid().is_root();
    match (container(), runner) {
        (None, Some(Runner::GitHub)) if is_restricted => {
            Some("- run: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   # a step before rbuild".into())
        }
        (None, _) if is_restricted => Some(app_armor_profile()),
        (container, runner) => in_container(container, runner),
    }
}

/// A profile that lets this program have user namespaces, as distributions ship them for browsers.
fn app_armor_profile() -> String {
    let program = std::env::current_exe().map_or_else(|_| "/usr/bin/rbuild".into(), |path| path.display().to_string());
    format!(
        "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile rbuild {program} flags=(unconfined) {{ userns, }}\\n' | sudo tee \
         /etc/apparmor.d/rbuild && sudo apparmor_parser -r /etc/apparmor.d/rbuild"
    )
}

fn in_container(container: Option<Container>, runner: Option<Runner>) -> Option<String> {
    let fix = match (container?, runner) {
        (Container::Kubernetes, _) => {
            "spec: {hostUsers: false} (Kubernetes 1.33), or securityContext: {seccompProfile: {type: Unconfined}}"
        }
        (_, Some(Runner::GitLab)) => "config.toml: [runners.docker] security_opt = [\"seccomp=unconfined\", \"apparmor=unconfined\"]",
        (_, Some(Runner::GitHub)) => "container: {options: --security-opt seccomp=unconfined --security-opt apparmor=unconfined}",
        (Container::Docker, None) => "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined ..",
        (Container::Podman, None) => "podman run --security-opt seccomp=unconfined ..",
    };
    Some(fix.into())
}

/// What gives us control groups to divide, or holds the build as a whole where nobody gets any.
pub fn control_groups() -> String {
    let is_unified = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false);
    let fix = match (container(), is_unified) {
        (Some(Container::Kubernetes), _) => "resources: {limits: {memory: .., cpu: ..}}   # of the container: for the build as a whole",
        (Some(Container::Docker), _) => "docker run --memory .. --cpus .. --pids-limit ..   # for the build as a whole",
        (Some(Container::Podman), _) => "podman run --memory .. --cpus .. --pids-limit ..   # for the build as a whole",
        (None, true) if rustix::process::geteuid().is_root() => "systemd-run --scope -p Delegate=yes rbuild ..",
        (None, true) => "systemd-run --user --scope -p Delegate=yes rbuild ..",
        (None, false) => "the kernel parameter systemd.unified_cgroup_hierarchy=1   # cgroup v2",
    };
    fix.into()
}

/// What gives a root of a container the capabilities that it was started without.
pub fn capability(names: &str, runner: Option<Runner>) -> String {
    match (container(), runner) {
        (Some(Container::Kubernetes), _) => format!("securityContext: {{runAsUser: 0, capabilities: {{add: [{names}]}}}}"),
        (_, Some(Runner::GitLab)) => {
            let quoted = names.split(", ").map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            format!("config.toml: [runners.docker] cap_add = [{quoted}]")
        }
        (Some(Container::Podman), _) => format!("podman run --user 0 --cap-add {} ..", names.replace(", ", ",")),
        _ => format!("docker run --user 0 --cap-add {} ..", names.replace(", ", " --cap-add ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_with_the_tool_of_the_family() {
        let names = ("d", "f", "al", "ar");
        for (os, expected) in [
            ("ID=ubuntu\nID_LIKE=debian\n", "apt-get install d"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install f"),
            ("ID=alpine\n", "apk add al"),
            ("ID=arch\n", "pacman -S ar"),
            ("", "apt-get install d"),
        ] {
            assert_eq!(install_on(os, names), expected);
        }
    }
}
