//! Runs real processes in real sandboxes, as root and as an unprivileged user.
//!
//! This program is its own harness: it has to enter the user namespace before there is a second thread, and RUN's init
//! is a re-execution of it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rbuild::sandbox::{self, Cancel, Exit, Mount, MountKind, Network, RootFs, RunError, Rung, Source, Spec, Stream};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root\nstaff:x:50:app\napp:x:1000:\n";

#[path = "sandbox_cases/items.rs"]
mod items;

/// What a case works with: a busybox rootfs as lower, a fresh upper, and a canary outside.
struct Box {
    top: tempfile::TempDir,
}

/// Output and end of a step.
struct Ran {
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl Box {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let lower = top.path().join("lower");
        for directory in ["bin", "etc", "tmp", "root", "home/app"] {
            fs::create_dir_all(lower.join(directory)).unwrap();
        }
        fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        fs::write(lower.join("etc/passwd"), PASSWD).unwrap();
        fs::write(lower.join("etc/group"), GROUP).unwrap();
        fs::write(top.path().join("canary"), "outside").unwrap();
        for directory in ["upper", "work", "source"] {
            fs::create_dir(top.path().join(directory)).unwrap();
        }
        fs::write(top.path().join("source/a.txt"), "a\n").unwrap();
        Self { top }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    fn spec(&self, script: &str) -> Spec {
        Spec {
            rootfs: RootFs::Overlay {
                lowers: vec![self.path("lower")],
                upper: self.path("upper"),
                work: self.path("work"),
                volatile: false,
            },
            args: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            env: vec![("PATH".into(), "/bin:/usr/bin".into())],
            network: Network::Host,
            ..Spec::default()
        }
    }

    fn source(&self) -> Source {
        Source::Directory(self.path("source"))
    }
}

fn mount(target: &str, kind: MountKind) -> Mount {
    Mount { target: target.into(), kind }
}

fn try_run(spec: &Spec) -> Result<Ran, RunError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = sandbox::run(spec, None, |stream, bytes| match stream {
        Stream::Stdout => stdout.extend_from_slice(bytes),
        Stream::Stderr => stderr.extend_from_slice(bytes),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { exit, stdout: text(stdout), stderr: text(stderr) })
}

/// Runs a script that has to succeed and returns what it printed.
fn output(spec: &Spec) -> String {
    let ran = try_run(spec).unwrap();
    assert_eq!(ran.exit.code, 0, "stderr: {}", ran.stderr);
    ran.stdout
}

fn a_command_runs_and_its_changes_are_in_the_upper_directory_only() {
    let case = Box::new();
    assert_eq!(output(&case.spec("echo hi > /made; rm /etc/group; echo done")), "done\n");
    assert_eq!(fs::read_to_string(case.path("upper/made")).unwrap(), "hi\n");
    assert!(case.path("lower/etc/group").exists() && !case.path("lower/made").exists());
    let names: Vec<String> =
        fs::read_dir(case.path("upper")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| ["dev", "proc", "sys"].contains(&name.as_str())), "{names:?}");
    assert!(!case.path("upper/etc/hosts").exists() && !case.path("upper/etc/resolv.conf").exists());
}

fn the_exit_code_and_both_streams_are_told() {
    let case = Box::new();
    let ran = try_run(&case.spec("echo out; echo err >&2; exit 42")).unwrap();
    assert_eq!((ran.exit.code, ran.stdout.as_str(), ran.stderr.as_str()), (42, "out\n", "err\n"));
    let ran = try_run(&case.spec("kill -9 $$")).unwrap();
    assert_eq!((ran.exit.code, ran.exit.signal), (137, Some(9)));
    assert_eq!(try_run(&case.spec("nosuchcommand")).unwrap().exit.code, 127);
}

fn an_unknown_program_or_user_is_a_sentence() {
    let case = Box::new();
    let message = |change: &dyn Fn(&mut Spec)| {
        let mut spec = case.spec("true");
        change(&mut spec);
        try_run(&spec).err().unwrap().to_string()
    };
    assert_eq!(message(&|spec| spec.args = vec!["nosuch".into()]), "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(message(&|spec| spec.args = vec!["/no/such".into()]), "exec: \"/no/such\": stat /no/such: no such file or directory");
    assert_eq!(message(&|spec| spec.args = vec!["/etc/passwd".into()]), "exec: \"/etc/passwd\": permission denied");
    assert_eq!(message(&|spec| spec.user = "nosuch".into()), "unable to find user nosuch: no matching entries in passwd file");
}

