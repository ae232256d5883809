//! What a step can reach, seen from inside a RUN, on each rung.

use std::{
    io::Write,
    net::TcpListener,
    os::{linux::net::SocketAddrExt, unix::net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::Stand;
use crate::support::{program_tree, skip};

/// A step on these rungs has a root of its own mounts and a /proc of its own processes.
fn has_namespaces(stand: &Stand) -> bool {
    stand.rung != "chroot"
}

/// Looks at a step's process from outside while it runs: /proc of the machine, whatever the step itself is shown.
fn look_at(stand: &Stand, before: &str, look: impl Fn(&Path)) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = format!("{}.{:06}{:03}", 300 + std::process::id() % 100, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let bed = &stand.bed;
    bed.dockerfile(&format!("FROM busybox\n{before}\nRUN [\"/bin/sleep\", \"{time}\"]\n"));
    let mut command = bed.command(&["--rung", stand.rung, "build", "--progress", "plain", "."]);
    let log = std::fs::File::create(bed.path("out/log")).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let wanted = format!("/bin/sleep\0{time}\0");
    let found = loop {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        if let Some(found) = processes.find(|path| std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())) {
            break found;
        }
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(bed.path("out/log")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    };
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&found)));
    child.kill().unwrap();
    child.wait().unwrap();
    if let Err(panic) = looked {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn item_30_nothing_of_the_builder_is_in_reach() {
    for stand in Stand::each() {
        let bed = &stand.bed;
        std::fs::write(bed.path("canary"), "outside-the-build").unwrap();
        bed.file("other", "of-another-stage");
        let canary = bed.path("canary").display().to_string();
        let script = format!(
            "cat {canary} {}/meta.sqlite /proc/1/root{canary} /proc/1/cwd/canary /proc/1/environ /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; env; ls -R {} 2>/dev/null; true",
            bed.store().display(),
            bed.store().display()
        );
        bed.dockerfile(&format!(
            "FROM busybox AS other\nCOPY other /other\nFROM busybox\nCOPY --from=other /bin/busybox /b\nRUN {script}\n"
        ));
        let mut command = bed.command(&["--rung", stand.rung, "build", "--progress", "plain", "."]);
        command.env("CI_JOB_TOKEN", "token-of-the-builder");
        let built = crate::support::Outcome::of(command);
        built.succeeds().does_not_say("token-of-the-builder").does_not_say("outside-the-build").does_not_say("of-another-stage");
        built.does_not_say("RBUILD_STORE=").does_not_say("SQLite format");
    }
}

#[test]
fn item_31_descriptors() {
    for stand in Stand::each() {
        look_at(&stand, "WORKDIR /w", |process| {
            let mut open: Vec<_> = std::fs::read_dir(process.join("fd")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            open.sort();
            assert_eq!(open, ["0", "1", "2"], "on {}", stand.rung);
            let cwd = std::fs::read_link(process.join("cwd")).unwrap();
            let inside = stand.bed.path("").display().to_string();
            assert!(cwd == Path::new("/w") || cwd.starts_with(inside) && cwd.ends_with("w"), "on {}: {cwd:?}", stand.rung);
            let input = std::fs::read_link(process.join("fd/0")).unwrap();
            assert!(input.ends_with("dev/null"), "on {}: {input:?}", stand.rung);
        });
    }
}

#[test]
fn item_32_the_builders_file_cannot_be_written() {
    let binary = crate::support::binary();
    let before = std::fs::metadata(binary).unwrap().modified().unwrap();
    for stand in Stand::each() {
        let script = "for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in *busybox*|'') ;; *) (echo x >> $exe) 2>/dev/null && echo WROTE $exe; (cp /bin/true $exe) 2>/dev/null && echo COPIED $exe;; esac; done; true";
        stand.lines(&format!("RUN {script}"), &["--no-cache"]).succeeds().does_not_say("WROTE /").does_not_say("COPIED /");
        assert_eq!(std::fs::metadata(binary).unwrap().modified().unwrap(), before, "on {}", stand.rung);
    }
}

/// What the kernel is told through files, and the step must not say.
const KERNEL: [&str; 4] =
    ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/sys/kernel/uevent_helper"];

#[test]
fn item_33_kernel_files_are_out_of_reach() {
    let told = || KERNEL.map(|path| std::fs::read(path).ok());
    let before = told();
    for stand in Stand::each() {
        let script = "for f in /proc/sys/kernel/core_pattern /proc/sys/vm/overcommit_memory /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper; do \
            (echo 0 > $f) 2>/dev/null && echo wrote $f | tr a-z A-Z; done; (mkdir /sys/fs/cgroup/x) 2>/dev/null && echo made | tr a-z A-Z; \
            cat /proc/kcore /proc/keys /proc/timer_list /sys/firmware/* 2>/dev/null | head -c 1 | wc -c | sed 's/^/read /'";
        let built = stand.lines(&format!("RUN {script}"), &[]);
        built.succeeds().says("read 0").does_not_say("MADE");
        if has_namespaces(&stand) {
            built.does_not_say("WROTE");
        }
        assert_eq!(told(), before, "on {}", stand.rung);
    }
}

#[test]
fn item_35_capabilities() {
    for stand in Stand::each() {
        // Docker's default; where there is no namespace, without those that lead out of a chroot or make devices.
        let bounding = if has_namespaces(&stand) { "CapBnd:\t00000000a80425fb" } else { "CapBnd:\t00000000a00025fb" };
        for (user, effective) in [("", None), ("USER 1000", Some("CapEff:\t0000000000000000"))] {
            look_at(&stand, user, |process| {
                let status = std::fs::read_to_string(process.join("status")).unwrap();
                for line in ["CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", bounding].into_iter().chain(effective) {
                    assert!(status.contains(line), "no {line} on {}: {status}", stand.rung);
                }
                assert!(!has_namespaces(&stand) || status.contains("Seccomp:\t2"), "on {}: {status}", stand.rung);
            });
        }
    }
}

#[test]
fn item_36_what_is_left_behind_dies() {
    for stand in Stand::each() {
        let started = std::time::Instant::now();
        // Twice forked, in a session of its own, deaf to what can be ignored, without a descriptor of the step's.
        let script =
            "setsid sh -c 'trap \"\" TERM HUP INT; (sleep 77.25 &) ; sleep 77.25' >/dev/null 2>&1 </dev/null & sleep 0.3; echo begun";
        stand.lines(&format!("RUN {script}"), &[]).succeeds().says("begun");
        assert!(started.elapsed().as_secs() < 60);
        let alive = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(5).any(|part| part == b"77.25") && line.starts_with(b"sleep"))
        });
        assert!(!alive, "on {}", stand.rung);
    }
}

