//! The rungs of the privilege ladder, each where it belongs: the same Dockerfile gives the same image on each that can run
//! it, and each says where it stands. Plain containers stand for CI runners.

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use serde_json::Value;

use crate::support::{Bed, Container, Outcome, Registry, User, checkout, shell, skip, tool};

/// An id that no file of the machine knows: no account, no range of subordinate ids.
const STRANGER: User = User::Unprivileged { uid: 54321, gid: 54321 };

/// Somebody somewhere, and the rung that they reach there.
struct Stand {
    name: &'static str,
    rung: &'static str,
    bed: Bed,
    /// `--rung`, where it is not the highest that is wanted.
    is_forced: bool,
    container: Option<Container>,
}

impl Stand {
    fn of(name: &'static str, rung: &'static str, user: User) -> Stand {
        Stand { name, rung, bed: Bed::of(user), is_forced: false, container: None }
    }

    fn in_container(name: &'static str, rung: &'static str, user: User, container: Container) -> Stand {
        let stand = Stand::of(name, rung, user);
        let container = container.share(&stand.bed.path(""));
        Stand { container: Some(container), ..stand }
    }

    /// All who can run a step.
    fn all() -> Vec<Stand> {
        let mut stands: Vec<Stand> = User::all().into_iter().map(|user| Stand::of("full", "full", user)).collect();
        stands.push(Stand { is_forced: true, ..Stand::of("single, as asked", "single", User::Caller) });
        if nix::unistd::Uid::effective().is_root() {
            stands.push(Stand::of("single, without a range of ids", "single", STRANGER));
        }
        stands.extend(Container::plain().map(|container| Stand::in_container("chroot", "chroot", User::Caller, container)));
        stands
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let forced: &[&str] = if self.is_forced { &["--rung", self.rung] } else { &[] };
        let command = self.bed.command(&[forced, arguments].concat());
        Outcome::of(match &self.container {
            Some(container) => container.wrap(&command),
            None => command,
        })
    }

    fn build(&self, arguments: &[&str]) -> Outcome {
        self.run(&[&["build", "--progress", "plain"], arguments, &["."]].concat())
    }

    /// Builds the bed's context and gives the digest of the image.
    #[track_caller]
    fn digest(&self, arguments: &[&str]) -> String {
        let outcome = self.build(&[&["-t", "app", "--reproducible"], arguments].concat());
        outcome.succeeds();
        if self.rung == "full" {
            outcome.does_not_say("rung ");
        } else {
            outcome.says(&format!("rung {}: ", self.rung));
        }
        self.bed.digest("app")
    }
}

/// Builds everywhere; where images differ, the test fails with the files that do.
#[track_caller]
fn all_agree(stands: &[Stand], arguments: &[&str]) {
    let digests: Vec<String> = stands.iter().map(|stand| stand.digest(arguments)).collect();
    for (stand, digest) in stands.iter().zip(&digests) {
        if *digest != digests[0] {
            panic!("{}: {digest} instead of {}\n{}", stand.name, digests[0], difference(&stands[0], stand));
        }
    }
}