fn the_environment_is_the_one_given_and_home() {
    let case = Box::new();
    assert_eq!(output(&case.spec("env | sort | grep -v ^PWD= | grep -v ^SHLVL=")), "HOME=/root\nPATH=/bin:/usr/bin\n");
    assert_eq!(output(&case.spec("hostname; umask; ulimit -c >/dev/null; cat | wc -c")), "buildkitsandbox\n0022\n0\n");
    assert_eq!(output(&case.spec("readlink /proc/self; (cat /proc/1/environ) 2>/dev/null; true")).lines().count(), 1);
}

fn capabilities_are_dockers() {
    let case = Box::new();
    let mut spec = case.spec("grep -E '^Cap' /proc/self/status | tr -d '\\t'; grep NoNewPrivs /proc/self/status | cut -f2");
    // What was taken from us, a step does not get.
    let no_new_privs = i32::from(rustix::thread::no_new_privs().unwrap());
    let sets = |powers: &str| {
        let bounding = "00000000a80425fb";
        format!("CapInh:0000000000000000\nCapPrm:{powers}\nCapEff:{powers}\nCapBnd:{bounding}\nCapAmb:0000000000000000\n{no_new_privs}\n")
    };
    assert_eq!(output(&spec), sets("00000000a80425fb"));
    spec.user = "app".into();
    assert_eq!(output(&spec), sets("0000000000000000"));
}

fn users_and_their_groups() {
    let case = Box::new();
    let id = |user: &str| output(&Spec { user: user.into(), ..case.spec("id; echo > /dev/stdout") });
    assert_eq!(id(""), "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n\n");
    assert_eq!(id("app"), "uid=1000(app) gid=1000(app) groups=50(staff),1000(app)\n\n");
    assert_eq!(id("app:staff"), "uid=1000(app) gid=50(staff) groups=50(staff)\n\n");
    assert_eq!(id("4242"), "uid=4242 gid=0(root) groups=0(root)\n\n");
}

fn a_missing_working_directory_is_made_for_the_user() {
    let case = Box::new();
    let spec = Spec { cwd: "/srv/deep/er".into(), user: "app".into(), ..case.spec("pwd; touch here; stat -c %u:%g /srv /srv/deep/er") };
    assert_eq!(output(&spec), "/srv/deep/er\n1000:1000\n1000:1000\n");
    assert!(case.path("upper/srv/deep/er/here").exists());
    // CVE-2024-21626: no descriptor of ours is a way out.
    for number in 0..64 {
        let spec = Spec { cwd: format!("/proc/self/fd/{number}"), ..case.spec("cat ../../../canary canary; pwd") };
        if let Ok(ran) = try_run(&spec) {
            assert!(!ran.stdout.contains("outside"), "{number}: {}", ran.stdout);
        }
    }
}

fn devices_and_kernel_paths() {
    let case = Box::new();
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d && echo -n $d' '; done; echo x > /dev/null && \
        ls -d /dev/fd /dev/stdin /dev/pts /dev/shm | tr '\\n' ' '; df -k /dev/shm | awk 'NR==2{print $2}'; stat -c %a /dev/shm";
    assert_eq!(output(&case.spec(script)), "null zero full random urandom tty /dev/fd /dev/pts /dev/shm /dev/stdin 65536\n1777\n");
    let refused = "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do (echo x > $f) 2>/dev/null && echo wrote $f; done; \
        (mkdir /sys/fs/cgroup/x) 2>/dev/null && echo made; cat /proc/kcore /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l";
    assert_eq!(output(&case.spec(refused)), "0\n0\n");
    assert_eq!(output(&case.spec("ls /proc/self/fd | wc -l")), "4\n");
}