#[test]
fn item_36_the_builder_cannot_be_reached_by_signals() {
    for stand in Stand::each().into_iter().filter(has_namespaces) {
        let lines = "RUN kill -9 1; kill -STOP 1; true\nRUN echo the builder lives";
        stand.lines(lines, &[]).succeeds().says("the builder lives");
        // Everybody that hears it belongs to the step.
        stand.lines("RUN sleep 300 & kill -9 -1; wait; echo left alone | sed s/left/now/", &["--no-cache"]).succeeds().says("now alone");
    }
}

/// On the `chroot` rung the processes of the container are all in one namespace.
#[test]
fn item_36_processes_that_share_a_namespace_hear_no_signals() {
    for stand in Stand::each().into_iter().filter(|stand| !has_namespaces(stand)) {
        let doctor = stand.bed.run(&["--rung", stand.rung, "doctor"]);
        if !doctor.out.lines().any(|line| line.starts_with("ok  landlock ")) {
            eprintln!("not tried on {}: no Landlock scopes here (Linux 6.12)", stand.rung);
            continue;
        }
        let mut other = Command::new("sleep").arg("300").spawn().unwrap();
        let built = stand.lines(&format!("RUN kill -9 {} || echo refused; sleep 300 & kill -9 $! && echo heard", other.id()), &[]);
        let lives = other.try_wait().unwrap().is_none();
        other.kill().unwrap();
        other.wait().unwrap();
        built.succeeds().says(" refused\n").says(" heard\n");
        assert!(lives, "{built}");
    }
}