/// The first lines that only one of two images has: of the list of its files, and of what its steps have listed.
fn difference(one: &Stand, other: &Stand) -> String {
    let lines = |stand: &Stand| {
        stand.build(&["--reproducible", "-o", "type=tar,dest=../out/app.tar"]).succeeds();
        let archive = stand.bed.path("out/app.tar");
        let listed = tool(Command::new("tar").args(["--full-time", "-tvf"]).arg(&archive));
        let texts = tool(Command::new("sh").args(["-c", "tar -xOf \"$0\" seen srv/seen home/app 2>/dev/null || true"]).arg(&archive));
        listed.lines().chain(texts.lines()).map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let (one, other) = (lines(one), lines(other));
    one.symmetric_difference(&other).take(60).map(|line| format!("{} {line}\n", if one.contains(line) { "-" } else { "+" })).collect()
}

/// What a step sees of its files is part of the image, so that `stat` has to agree too. Overlayfs counts no links of directories.
const LISTING: &str = "find /etc /usr /var /srv /home -exec stat -c '%n %u:%g %a %F' {} + > /tmp/seen && \
    find /etc /usr /srv -type f -exec stat -c '%n %h' {} + >> /tmp/seen && grep -v /var/lib/apt/lists /tmp/seen | sort > /srv/seen && rm /tmp/seen";

#[test]
fn owners_modes_and_users_are_the_same_on_every_rung() {
    let stands = Stand::all();
    for stand in &stands {
        stand.bed.file("data/one", "1").file("data/two", "2").dockerfile(&format!(
            "FROM alpine AS build\n\
             RUN mkdir -p /home/app && echo 'app:x:1500:1500::/home/app:/bin/sh' >> /etc/passwd && echo 'staff:x:1500:' >> /etc/group && \
                 chown app:staff /home/app && id app\n\
             COPY --chown=app:33 --chmod=2750 data /srv/data\n\
             RUN mkdir -p /srv/app/in && cp /bin/busybox /srv/app/tool && chown -R app:staff /srv/app && chmod 2750 /srv/app/in && \
                 chown 1500:33 /srv/app/tool && chmod 4755 /srv/app/tool && ln -s tool /srv/app/link && chown -h 12:13 /srv/app/link && \
                 mkfifo /srv/app/pipe && chown 3:4 /srv/app/pipe && ln /srv/app/tool /srv/app/hard && touch /srv/app/in/inherits\n\
             RUN mkdir -m 750 /srv/inst && chown app:33 /srv/inst && cp /bin/busybox /srv/inst/bin && chown 7:8 /srv/inst/bin && chmod 4711 /srv/inst/bin && \
                 chown 70000:80000 /srv/inst/bin && chmod 6755 /srv/inst/bin && mv /srv/inst/bin /srv/inst/moved && rm -r /srv/data/one\n\
             RUN su app -c 'id; touch ~/mine; mkdir ~/dir; chgrp staff ~/mine' && mv /home/app /home/moved && mv /home/moved /home/app\n\
             RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=bind,source=data,target=/b \
                 touch /c/x /t/x && cp -a /b/two /srv/copied && chown 5:6 /etc/group && chmod 640 /etc/shadow\n\
             RUN <<EOF\nset -e\n{LISTING}\nEOF\n\
             USER app\n\
             WORKDIR /home/app/made\n\
             RUN touch by-user && id > ids && for what in 'touch /etc/mine' 'mkdir /etc/mine' 'ln -s x /srv/data/link' 'mkfifo /mine' \
                 'cp ids /etc/passwd' 'touch /tmp/mine' 'touch /srv/app/in/mine'; do $what 2>/dev/null && echo did $what; done > did; test -s did\n\
             FROM alpine\n\
             COPY --from=build /srv /srv\n\
             COPY --from=build --chown=1000:1000 /home /home-of-others\n\
             COPY --from=build /home /home\n\
             RUN stat -c '%n %u:%g %a' /srv/* /home/app/* /home/app/made/* > /seen\n"
        ));
    }
    all_agree(&stands, &[]);
}

/// The user's ids were taken away, or given: what an earlier build left has owners of the other kind.
#[test]
fn one_store_serves_builds_on_different_rungs() {
    for bed in Bed::each_user() {
        for (turn, rung) in ["full", "single", "full"].into_iter().enumerate() {
            bed.dockerfile(&format!(
                "FROM alpine\nRUN touch /f && chown 12:34 /f\nRUN test \"$(stat -c %u:%g /f /bin/busybox | tr '\\n' ' ')\" = '12:34 0:0 ' && echo {turn}\n"
            ));
            bed.run(&["--rung", rung, "build", "."]).succeeds();
        }
    }
}

#[test]
fn a_debian_application_is_the_same_on_every_rung() {
    let Some(packages) = debian_packages() else { return };
    Registry::stand_in().add_debian();
    let stands = Stand::all();
    for stand in &stands {
        for package in fs::read_dir(packages).unwrap().map(|entry| entry.unwrap().path()) {
            stand.bed.file(&format!("packages/{}", package.file_name().unwrap().to_str().unwrap()), fs::read(&package).unwrap());
        }
        stand.bed.dockerfile(&format!(
            "FROM debian:12 AS build\n\
             RUN --mount=type=bind,source=packages,target=/packages apt-get install -y --no-install-recommends /packages/*.deb\n\
             RUN groupadd -g 1500 staff2 && useradd -m -u 1500 -g 1500 -s /bin/bash app && usermod -aG sudo app && passwd -l app\n\
             RUN install -d -o app -g 1500 -m 2750 /srv/app && install -o 1500 -g 33 -m 4755 /bin/true /srv/app/tool\n\
             RUN cp /bin/sleep /srv/app/nap && chown -R app:www-data /srv/app && chown -h 7:8 /srv/app && ln -s x /srv/app/link && \
                 chown -h 12:13 /srv/app/link && setcap cap_net_bind_service+ep /srv/app/nap && getcap /srv/app/nap && \
                 mkfifo /srv/app/pipe && chown 3:4 /srv/app/pipe && dpkg-statoverride --update --add app staff2 2711 /srv/app/tool\n\
             RUN su app -c 'id -u; touch ~/mine; mkdir ~/dir' && setpriv --reuid 1500 --regid 1500 --init-groups sh -c 'id; echo x > /home/app/setpriv' && \
                 setpriv --reuid 33 --regid 33 --clear-groups id && runuser -u www-data -- id && dpkg --verify libcap2-bin\n\
             RUN {LISTING}\n\
             USER app\n\
             RUN whoami && id && touch /home/app/by-user && stat -c '%U:%G %a %n' /home/app/* /srv/app /etc/shadow /usr/bin/sudo\n\
             FROM debian:12\n\
             COPY --from=build /srv /srv\n\
             COPY --from=build /usr/bin /tools\n\
             COPY --from=build --chown=1000:1000 /home /home\n\
             RUN getcap /srv/app/nap 2>/dev/null; stat -c '%U:%G %a %n' /tools/* > /seen\n"
        ));
    }
    all_agree(&stands, &[]);
}

/// Packages with set-id programs, users of their own and capabilities, fetched once by a build. None: skipped.
fn debian_packages() -> Option<&'static Path> {
    static PACKAGES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let fetch = || {
        if Command::new("debootstrap").arg("--version").output().is_err() || !nix::unistd::Uid::effective().is_root() {
            skip("debootstrap, which takes root, makes the Debian base");
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-12-packages");
        if !folder.exists() {
            if ("deb.debian.org", 80).to_socket_addrs().is_err() {
                // tests/run can install tools, not a network.
                eprintln!("skipped: the Debian archive is out of reach");
                return None;
            }
            Registry::stand_in().add_debian();
            let bed = Bed::caller();
            bed.dockerfile(
                "FROM debian:12 AS fetch\nRUN apt-get update && apt-get install -y --no-install-recommends --download-only libcap2-bin \
                 openssh-client sudo cron\nFROM scratch\nCOPY --from=fetch /var/cache/apt/archives/*.deb /\n",
            );
            let part = folder.with_extension("part");
            bed.build(&["-o", &format!("type=local,dest={}", part.display())]).succeeds();
            fs::rename(part, &folder).unwrap();
        }
        Some(folder)
    };
    PACKAGES.get_or_init(fetch).as_deref()
}

#[test]
fn a_plain_container_is_what_docker_starts() {
    let Some(container) = Container::plain() else { return };
    let ran = |container: &Container, script: &str| Outcome::of(container.wrap(&shell(script)));
    ran(&container, "id -u; grep CapEff /proc/self/status; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t\\n'")
        .succeeds()
        .says("CapEff:\t00000000a80425fb")
        .says("NoNewPrivs:0Seccomp:2");
    for refused in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /mnt",
        "mknod /dev/sda b 8 0 && cat /dev/sda",
        "echo x > /proc/sys/kernel/hostname",
    ] {
        ran(&container, refused).fails();
    }
    ran(&container, "chroot / true && mknod /tmp/null c 1 3 && chown 7:8 /tmp/null && setpriv --reuid 7 true").succeeds();
    assert_eq!(container.changes(), ["/tmp/null"]);
    ran(&container.unfiltered(), "unshare -U true && ! mount -t tmpfs x /mnt").succeeds();
    let Some(container) = Container::plain() else { return };
    ran(&container.restricted(1000), "grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t\\n'")
        .says("CapEff:0000000000000000NoNewPrivs:1");
}