fn mounts_show_what_they_say_and_leave_no_trace() {
    let case = Box::new();
    fs::create_dir(case.path("source/in")).unwrap();
    let bind = |subpath: &str, read_only| MountKind::Bind { source: case.source(), subpath: subpath.into(), read_only };
    let secret = MountKind::Secret { bytes: b"s3cret".to_vec(), mode: 0o440, uid: 1000, gid: 50 };
    let mut spec = case.spec(
        "cat /m/a.txt; (touch /m/x) 2>/dev/null || echo refused; touch /m/in/x && ls /m/in; cat /new/deep/file; \
         cat /run/secrets/tok; stat -c ' %a %u:%g' /run/secrets/tok; /dev/pipes/script; stat -c %a /root",
    );
    spec.mounts = vec![
        mount("/m/in", MountKind::Tmpfs { size_bytes: Some(1 << 20), read_only: false }),
        mount("/m", bind("", true)),
        mount("/new/deep/file", bind("/a.txt", true)),
        mount("/run/secrets/tok", secret),
        mount("/dev/pipes/script", MountKind::File { bytes: b"#!/bin/sh\necho script\n".to_vec(), mode: 0o755 }),
        mount("/root", MountKind::Tmpfs { size_bytes: None, read_only: false }),
    ];
    assert_eq!(output(&spec), "a\nrefused\nx\na\ns3cret 440 1000:50\nscript\n755\n");
    assert!(fs::read_dir(case.path("upper")).unwrap().all(|entry| ["etc"].contains(&entry.unwrap().file_name().to_str().unwrap())));
    assert_eq!(fs::read_dir(case.path("upper/etc")).map_or(0, Iterator::count), 0);
}

fn writes_to_a_discarded_bind_are_thrown_away() {
    let case = Box::new();
    let discard = |subpath: &str, scratch: Option<PathBuf>| MountKind::Discard { source: case.source(), subpath: subpath.into(), scratch };
    for scratch in [None, Some(case.path("scratch"))] {
        let _ = fs::create_dir(case.path("scratch"));
        let mut spec = case.spec("echo changed > /m/a.txt && touch /m/new && cat /m/a.txt");
        spec.mounts = vec![mount("/m", discard("", scratch))];
        assert_eq!(output(&spec), "changed\n");
    }
    let mut spec = case.spec("echo changed > /f && cat /f");
    spec.mounts = vec![mount("/f", discard("a.txt", None))];
    assert_eq!(output(&spec), "changed\n");
    assert_eq!(fs::read_to_string(case.path("source/a.txt")).unwrap(), "a\n");
    assert_eq!(fs::read_dir(case.path("source")).unwrap().count(), 1);
}

fn a_bind_of_layers_is_their_union() {
    let case = Box::new();
    fs::create_dir(case.path("second")).unwrap();
    fs::write(case.path("second/b.txt"), "b\n").unwrap();
    let source = Source::Overlay(vec![case.path("second"), case.path("source")]);
    let mut spec = case.spec("cat /m/a.txt /m/b.txt /b");
    spec.mounts = vec![
        mount("/m", MountKind::Bind { source: source.clone(), subpath: "/".into(), read_only: true }),
        mount("/b", MountKind::Bind { source, subpath: "b.txt".into(), read_only: true }),
    ];
    assert_eq!(output(&spec), "a\nb\nb\n");
}

fn sources_and_targets_stay_in_their_trees() {
    let case = Box::new();
    symlink("/", case.path("source/root")).unwrap();
    symlink("../canary", case.path("source/up")).unwrap();
    symlink(case.path(""), case.path("lower/host")).unwrap();
    let bind = |subpath: &str| MountKind::Bind { source: case.source(), subpath: subpath.into(), read_only: false };
    // CVE-2024-1753: a source that is a link to / means the root of its own tree.
    let mut spec = case.spec("ls /m; echo x > /host/below/made");
    spec.mounts = vec![mount("/m", bind("root")), mount("/host/below", MountKind::Tmpfs { size_bytes: None, read_only: false })];
    assert_eq!(output(&spec), "a.txt\nroot\nup\n");
    assert!(!case.path("below").exists());
    let mut spec = case.spec("true");
    spec.mounts = vec![mount("/m", bind("../canary"))];
    assert_eq!(try_run(&spec).err().unwrap().to_string(), "cannot mount /m: \"/../canary\": not found");
    spec.mounts = vec![mount("/proc/sys", bind(""))];
    assert!(try_run(&spec).err().unwrap().to_string().contains("cannot mount /proc/sys: "));
    spec.mounts = vec![mount("/x/..", bind(""))];
    assert_eq!(try_run(&spec).err().unwrap().to_string(), "cannot mount /: invalid mount target");
}

fn a_process_left_behind_ends_with_the_step() {
    let case = Box::new();
    let started = Instant::now();
    output(&case.spec("setsid sh -c '(sleep 30; echo late > /late) & (sleep 30 &)' & sleep 0.2; true"));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!case.path("upper/late").exists());
}