#[test]
fn item_37_networks() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Whoever comes through is sent away at once.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let name = format!("rbuild-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    for stand in Stand::each() {
        let look = format!(
            "(nc -w 1 127.0.0.1 {port} </dev/null) 2>/dev/null && echo reached it | tr a-z A-Z; echo abstract $(grep -c {name} /proc/net/unix); readlink /proc/self/ns/net"
        );
        let built = stand.lines(&format!("RUN {look}; true"), &[]);
        if !has_namespaces(&stand) {
            stand.lines("RUN --network=none true", &[]).fails();
        } else if built.succeeds().err.contains(&ours) {
            built.says("REACHED IT").says("abstract 1");
        } else {
            built.does_not_say("REACHED IT").says("abstract 0");
        }
        stand.lines("RUN --network=host true", &[]).fails().says("network.host");
        if has_namespaces(&stand) {
            let built = stand.lines(&format!("RUN --network=none ls /sys/class/net; {look}; true"), &[]);
            built.succeeds().does_not_say("REACHED IT").says("abstract 0").says("lo");
        }
    }
}

/// The default network is the host's on the `chroot` rung, and elsewhere without pasta: its abstract sockets stay out of reach.
#[test]
fn item_37_abstract_sockets_outside_are_out_of_reach_on_every_rung() {
    const REFUSED: &str = "1";
    const NOBODY_THERE: &str = "111";
    let name = format!("rbuild-test-step-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let connect = |name: &str| {
        format!(
            "/usr/bin/perl -e 'socket(S, 1, 1, 0) or die; $ok = connect(S, pack(\"Sa*\", 1, \"\\0{name}\")); print \"reached: \", $ok ? \"yes\" : $! + 0, \".\\n\"'"
        )
    };
    for stand in Stand::each() {
        let bed = &stand.bed;
        if program_tree("/usr/bin/perl", &bed.path("context/tree")).is_none() {
            return skip("no perl to be the client");
        }
        bed.user.own(&bed.path("context"));
        let built = stand.lines(&format!("COPY tree /\nRUN {}", connect(&name)), &["--network", "default"]);
        built.succeeds();
        let doctor = bed.run(&["--rung", stand.rung, "doctor"]).out;
        let is_open = |gate: &str| doctor.lines().any(|line| line.starts_with(&format!("ok  {gate} ")));
        let expected = match (has_namespaces(&stand) && is_open("network"), is_open("landlock")) {
            (true, _) => NOBODY_THERE,
            (false, true) => REFUSED,
            (false, false) => {
                eprintln!("not tried on {}: no private network and no Landlock scopes (Linux 6.12) here", stand.rung);
                continue;
            }
        };
        built.says(&format!("reached: {expected}.\n"));
        let asked = stand.lines(&format!("COPY tree /\nRUN --network=host {}", connect(&name)), &["--allow", "network.host"]);
        asked.succeeds().says("reached: yes.\n");
    }
}

#[test]
fn item_40_standard_input_is_empty() {
    for stand in Stand::each() {
        stand.bed.dockerfile("FROM busybox\nRUN echo read: $(wc -c)\n");
        let mut command = stand.bed.command(&["--rung", stand.rung, "build", "--progress", "plain", "."]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"typed by somebody");
        let output = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("read: 0"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn item_41_a_root_made_weird() {
    for stand in Stand::each() {
        let scripts = [
            "chmod 000 /; true",
            "mount -o remount,ro / 2>/dev/null; mount -t tmpfs x /tmp 2>/dev/null; true",
            "mv /etc /etc2; mv /proc /p 2>/dev/null; mv /dev /d 2>/dev/null; rm -rf /tmp; true",
            "mkdir /deep; cd /deep; for i in $(seq 300); do mkdir d; cd d; done; true",
            "rm -rf /etc; ln -s /proc/self/root /etc; true",
        ];
        for script in scripts {
            let built = stand.lines(&format!("RUN {script}"), &["-t", "app"]);
            built.succeeds();
        }
        stand.lines("RUN chmod 000 / && echo done\nUSER 0\nRUN echo again", &["-t", "app"]).succeeds().says("again");
    }
}
