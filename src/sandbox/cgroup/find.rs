//! Finds the control groups that this process is in, from the text of /proc/self/cgroup and /proc/self/mountinfo.
//! Pure: reads nothing. Unaware of limits.

use std::path::{Path, PathBuf};

/// Which of the kernel's two interfaces a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// Our own group in a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The interface.
    pub version: Version,
    /// Its directory.
    pub directory: PathBuf,
}

/// Our group in the hierarchy of a v1 controller.
pub fn v1(controller: &str, cgroup: &str, mountinfo: &str) -> Option<Own> {
    let path = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next()?.split(',').any(|name| name == controller).then(|| fields.next())?
    })?;
    let is_its = |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|option| option == controller);
    Some(Own { version: Version::V1, directory: directory(path, mountinfo, is_its)? })
}

/// Our group in the unified hierarchy.
pub fn v2(cgroup: &str, mountinfo: &str) -> Option<Own> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Own { version: Version::V2, directory: directory(path, mountinfo, |kind, _| kind == "cgroup2")? })
}

/// Where `path` of a hierarchy is mounted, if it is.
fn directory(path: &str, mountinfo: &str, is_its: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        let mut mount = mount.split(' ').skip(3);
        let (root, place) = (mount.next()?, mount.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        is_its(kind, options).then(|| Path::new(place).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "9:name=systemd:/\n8:pids:/\n4:memory:/jobs/7\n2:cpu,cpuacct:/a\n0::/\n";
    const V1_MOUNTS: &str = "30 25 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn each_controller_of_v1_has_its_own_tree() {
        let at = |path: &str| Some(Own { version: Version::V1, directory: path.into() });
        assert_eq!(v1("memory", V1, V1_MOUNTS), at("/sys/fs/cgroup/memory/jobs/7"));
        assert_eq!(v1("cpu", V1, V1_MOUNTS), at("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert_eq!(v1("pids", V1, V1_MOUNTS), None, "it is not mounted");
        assert_eq!(v2(V1, V1_MOUNTS).unwrap().directory, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let own = "0::/user.slice/user-1000.slice/session-2.scope\n";
        let mounts = "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(v2(own, mounts).unwrap().directory, Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope"));
        // Docker with the host's namespace: the container's group is what is mounted.
        let (own, mounts) = ("0::/docker/abc\n", "24 1 0:22 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n");
        assert_eq!(v2(own, mounts).unwrap().directory, Path::new("/sys/fs/cgroup/"));
        assert_eq!(v2("0::/docker/def\n", mounts), None);
    }
}