fn a_step_can_be_timed_out_and_cancelled() {
    let case = Box::new();
    let spec = Spec { timeout: Some(Duration::from_millis(200)), ..case.spec("sleep 60") };
    assert!(matches!(try_run(&spec), Err(RunError::TimedOut(_))));
    let cancel = Cancel::new().unwrap();
    let other = cancel.clone();
    let result = sandbox::run(&case.spec("echo ready; sleep 60"), Some(&cancel), |_, _| other.cancel());
    assert!(matches!(result, Err(RunError::Cancelled)));
}

fn no_network_means_loopback_only() {
    let case = Box::new();
    let spec = Spec { network: Network::None, ..case.spec("ls /sys/class/net; ping -c 1 -W 1 127.0.0.1 > /dev/null && echo up") };
    assert_eq!(output(&spec), "lo\nup\n");
}

fn the_default_network_is_private_where_pasta_is() {
    let case = Box::new();
    if let sandbox::DefaultNetwork::Host { reason } = sandbox::default_network() {
        println!("    not private: {reason}");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "nc -w 1 127.0.0.1 {port} < /dev/null && echo reached; ls /sys/class/net | wc -l; grep -c ^nameserver /etc/resolv.conf; ip route | grep -c default"
    );
    let text = output(&Spec { network: Network::Default, ..case.spec(&script) });
    assert_eq!(text, "2\n1\n1\n");
}

fn the_host_is_out_of_reach() {
    let case = Box::new();
    let canary = case.path("canary");
    let script = format!(
        "cat {} /proc/1/root{} /proc/1/cwd/canary 2>/dev/null; ls /proc | grep -c '^[0-9]'; kill -9 1; echo alive",
        canary.display(),
        canary.display()
    );
    let text = output(&case.spec(&script));
    assert!(!text.contains("outside") && text.ends_with("alive\n"), "{text}");
    if proc_is_ours() {
        assert!(text.lines().next().unwrap().parse::<u32>().unwrap() <= 5, "{text}");
    }
    let ran = try_run(&case.spec("echo x >> /proc/1/exe; cp /bin/true /proc/1/exe; readlink /proc/1/exe")).unwrap();
    assert!(!ran.stdout.contains("sandbox"), "{}", ran.stdout);
}

fn an_ssh_socket_is_the_users_own_and_leads_to_the_agent() {
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
    };
    let case = Box::new();
    let agent = UnixListener::bind(case.path("agent")).unwrap();
    let answering = std::thread::spawn(move || {
        let mut client = agent.accept().unwrap().0;
        let mut question = [0; 5];
        client.read_exact(&mut question).unwrap();
        client.write_all(b"yes").unwrap();
        question
    });
    // The other end of a shared directory tells where the socket is: the step only waits until it has been tried.
    let mut spec = case.spec("stat -c '%a %u:%g' /run/agent.0; test -S /run/agent.0; echo; while ! test -e /m/tried; do sleep 0.01; done");
    spec.user = "app".into();
    let bind = MountKind::Bind { source: case.source(), subpath: "".into(), read_only: true };
    let ssh = MountKind::Ssh { agent: case.path("agent"), mode: 0o600, uid: 1000, gid: 1000 };
    spec.mounts = vec![mount("/m", bind), mount("/run/agent.0", ssh)];
    let mut text = String::new();
    sandbox::run(&spec, None, |_, bytes| {
        text.push_str(&String::from_utf8_lossy(bytes));
        if text.ends_with("\n\n") {
            let proxy = fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().path());
            let proxy = proxy.filter(|path| path.to_string_lossy().contains("rbuild-ssh-") && path.join("agent").exists());
            let mut client = UnixStream::connect(proxy.last().unwrap().join("agent")).unwrap();
            client.write_all(b"hello").unwrap();
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"yes");
            fs::write(case.path("source/tried"), "").unwrap();
        }
    })
    .unwrap();
    assert_eq!(text, if has_one_id() { "600 0:0\n\n" } else { "600 1000:1000\n\n" });
    assert_eq!(&answering.join().unwrap(), b"hello");
}

fn a_directory_can_be_the_root_and_layers_may_be_many() {
    let case = Box::new();
    let spec = Spec { rootfs: RootFs::Directory(case.path("lower")), ..case.spec("echo x > /made; ls /dev | wc -l") };
    output(&spec);
    assert!(case.path("lower/made").exists() && !case.path("lower/proc").exists());
    let mut lowers = vec![];
    for number in 0..120 {
        let layer = case.path(&format!("layers/{}/{number}", "long-name-".repeat(15)));
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("f{number}")), "").unwrap();
        lowers.push(layer);
    }
    lowers.push(case.path("lower"));
    let rootfs = RootFs::Overlay { lowers, upper: case.path("upper"), work: case.path("work"), volatile: true };
    assert_eq!(output(&Spec { rootfs, ..case.spec("ls / | grep -c '^f'") }), "120\n");
}