#[test]
fn the_chroot_rung_touches_nothing_outside_its_own_directory() {
    let Some(container) = Container::plain() else { return };
    let stand = Stand::in_container("chroot", "chroot", User::Caller, container);
    let container = stand.container.as_ref().unwrap();
    // What would be seen if steps could reach the container's own tree; each of these is run by root.
    stand.bed.file("file", "1").dockerfile(
        "FROM alpine AS build\n\
         RUN rm -rf /etc/passwd /usr /var /root && echo x > /etc/hosts && echo x > /etc/made && mkdir -p /opt/made && chmod 777 /etc /\n\
         RUN --mount=type=cache,target=/var/cache/apk --mount=type=bind,source=.,target=/mnt,rw rm -f /mnt/file && touch /mnt/new /var/cache/apk/x\n\
         RUN cd / && for i in 1 2 3 4 5 6 7 8 9; do cd ..; done && touch here ../../../there && ls -la ../../../etc/passwd || true\n\
         RUN (sleep 300 & sleep 300 &) ; mkfifo /p; ln -s /proc/self/root/etc /climb; touch /climb/x || true\n\
         FROM alpine\nCOPY --from=build / /copied\nWORKDIR /made/deep\nUSER 1000\nRUN touch /tmp/x\n",
    );
    stand.digest(&["-o", "type=oci,dest=../out/app.tar", "-o", "type=image"]);
    stand.build(&["--no-cache", "-f", "-", "--build-arg", "x=1"]);
    stand.bed.dockerfile("FROM alpine\nRUN touch /left && false\n");
    stand.build(&[]).fails();
    stand.run(&["prune", "--all"]).succeeds();
    assert_eq!(container.changes(), [] as [&str; 0]);
    let processes = Outcome::of(container.wrap(&shell("ls /proc | grep -c '^[0-9]'")));
    assert!(processes.succeeds().out.trim().parse::<u32>().unwrap() < 10, "{processes}");
}

