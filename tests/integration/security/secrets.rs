//! Secrets: who sees them, where they may not be, and that nothing is left of them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::Stand;
use crate::support::{Bed, Page, Web};

const VALUE: &str = "s3cr3t/token+value=0123456789";

/// Every file below `folder` that holds `bytes`.
fn holders(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => pending.push(entry.path()),
                kind if kind.is_file() => {
                    let content = fs::read(entry.path()).unwrap_or_default();
                    found.extend(content.windows(bytes.len()).any(|part| part == bytes).then(|| entry.path().display().to_string()));
                }
                _ => {}
            }
        }
    }
    found
}

fn exported(bed: &Bed) -> bool {
    fs::read_dir(bed.path("out")).unwrap().next().is_some() || bed.run(&["images"]).out.contains("app")
}

#[test]
fn item_24_a_secret_is_seen_by_its_step_and_user_only() {
    for stand in Stand::each() {
        stand.bed.file("value", VALUE);
        let lines = "USER 1000\n\
            RUN --mount=type=secret,id=v cat /run/secrets/v > /dev/null && exit 3; true\n\
            RUN --mount=type=secret,id=v,uid=1000 wc -c < /run/secrets/v\n\
            USER 0\n\
            RUN test ! -s /run/secrets/v && find / -xdev -name v | wc -l";
        let built = stand.lines(lines, &["-t", "app", "--secret", "id=v,src=value"]);
        built.succeeds().says("29");
        assert_eq!(holders(&stand.bed.store(), VALUE.as_bytes()), Vec::<String>::new(), "on {}", stand.rung);
        // An id names nothing but a file below /run/secrets.
        stand.lines("RUN --mount=type=secret,id=../../etc/v cat /etc/v && exit 3; true", &["--secret", "id=../../etc/v,src=value"]);
        assert_eq!(holders(&stand.bed.store(), VALUE.as_bytes()), Vec::<String>::new(), "on {}", stand.rung);
    }
}