/// Before 6.7 layers are named in one option, or in the page that mount(2) takes.
fn layers_are_mounted_the_old_ways_too() {
    use rbuild::sys::mountns::{self, Upper};
    use std::os::fd::AsFd;
    let case = Box::new();
    let mut lowers = vec![];
    for number in 0..200 {
        let layer = case.path(&format!("layers/{number}"));
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("f{number}")), "").unwrap();
        lowers.push(mountns::open_directory(&layer).unwrap());
    }
    let (upper, work) = (case.path("upper"), case.path("work"));
    let upper = Some(Upper { upper: &upper, work: &work, volatile: false });
    let fds: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
    let count =
        |root: &std::os::fd::OwnedFd| fs::read_dir(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(root))).unwrap().count();
    let joined = mountns::overlay_joined(&fds[..10], upper, rustix::mount::MountAttrFlags::empty()).unwrap();
    assert_eq!(count(&joined), 10);
    drop(joined);
    let here = std::env::current_dir().unwrap();
    let target = case.path("home-of-mount");
    fs::create_dir(&target).unwrap();
    let mounted = mountns::overlay_by_mount(&fds, upper, &target).unwrap();
    std::env::set_current_dir(here).unwrap();
    assert_eq!(count(&mounted), 200);
    mountns::detach(mounted).unwrap();
}

fn owners_inside_are_real() {
    let case = Box::new();
    let script = "touch /a /s && chown 1000:50 /a && chmod 4755 /s && mkfifo /p && stat -c '%u:%g' /a && stat -c %a /s";
    assert_eq!(output(&case.spec(script)), "1000:50\n4755\n");
    if has_one_id() {
        return;
    }
    let metadata = fs::metadata(case.path("upper/a")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 50));
    chown(case.path("upper/a"), Some(70), Some(71)).unwrap();
}

fn item_34_what_a_build_has_no_business_with_is_refused() {
    let case = Box::new();
    let script = "unshare -U true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mount; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; \
        umount /proc/sys 2>/dev/null && echo uncovered; grep Seccomp: /proc/self/status | tr -d '\\t'; chroot / true && echo chroot";
    assert_eq!(output(&case.spec(script)), "Seccomp:2\nchroot\n");
    let python = "import socket,ctypes\nfor family in (38, 40):\n  try: socket.socket(family, 5, 0); print('open', family)\n  except OSError as e: print(e.errno)\n\
        libc = ctypes.CDLL(None, use_errno=True)\nfor number in (321, 425, 323, 250, 298, 246, 435):\n  print(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())";
    if let Some(text) = by_python(case.spec(""), python) {
        assert_eq!(text, "97\n97\n-1 1\n-1 38\n-1 1\n-1 1\n-1 1\n-1 1\n-1 38\n");
    }
}

/// TIOCSTI and TIOCLINUX are refused before the kernel looks whether there is a terminal, which would be ENOTTY.
fn item_39_nobody_types_into_a_terminal() {
    let python = "import fcntl\nfor code in (0x5412, 0x541c, 0x5413):\n  try: fcntl.ioctl(0, code, b'xxxxxxxx')\n  except OSError as e: print(e.errno)";
    let case = Box::new();
    if let Some(text) = by_python(case.spec(""), python) {
        assert_eq!(text, "1\n1\n25\n");
    }
}

/// What a Python program prints in a step: the host's own tree serves as an image that has an interpreter.
fn by_python(spec: Spec, program: &str) -> Option<String> {
    if !cfg!(target_arch = "x86_64") || !Path::new("/usr/bin/python3").exists() {
        println!("    not tried: no python3 here");
        return None;
    }
    let mut spec = Spec { args: ["/usr/bin/python3", "-c", program].map(String::from).to_vec(), ..spec };
    let lib = |path: &str| mount(path, MountKind::Bind { source: Source::Directory(path.into()), subpath: "".into(), read_only: true });
    spec.mounts = ["/usr", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).exists()).map(lib).collect();
    Some(output(&spec))
}

fn search_path() -> Vec<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from).to_vec()
}