#[test]
fn a_chroot_step_says_what_it_cannot_have() {
    let Some(container) = Container::plain() else { return };
    let stand = Stand::in_container("chroot", "chroot", User::Caller, container);
    stand.bed.dockerfile("FROM alpine\nRUN --network=none true\n");
    stand.build(&[]).fails_with(1).says("network none takes a network namespace, which the `chroot` rung does not have");
    // A device that a step could make would be the machine's disk.
    stand.bed.dockerfile("FROM alpine\nRUN mknod /disk b 8 0\n");
    stand.build(&[]).fails_with(1).says("Operation not permitted");
    stand.bed.dockerfile("FROM alpine\nRUN chroot / true\n");
    stand.build(&[]).fails_with(1).says("Operation not permitted");
}

#[test]
fn where_nothing_is_allowed_files_are_copied_and_a_step_is_refused_with_the_reason() {
    let mut stands = vec![Stand { is_forced: true, ..Stand::of("copy, as asked", "copy", User::Caller) }];
    stands.extend(Container::plain().map(|container| Stand::in_container("restricted pod", "copy", STRANGER, container.restricted(54321))));
    stands.extend(
        Container::plain().map(|container| Stand::in_container("without chroot", "copy", User::Caller, container.without("SYS_CHROOT"))),
    );
    for stand in &stands {
        stand.bed.file("one", "1").file("sub/two", "2").dockerfile(
            "FROM alpine AS files\nCOPY one sub /data/\nCOPY --chown=7:8 sub /data/\nCOPY --chown=54321 --chmod=4755 one /data/set-id\nFROM scratch\nCOPY --from=files /data /data\nCOPY --from=files /bin/busybox /bin/\nCMD [\"/bin/busybox\"]\n",
        );
    }
    all_agree(&stands, &[]);
    for stand in &stands {
        stand.bed.dockerfile("FROM alpine\nCOPY one /\nRUN echo never\n");
        let outcome = stand.build(&["-t", "ran"]);
        outcome.fails_with(1).says("Dockerfile:3").says("RUN echo never").does_not_say("panicked");
        // The gate in the way is the hint, in doctor's words.
        let findings = findings(&stand.run(&["doctor", "--json"]));
        assert_eq!(findings["rung"], "copy", "{findings}");
        if let Some(gate) = findings["obstacle"].as_object() {
            outcome.says(gate["tried"].as_str().unwrap()).says(gate["said"].as_str().unwrap()).says(gate["meaning"].as_str().unwrap());
            if let Some(fix) = gate["fix"].as_str() {
                outcome.says(fix);
            }
        } else {
            outcome.says("as asked");
        }
    }
}

