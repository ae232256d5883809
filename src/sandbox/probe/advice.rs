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

/// Whether we seem to be in a container, and of what kind.
pub fn container() -> Option<&'static str> {
    let exists = |path: &str| fs::exists(path).unwrap_or(false);
    if exists("/var/run/secrets/kubernetes.io") {
        Some("kubernetes")
    } else if exists("/.dockerenv") {
        Some("docker")
    } else if exists("/run/.containerenv") {
        Some("podman")
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
pub fn user_namespaces() -> Option<String> {
    if sysctl("user.max_user_namespaces").as_deref() == Some("0") {
        return Some("sudo sysctl -w user.max_user_namespaces=15000".into());
    }
    if sysctl("kernel.unprivileged_userns_clone").as_deref() == Some("0") {
        return Some("sudo sysctl -w kernel.unprivileged_userns_clone=1".into());
    }
    if sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        let program = std::env::current_exe().map_or_else(|_| "/usr/bin/rbuild".into(), |path| path.display().to_string());
        return Some(format!(
            "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile rbuild {program} flags=(unconfined) {{ userns, }}\\n' | sudo tee \
             /etc/apparmor.d/rbuild && sudo apparmor_parser -r /etc/apparmor.d/rbuild   # or: sudo sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0"
        ));
    }
    match container() {
        Some("kubernetes") => {
            Some("spec: {hostUsers: false} (Kubernetes >= 1.33), or securityContext: {seccompProfile: {type: Unconfined}}".into())
        }
        Some("docker") => Some("docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined ..".into()),
        Some("podman") => Some("podman run --security-opt seccomp=unconfined ..".into()),
        _ => None,
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