fn programs_of_another_processor_run_by_an_emulator() {
    let case = Box::new();
    let platform = rbuild::oci::Platform::new("linux", if cfg!(target_arch = "aarch64") { "riscv64" } else { "arm64" }, None);
    assert_eq!(sandbox::emulation::prepare(&rbuild::oci::Platform::host(), &[], None).unwrap(), sandbox::Emulation::Native);
    match sandbox::emulation::prepare(&platform, &search_path(), None) {
        Ok(sandbox::Emulation::Own) => {}
        other => return println!("    not tried: {other:?}"),
    }
    if cfg!(target_arch = "aarch64") {
        return;
    }
    // write(1, "hi\n", 3); exit(42)
    let code: [u32; 8] = [0xd280_0020, 0x1000_00e1, 0xd280_0062, 0xd280_0808, 0xd400_0001, 0xd280_0540, 0xd280_0ba8, 0xd400_0001];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let base: u64 = 0x40_0000;
    for half in [2u16, 183] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for long in [base + 120, 64, 0] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    for long in [0, base, base, 155, 155, 0x1000] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(b"hi\n");
    fs::write(case.path("lower/foreign"), elf).unwrap();
    fs::set_permissions(case.path("lower/foreign"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = try_run(&case.spec("/foreign; echo $?")).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("hi\n42\n", ""));
}

/// Whether a step gets a /proc of its own; not in a container that masks its own.
fn proc_is_ours() -> bool {
    let case = Box::new();
    output(&case.spec("readlink /proc/self")).trim().parse::<u32>().unwrap() < 10
}

/// Whether this round has one id only.
fn has_one_id() -> bool {
    fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().last() == Some("1")
}

/// The owner that is written down on a file.
fn recorded(path: &Path) -> Option<(u32, u32)> {
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(path, rbuild::sys::recorded::OWNER, &mut value[..]).ok()?;
    Some(rbuild::sys::recorded::decode_owner(&value[..length]))
}

/// The same scripts print the same everywhere; where there is one id, what they do is written down.
fn ids_and_owners_agree_on_every_rung() {
    let case = Box::new();
    let root = "mkdir /srv && touch /srv/a /srv/b && chown -R app:staff /srv && chmod 2775 /srv && stat -c '%n %u:%g' /srv /srv/a; \
        touch /srv/inherits && mkdir /srv/sub && stat -c '%u:%g %a' /srv/inherits /srv/sub; \
        cp -a /srv/a /copy && stat -c '%u:%g' /copy; tar -c -C /srv a b | tar -x -C /tmp && stat -c %u:%g /tmp/b; chown 0:0 /srv/b; stat -c %u:%g /srv/b; \
        chmod 4755 /copy; chown 5:6 /copy; stat -c '%a %u:%g' /copy; ls -ln /copy | cut -d' ' -f1; ln -s a /srv/link; chown -h app:staff /srv/link; stat -c '%u:%g' /srv/link; cp -a /srv/link /copied-link; stat -c '%u:%g' /copied-link; \
        find / -xdev -user app | sort | tr '\n' ' '";
    let expected = "/srv 1000:50\n/srv/a 1000:50\n0:50 644\n0:50 2755\n1000:50\n1000:50\n0:0\n755 5:6\n-rwxr-xr-x\n1000:50\n1000:50\n/copied-link /home/app /srv /srv/a /srv/link /tmp/a /tmp/b ";
    fs::create_dir_all(case.path("upper/home/app")).unwrap();
    let text = output(&case.spec(&format!("chown app /home/app; {root}")));
    assert_eq!(text, expected);
    let user = "umask 027; touch /home/app/mine && mkdir /home/app/dir && echo x > /home/app/dir/f; ln -s f /home/app/dir/l; mkfifo /home/app/p; stat -c '%u:%g' /home/app/dir/l /home/app/p; stat -c '%u:%g %a' /home/app/mine /home/app/dir /home/app/dir/f; \
        chown 0 /home/app/mine 2>/dev/null || echo refused; id -u; id -G";
    let text = output(&Spec { user: "app".into(), ..case.spec(user) });
    assert_eq!(text, "1000:1000\n1000:1000\n1000:1000 640\n1000:1000 750\n1000:1000 640\nrefused\n1000\n1000 50\n");
    let change = "su app -c 'id -u; touch /tmp/by-su'; stat -c %u:%g /tmp/by-su; id -u";
    assert_eq!(output(&case.spec(change)), "1000\n1000:1000\n0\n");
    if has_one_id() {
        assert_eq!(recorded(&case.path("upper/srv/a")), Some((1000, 50)));
        assert_eq!(recorded(&case.path("upper/srv/inherits")), Some((0, 50)));
        assert_eq!(recorded(&case.path("upper/srv/b")), None);
        assert_eq!(recorded(&case.path("upper/home/app/dir/f")), Some((1000, 1000)));
        let text = output(&case.spec("mknod /null c 1 3 && mknod -m 600 /disk b 8 1 && stat -c '%F %a %t,%T' /null /disk"));
        assert_eq!(text, "character special file 644 1,3\nblock special file 600 8,1\n");
    }
}

/// No user namespace may make devices: a file stands for one, also where no text has asked for emulation, and only root
/// gets it.
fn devices_are_made_where_the_kernel_refuses() {
    let case = Box::new();
    let refused = "mknod /tmp/x c 1 3 2>/dev/null || echo refused";
    let script = format!(
        "mkdir /srv && mknod -m 640 /srv/disk b 8 1 && mkfifo /srv/pipe && mknod /srv/second p && su app -c '{refused}'; ls /srv | xargs"
    );
    assert_eq!(output(&case.spec(&script)), "refused\ndisk pipe second\n");
    assert_eq!(output(&Spec { user: "app".into(), ..case.spec(refused) }), "refused\n");
    let disk = case.path("upper/srv/disk");
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(&disk, rbuild::sys::recorded::DEVICE, &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"b:8:1");
    assert_eq!(fs::symlink_metadata(&disk).unwrap().mode() & 0o7777, 0o640);
}

/// Time that a step costs beyond its command.
fn overhead() {
    let case = Box::new();
    let spec = Spec { args: vec!["/bin/true".into()], ..case.spec("") };
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let started = Instant::now();
            try_run(&spec).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("    a step of /bin/true: median {:?}, best {:?}", times[10], times[0]);
}

type Case = (&'static str, fn());

macro_rules! cases {
    ($($name:path),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}

const CASES: &[Case] = cases![
    a_command_runs_and_its_changes_are_in_the_upper_directory_only,
    the_exit_code_and_both_streams_are_told,
    an_unknown_program_or_user_is_a_sentence,
    the_environment_is_the_one_given_and_home,
    capabilities_are_dockers,
    users_and_their_groups,
    a_missing_working_directory_is_made_for_the_user,
    devices_and_kernel_paths,
    mounts_show_what_they_say_and_leave_no_trace,
    writes_to_a_discarded_bind_are_thrown_away,
    a_bind_of_layers_is_their_union,
    sources_and_targets_stay_in_their_trees,
    a_process_left_behind_ends_with_the_step,
    a_step_can_be_timed_out_and_cancelled,
    no_network_means_loopback_only,
    the_default_network_is_private_where_pasta_is,
    the_host_is_out_of_reach,
    an_ssh_socket_is_the_users_own_and_leads_to_the_agent,
    a_directory_can_be_the_root_and_layers_may_be_many,
    layers_are_mounted_the_old_ways_too,
    owners_inside_are_real,
    ids_and_owners_agree_on_every_rung,
    devices_are_made_where_the_kernel_refuses,
    item_34_what_a_build_has_no_business_with_is_refused,
    item_39_nobody_types_into_a_terminal,
    programs_of_another_processor_run_by_an_emulator,
    items::item_22_a_source_that_is_swapped_while_it_is_mounted,
    items::item_37_abstract_sockets_outside_are_out_of_reach,
    overhead,
];

/// Runs the cases as whoever we are; with `AS_USER` set this is the second round.
fn run_cases(filter: Option<&str>, rung: Option<Rung>) -> i32 {
    let who = if rustix::process::geteuid().is_root() { "root" } else { "a user" };
    let failed_probes = if rung.is_none() { probes() } else { 0 };
    let started = Instant::now();
    let entered = sandbox::enter(&sandbox::Options { rung, ..Default::default() }).unwrap();
    println!("as {who}: rung {}, {} ids, entered in {:?} {:?}", entered.rung, entered.ids, started.elapsed(), entered.reason);
    if entered.rung < Rung::Single {
        println!("  skipped: {:?}", entered.reason);
        return 0;
    }
    let mut failed = failed_probes;
    for (name, case) in CASES.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))) {
        let result = std::panic::catch_unwind(case);
        println!("  {name} .. {}", if result.is_ok() { "ok" } else { "FAILED" });
        failed += i32::from(result.is_err());
    }
    failed
}

