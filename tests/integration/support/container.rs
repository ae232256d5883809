//! Containers as CI runners start them, made with crun: what rbuild finds under it when nobody opens anything for it.
//!
//! ```ignore
//! let Some(container) = Container::plain() else { return };           // skipped: not root, no crun
//! let container = container.share(&bed.path(""));                     // the only place that it shares with the test
//! let outcome = Outcome::of(container.wrap(&bed.command(&["build", "."])));
//! assert!(container.changes().is_empty());                            // what was written elsewhere
//! ```
//!
//! Its root is the machine's, under an overlay of its own: all tools are there, and what is written stays in the container
//! from one command to the next. The network is the machine's, so that registries on loopback are reached. Unaware of rbuild.

use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use serde_json::{Value, json};

use super::{binary, skip};

/// What `docker run` leaves to root.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What Docker's default filter refuses to a container with those capabilities: all that its list of allowed calls leaves out.
const REFUSED: &str = "_sysctl acct add_key afs_syscall bdflush bpf break clock_adjtime clock_settime clock_settime64 create_module \
    delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick ftime get_kernel_syms get_mempolicy getpmsg gtty idle \
    init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lock lookup_dcookie \
    mbind migrate_pages mount mount_setattr move_mount move_pages mpx nfsservctl open_by_handle_at open_tree perf_event_open \
    pidfd_getfd pivot_root process_madvise prof profil putpmsg query_module quotactl quotactl_fd reboot request_key security \
    set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday stime stty swapoff swapon sysfs syslog tuxcall \
    ulimit umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old vserver";

/// CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The mounts are made in a mount namespace that ends with the container. Some machines have both cgroup versions mounted,
/// which crun refuses: it gets one that it knows.
const START: &str = "set -e; cd \"$1\"; umount -R /sys/fs/cgroup 2>/dev/null || true; mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
    mount -t overlay overlay -o \"lowerdir=/,upperdir=$1/upper,workdir=$1/work\" root; \
    exec crun --cgroup-manager=disabled --root=\"$1/state\" run --bundle=\"$1\" \"$2\"";

/// A container whose commands run one at a time.
pub struct Container {
    folder: tempfile::TempDir,
    user: u32,
    capabilities: Vec<String>,
    is_filtered: bool,
    no_new_privs: bool,
    shared: Vec<PathBuf>,
}

impl Container {
    /// Root in a container as `docker run IMAGE` starts it: Docker's default capabilities, seccomp filter and masked paths.
    /// GitLab's docker executor, Forgejo's runner and a Kubernetes pod with `RuntimeDefault` are this. None: skipped.
    pub fn plain() -> Option<Container> {
        if !nix::unistd::Uid::effective().is_root() {
            skip("only root can start a container like Docker's");
            return None;
        }
        if Command::new("crun").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("crun is not installed");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("rbuild-container-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["upper", "work", "root", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let capabilities = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
        Some(Container { folder, user: 0, capabilities, is_filtered: true, no_new_privs: false, shared: Vec::new() })
    }

    /// Nobody with nothing, as the `restricted` Pod Security Standard has it: not root, no capabilities, no_new_privs.
    pub fn restricted(self, user: u32) -> Container {
        Container { user, capabilities: Vec::new(), no_new_privs: true, ..self }
    }

    /// Without the seccomp filter: a pod of a cluster that does not set `SeccompDefault`. /proc stays masked.
    pub fn unfiltered(self) -> Container {
        Container { is_filtered: false, ..self }
    }

    /// Without a capability: `--cap-drop`.
    pub fn without(mut self, capability: &str) -> Container {
        self.capabilities.retain(|name| name.strip_prefix("CAP_") != Some(capability));
        self
    }

    /// A place of the machine that is the same inside, like a volume.
    pub fn share(mut self, path: &Path) -> Container {
        self.shared.push(path.to_owned());
        self
    }

    /// The same program, arguments, environment and working directory, run inside; nothing is on standard input.
    pub fn wrap(&self, command: &Command) -> Command {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let text = |part: &std::ffi::OsStr| part.to_str().expect("commands of tests are text").to_owned();
        let arguments: Vec<String> = [command.get_program()].into_iter().chain(command.get_args()).map(text).collect();
        let variables = command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", text(name), text(value?))));
        let cwd = command.get_current_dir().unwrap_or(Path::new("/")).to_owned();
        fs::write(self.folder.path().join("config.json"), self.configuration(&arguments, variables.collect(), &cwd).to_string()).unwrap();
        let name = format!("rbuild-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", START, "sh"]);
        wrapped.arg(self.folder.path()).arg(name).stdin(Stdio::null());
        wrapped
    }

    /// The paths of the root that were made, changed or deleted since the container was made; what lies in a new directory
    /// is not named.
    pub fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.folder.path().join("upper"), Path::new("/"), &mut found);
        found.sort();
        found
    }

    fn configuration(&self, arguments: &[String], variables: Vec<String>, cwd: &Path) -> Value {
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let sets = &self.capabilities;
        let mut linux = json!({"namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY});
        if self.is_filtered {
            linux["seccomp"] = filter();
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": self.user, "gid": self.user},
                "args": arguments,
                "env": variables,
                "cwd": cwd,
                "capabilities": {"bounding": sets, "effective": sets, "permitted": sets},
                "noNewPrivileges": self.no_new_privs,
            },
            "root": {"path": self.folder.path().join("root")},
            "hostname": "plain",
            "mounts": self.mounts(),
            "linux": linux,
        })
    }

    fn mounts(&self) -> Vec<Value> {
        let kernel =
            |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            kernel("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            kernel("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            kernel("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ];
        let bind = |path: &Path, mode: &str| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", mode]});
        mounts.extend(binary().parent().map(|folder| bind(folder, "ro")));
        mounts.extend(self.shared.iter().map(|path| bind(path, "rw")));
        mounts
    }
}

/// Docker's default filter.
fn filter() -> Value {
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;
    const AF_VSOCK: u64 = 40;
    let refuse = |names: &[&str], errno: u32, arguments: Value| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments});
    let names: Vec<&str> = REFUSED.split_whitespace().collect();
    let mut calls = vec![refuse(&names, EPERM, json!([])), refuse(&["clone3"], ENOSYS, json!([]))];
    calls.push(refuse(&["socket"], EPERM, json!([{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ"}])));
    for flag in (0..32).map(|bit| 1u64 << bit).filter(|flag| NAMESPACE_FLAGS & flag != 0) {
        calls.push(refuse(&["clone"], EPERM, json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}])));
    }
    let architectures =
        if cfg!(target_arch = "aarch64") { ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"] } else { ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] };
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": calls})
}

/// A directory of the upper layer counts when it is new; a copied-up one is looked into.
fn collect(upper: &Path, inside: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(upper).unwrap().map(Result::unwrap) {
        let path = inside.join(entry.file_name());
        let metadata = entry.metadata().unwrap();
        let is_deleted = metadata.file_type().is_char_device() && metadata.rdev() == 0;
        // The container's runtime makes these to mount on them.
        let is_whole = !metadata.is_dir() || !path.is_dir();
        if is_whole || is_deleted {
            found.push(path.display().to_string());
        } else {
            collect(&entry.path(), &path, found);
        }
    }
}

/// A command of the machine's, to be wrapped: nothing in its environment but a path.
pub fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/usr/bin:/sbin:/bin"));
    command.args(["-c", script]).env_clear().env("PATH", path);
    command
}