#[track_caller]
fn findings(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// What every rung's doctor tries before entering, and what can only be tried inside.
const OUTSIDE: [&str; 12] = [
    "kernel",
    "sysctls",
    "apparmor",
    "seccomp",
    "landlock",
    "userns",
    "subids",
    "newuidmap",
    "no_new_privs",
    "capabilities",
    "openat2",
    "cgroup",
];
const INSIDE: [&str; 8] = ["proc", "tmpfs", "overlay", "binfmt_misc", "reflink", "disk", "tun", "network"];

#[test]
fn doctor_tries_every_gate_on_every_rung() {
    for stand in Stand::all() {
        let outcome = stand.run(&["doctor", "--json"]);
        let findings = findings(outcome.succeeds());
        assert_eq!(findings["rung"], stand.rung, "{}: {findings}", stand.name);
        let gates = findings["gates"].as_array().unwrap();
        let find = |name: &str| gates.iter().find(|gate| gate["name"] == name);
        let mut expected = OUTSIDE.to_vec();
        match stand.rung {
            "chroot" => expected.extend(["devices", "reflink", "disk"]),
            _ => expected.extend(INSIDE),
        }
        for name in expected {
            let gate = find(name).unwrap_or_else(|| panic!("{}: no {name} in {findings}", stand.name));
            for key in ["tried", "said", "meaning"] {
                assert!(!gate[key].as_str().unwrap().is_empty(), "{}: {gate}", stand.name);
            }
            assert!(["open", "detour", "closed"].contains(&gate["outcome"].as_str().unwrap()), "{gate}");
        }
        // The text has a line for each.
        let text = stand.run(&["doctor"]).succeeds().out.clone();
        for gate in gates {
            let name = gate["name"].as_str().unwrap();
            assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name} is missing:\n{text}");
        }
        assert!(text.contains(&format!("\nrung: {}: ", stand.rung)), "{text}");
        let outcome_of = |name: &str| find(name).map(|gate| gate["outcome"].as_str().unwrap().to_owned()).unwrap_or_default();
        match stand.name {
            "full" => assert_eq!(outcome_of("userns"), "open"),
            "single, without a range of ids" => {
                assert_eq!(outcome_of("subids"), "detour");
                assert_eq!(findings["obstacle"]["name"], "subids");
                assert!(findings["obstacle"]["fix"].as_str().unwrap().starts_with("sudo usermod --add-subuids "), "{findings}");
            }
            "chroot" => {
                assert_eq!((outcome_of("userns").as_str(), outcome_of("devices").as_str()), ("closed", "open"));
                assert_eq!(findings["obstacle"]["name"], "userns");
                assert!(findings["obstacle"]["said"].as_str().unwrap().contains("EPERM"), "{findings}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_pod_without_a_filter_has_namespaces_and_the_outer_proc() {
    let Some(container) = Container::plain() else { return };
    let stand = Stand::in_container("unfiltered", "full", User::Caller, container.unfiltered());
    let findings = findings(stand.run(&["doctor", "--json"]).succeeds());
    let gate = |name: &str| findings["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == name).unwrap().clone();
    assert_eq!(findings["rung"], "full", "{findings}");
    assert_eq!(gate("proc")["outcome"], "detour", "masked: {findings}");
    stand.bed.dockerfile("FROM alpine\nRUN chown 7:8 /etc/group && test -e /proc/self/exe && ls /proc > /dev/null && id > /id\n");
    stand.digest(&[]);
}

#[test]
fn a_rung_that_is_out_of_reach_is_refused_with_the_gate_that_is_closed() {
    let mut refused = vec![(Stand::of("no range", "full", STRANGER), "/etc/subuid")];
    refused.extend(
        Container::plain()
            .map(|container| (Stand::in_container("plain", "single", User::Caller, container), "unshare(CLONE_NEWUSER | CLONE_NEWNS)")),
    );
    for (stand, words) in refused {
        stand.bed.dockerfile("FROM alpine\nRUN true\n");
        let stand = Stand { is_forced: true, ..stand };
        stand.build(&[]).fails_with(1).says(&format!("the `{}` rung is out of reach", stand.rung)).says(words).says("hint: ");
    }
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\n");
    bed.run(&["--rung", "ladder", "build", "."]).fails().says("auto, full, single, chroot or copy");
}

/// The network of steps is said once, however many steps there are.
#[test]
fn the_choice_of_the_network_is_told_once() {
    for bed in Bed::each_user() {
        bed.dockerfile(
            "FROM alpine\nRUN ls /sys/class/net > /nets\nRUN ls /sys/class/net > /nets2\nFROM scratch\nCOPY --from=0 /nets /nets2 /\n",
        );
        let outcome = bed.build(&["-o", "../out/nets"]);
        outcome.succeeds();
        let lines: Vec<&str> = outcome.err.lines().chain(outcome.out.lines()).filter(|line| line.contains("network: ")).collect();
        assert_eq!(lines.len(), 1, "{outcome}");
        let nets = fs::read_to_string(bed.path("out/nets/nets")).unwrap();
        assert_eq!(nets, fs::read_to_string(bed.path("out/nets/nets2")).unwrap());
    }
}

/// The corpus of what Dockerfiles mean, where it is beside the checkout, with what the `chroot` rung cannot give.
#[test]
fn the_conformance_corpus_holds_in_a_plain_container() {
    let corpus = env::var_os("RBUILD_CONFORMANCE").map_or_else(|| checkout().join("../shared/conformance"), PathBuf::from);
    if !corpus.join("cases").is_dir() {
        return eprintln!("skipped: no conformance corpus at {}", corpus.display());
    }
    let Some(container) = Container::plain() else { return };
    let stand = Stand::in_container("chroot", "chroot", User::Caller, container);
    tool(Command::new("cp").arg("-r").arg(&corpus).arg(stand.bed.path("corpus")));
    let mut command = Command::new("python3");
    command.args(["run.py", "run", "--strict-history", "-j", "2", "--json", "../report.json", "--builder"]);
    command.arg(format!("{} build", crate::support::binary().display())).current_dir(stand.bed.path("corpus"));
    command.env("RBUILD_STORE", stand.bed.store()).env("TMPDIR", stand.bed.path("out")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", stand.bed.path("home"));
    let outcome = Outcome::of(stand.container.as_ref().unwrap().wrap(&command));
    let report = fs::read_to_string(stand.bed.path("report.json")).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    let report: Value = serde_json::from_str(&report).unwrap();
    let failed: Vec<&str> =
        report.as_array().unwrap().iter().filter(|case| case["status"] == "FAIL").map(|case| case["name"].as_str().unwrap()).collect();
    let expected: Vec<&str> = NOT_IN_A_CHROOT.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed, expected, "{outcome}");
    assert!(report.as_array().unwrap().len() > 400, "{outcome}");
}

/// What fails there, and why.
const NOT_IN_A_CHROOT: [(&str, &str); 10] = [
    ("add/tar-xz", "recorded where BuildKit had no xz; fails on every rung"),
    ("mount/bind-default", "a bind is a copy, which root can write"),
    ("mount/cache-readonly", "a cache is a directory, which root can write"),
    ("mount/variables", "no mount is listed in /proc/mounts"),
    ("run/capabilities", "no /proc/self/status, and neither CAP_SYS_CHROOT nor CAP_MKNOD"),
    ("run/device-nodes-usable", "no /dev/fd, which leads to /proc/self"),
    ("run/hostname", "the container's own"),
    ("run/network-none", "no network namespace"),
    ("run/read-only-proc-sys", "/proc/sys is made of files, which root can write"),
    ("run/shm", "/dev/shm is a directory"),
];