#[test]
fn item_24_a_secret_is_gone_after_kill() {
    for stand in Stand::each() {
        let bed = &stand.bed;
        bed.file("value", VALUE)
            .dockerfile("FROM busybox\nRUN --mount=type=secret,id=v cat /run/secrets/v >/dev/null; echo has it; sleep 60\n");
        let mut command = bed.command(&["--rung", stand.rung, "build", "--progress", "plain", "--secret", "id=v,src=value", "."]);
        let mut child = command.stdout(Stdio::null()).stderr(fs::File::create(bed.path("out/log")).unwrap()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(bed.path("out/log")).unwrap().contains("has it") {
            assert!(Instant::now() < until, "{}", fs::read_to_string(bed.path("out/log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        Command::new("kill").args(["-9", &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
        // Without mounts it was a file, which the step's keeper removes when rbuild is gone.
        while stand.rung == "chroot" && !holders(&bed.store(), VALUE.as_bytes()).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(holders(&bed.store(), VALUE.as_bytes()), Vec::<String>::new(), "on {}", stand.rung);
        // The sandbox's processes held the only mount of it.
        let store = bed.store().display().to_string();
        let is_ours = |mounts: &str| mounts.contains(&store);
        while fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| is_ours(&fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default()))
        {
            assert!(Instant::now() < until, "a process of the step is still there on {}", stand.rung);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn item_29_credentials_of_urls_are_nowhere() {
    let bed = Bed::caller();
    let web = Web::start();
    web.page("/file", Page::of("text"));
    let url = web.url("/file").replace("http://", &format!("http://user:{}@", "hunter2-in-url"));
    bed.dockerfile(&format!("FROM busybox\nADD {url} /file\nRUN cat /file\n"));
    let built = bed.build(&["-t", "app", "--metadata-file", &bed.path("out/metadata").display().to_string()]);
    built.succeeds().does_not_say("hunter2");
    bed.run(&["history", "app"]).does_not_say("hunter2");
    assert_eq!(holders(&bed.store(), b"hunter2"), Vec::<String>::new());
    assert_eq!(holders(&bed.path("out"), b"hunter2"), Vec::<String>::new());
}

#[test]
fn item_50_a_value_in_a_layer() {
    for bed in Bed::each_user() {
        bed.file("value", format!("{VALUE}\n"));
        let archive = format!("type=oci,dest={}", bed.path("out/app.tar").display());
        let arguments = ["-t", "app", "-o", &archive, "--secret", "id=v,src=value"];
        let writes = [
            "cat /run/secrets/v > /stolen",
            "base64 /run/secrets/v > /stolen",
            "(printf x; cat /run/secrets/v) | base64 > /stolen",
            "(printf xx; cat /run/secrets/v) | base64 > /stolen",
            "echo 's3cr3t%2Ftoken%2Bvalue%3D0123456789' > /stolen",
            "dd if=/dev/zero bs=1048573 count=1 of=/stolen 2>/dev/null; cat /run/secrets/v >> /stolen",
        ];
        for write in writes {
            bed.dockerfile(&format!("FROM busybox\nRUN --mount=type=secret,id=v {write}\nRUN touch /later\n"));
            for _ in 0..2 {
                bed.build(&arguments).fails_with(1).says("/stolen").says("secret v").says("Dockerfile:2").does_not_say(VALUE);
                assert!(!exported(&bed), "{write}");
            }
        }
        bed.dockerfile("FROM busybox\nCOPY value /deep/er/file\n");
        bed.build(&arguments).fails_with(1).says("/deep/er/file holds the value of secret v");
        bed.dockerfile("FROM busybox AS made\nRUN --mount=type=secret,id=v cat /run/secrets/v > /kept\nFROM busybox\nCOPY --from=made /bin/busybox /tool\n");
        bed.build(&arguments).succeeds();
        assert!(exported(&bed), "what is in no layer of the result does not leave");
        let cache = format!("type=local,dest={},mode=max", bed.path("out/cache").display());
        bed.build(&[&arguments[..], &["--cache-to", &cache, "--no-cache"]].concat()).fails_with(1).says("/kept");
        bed.dockerfile("FROM busybox\nRUN --mount=type=secret,id=v cat /run/secrets/v > /stolen\n");
        bed.build(&[&arguments[..], &["--allow", "secret.v"]].concat()).succeeds();
    }
}

#[test]
fn item_50_a_value_in_config_history_and_output() {
    let bed = Bed::caller();
    bed.file("value", VALUE);
    let arguments = ["-t", "app", "--secret", "id=v,src=value", "--build-arg", &format!("T={VALUE}")];
    let cases = [
        (format!("ENV T={VALUE}"), "config.Env"),
        (format!("LABEL a={VALUE}"), "config.Labels.a"),
        ("ARG T\nRUN true".to_owned(), "history"),
        ("ARG T\nENV U=x${T}x".to_owned(), "config.Env"),
        ("RUN --mount=type=secret,id=v cat /run/secrets/v".to_owned(), "what the command has written"),
        (
            "RUN --mount=type=secret,id=v for c in $(sed 's/./& /g' /run/secrets/v); do printf $c; done".to_owned(),
            "what the command has written",
        ),
    ];
    for (lines, place) in cases {
        bed.dockerfile(&format!("FROM busybox\n{lines}\n"));
        bed.build(&arguments).fails_with(1).says(place).says("secret v").does_not_say(VALUE);
        assert!(!exported(&bed), "{lines}");
    }
    bed.dockerfile("FROM busybox\nRUN true\n");
    bed.build(&[&arguments[..4], &["--annotation", &format!("a={VALUE}")]].concat()).fails_with(1).says("--annotation a");
    // Reports and logs were masked as they were written.
    assert_eq!(holders(&bed.store().join("builds"), VALUE.as_bytes()), Vec::<String>::new());
    bed.dockerfile("FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s\n").file("short", "1234567");
    bed.build(&["--secret", "id=s,src=short"]).succeeds().says("secret s is shorter than 8 bytes");
}

#[test]
fn item_50_registry_passwords_and_old_layers() {
    let bed = Bed::caller();
    let auth = "dXNlcjpyZWdpc3RyeS1wYXNzd29yZC0x";
    fs::create_dir_all(bed.path("home/.docker")).unwrap();
    fs::write(bed.path("home/.docker/config.json"), format!("{{\"auths\":{{\"registry.example\":{{\"auth\":\"{auth}\"}}}}}}")).unwrap();
    for text in ["registry-password-1".to_owned(), format!("{{\"auth\":\"{auth}\"}}")] {
        bed.file("config.json", text).dockerfile("FROM busybox\nCOPY config.json /root/.docker/config.json\n");
        bed.build(&["-t", "app"]).fails_with(1).says("/root/.docker/config.json holds the password for registry.example");
    }
    // A layer of a build that did not know the secret.
    bed.file("value", VALUE).dockerfile("FROM busybox\nCOPY value /file\n");
    bed.build(&[]).succeeds();
    bed.build(&["-t", "app", "--secret", "id=v,src=value"]).fails_with(1).says("/file in the layer of an earlier build");
    assert!(!exported(&bed));
}