/// Doctor's view, before anything is entered.
fn probes() -> i32 {
    let store = tempfile::tempdir().unwrap();
    let options = sandbox::ProbeOptions { store: store.path().join("not/yet"), search_path: search_path(), rung: None, runner: None };
    let findings = sandbox::probe(&options);
    let gates = &findings.gates;
    for gate in gates {
        println!("  {} {:?}: {} -> {} {:?}", gate.name, gate.outcome, gate.said, gate.meaning, gate.fix);
    }
    let outcome = |name: &str| gates.iter().find(|gate| gate.name == name).map(|gate| gate.outcome);
    let complete = ["userns", "subids", "newuidmap", "no_new_privs", "overlay", "disk"].iter().all(|name| outcome(name).is_some());
    let left = fs::read_dir(store.path()).unwrap().count();
    println!("  probes: complete {complete}, {left} files left");
    i32::from(!complete || left > 0 || rustix::process::geteuid().is_root() && findings.rung.as_deref() != Some("full"))
}

/// Does it all again as a user with subordinate ids, where there is such a user or one can be made.
fn again_as_user(filter: Option<&str>) -> i32 {
    const NAME: &str = "rbuild-test";
    if !rustix::process::geteuid().is_root() {
        return 0;
    }
    let passwd = || fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |text: &str| text.lines().find(|line| line.starts_with(&format!("{NAME}:"))).map(str::to_owned);
    if find(&passwd()).is_none() {
        let _ = Command::new("useradd").args(["--no-create-home", "--add-subids-for-system", "--system", NAME]).status();
    }
    let Some(entry) = find(&passwd()) else {
        println!("as a user: skipped, no user {NAME} and none can be made");
        return 0;
    };
    let mut fields = entry.split(':').skip(2).map(|field| field.parse::<u32>());
    let (Some(Ok(uid)), Some(Ok(gid))) = (fields.next(), fields.next()) else { return 1 };
    // The program's own directory may be closed to the user.
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("sandbox-tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let rounds: [&[&str]; 2] = [&[], &["--rung=single"]];
    let round = |args: &&[&str]| {
        let mut command = Command::new(&program);
        command.args(filter).args(*args).uid(uid).gid(gid).current_dir("/");
        command.status().unwrap().code().unwrap_or(1)
    };
    // As in a pod: parts of /proc are masked, helpers have no power, and there is no range of ids.
    let pod = format!(
        "mount -t tmpfs -o ro none /proc/tty && exec setpriv --no-new-privs --reuid {uid} --regid {gid} --clear-groups {} {}",
        program.display(),
        filter.unwrap_or("")
    );
    let in_pod = || Command::new("unshare").args(["-m", "sh", "-c", &pod]).current_dir("/").status().unwrap().code().unwrap_or(1);
    rounds.iter().map(round).sum::<i32>() + in_pod()
}

/// `--try ROOT SCRIPT [USER]`: runs a script on a copy-on-write view of a tree, for trying things by hand.
fn try_script(args: &[String], rung: Option<Rung>) -> i32 {
    let entered = sandbox::enter(&sandbox::Options { rung, ..Default::default() }).unwrap();
    let top = std::env::current_dir().unwrap();
    for directory in ["upper", "work"] {
        let _ = fs::create_dir(top.join(directory));
    }
    let spec = Spec {
        rootfs: RootFs::Overlay {
            lowers: args[0].split(':').map(PathBuf::from).collect(),
            upper: top.join("upper"),
            work: top.join("work"),
            volatile: false,
        },
        args: ["/bin/sh", "-c", &args[1]].map(String::from).to_vec(),
        env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
        user: args.get(2).cloned().unwrap_or_default(),
        network: Network::Host,
        ..Spec::default()
    };
    let started = Instant::now();
    let exit = sandbox::run(&spec, None, |_, bytes| {
        std::io::Write::write_all(&mut std::io::stdout(), bytes).unwrap();
    });
    println!("[{} {:?} {exit:?}]", entered.rung, started.elapsed());
    exit.map_or(1, |exit| exit.code)
}

fn main() {
    sandbox::init_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    let rung = args.iter().find_map(|arg| arg.strip_prefix("--rung=")).map(|rung| rung.parse().unwrap());
    if let Some(at) = args.iter().position(|arg| arg == "--try") {
        std::process::exit(try_script(&args[at + 1..], rung));
    }
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox");
        return;
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-')).map(String::as_str);
    // The user's round first: after entering, this process can no longer become that user.
    let failed = if rung.is_some() { run_cases(filter, rung) } else { again_as_user(filter) + run_cases(filter, None) };
    std::process::exit(i32::from(failed > 0));
}
