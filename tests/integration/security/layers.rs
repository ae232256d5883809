//! Archives and layers that would leave their root, or are built to exhaust whoever reads them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Stand,
    files::{evil, is_untouched, outside},
};
use crate::support::{Bed, Layer, Outcome, binary, seal, tool};

const UP: &str = "../../../../../../../../../../../..";
/// Bounded time: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The archive as the context on standard input, by name, and added in a build: nothing outside is read or written.
fn unpack_everywhere(stand: &Stand, archive: &[u8]) -> [Outcome; 2] {
    let bed = &stand.bed;
    let started = Instant::now();
    fs::write(bed.path("out/context.tar"), archive).unwrap();
    let mut command = bed.command(&["--rung", stand.rung, "build", "--progress", "plain", "-"]);
    command.stdin(Stdio::from(File::open(bed.path("out/context.tar")).unwrap()));
    let context = Outcome::of(command);
    bed.file("app.tar", archive);
    let added = stand.lines("ADD app.tar /d/\nRUN cat /d/* /d/*/* 2>/dev/null; ls -R /d; true", &[]);
    for outcome in [&context, &added] {
        assert!(outcome.code.is_some_and(|code| code != 101), "{outcome}");
        outcome.does_not_say("alive");
    }
    assert!(started.elapsed() < PATIENCE, "{context}\n{added}");
    is_untouched(bed);
    [context, added]
}

#[test]
fn item_01_names_that_climb() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        for name in [format!("{UP}{outside}/x"), format!("{outside}/canary"), format!("a/../..{UP}{outside}/canary"), "../x".into()] {
            let archive = Layer::new().file("Dockerfile", "FROM busybox\nRUN true\n").file(&name, "dead").bytes();
            unpack_everywhere(&stand, &archive);
            assert!(!stand.bed.path("x").exists() && !stand.bed.path("out/x").exists());
        }
    }
}

#[test]
fn item_02_files_through_a_link() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        for target in [outside.clone(), format!("{UP}{outside}"), format!("./{UP}{outside}/../outside")] {
            let layer = || Layer::new().file("Dockerfile", "FROM busybox\nCOPY d/canary /c\nRUN cat /c\n").symlink("d", &target);
            unpack_everywhere(&stand, &layer().file("d/x", "dead").file("d/canary", "dead").bytes());
            unpack_everywhere(&stand, &layer().bytes());
            let made =
                evil(&stand, vec![layer(), Layer::new().file("d/canary", "dead").file("d/x", "dead")], "FROM evil\nRUN cat /d/x\n", &[]);
            made.does_not_say("alive");
            is_untouched(&stand.bed);
        }
    }
}

#[test]
fn item_04_hard_links() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        stand.bed.file("in-cwd", "of-the-working-directory");
        fs::create_dir(stand.bed.path("context/sub")).unwrap();
        for target in [format!("{outside}/canary"), format!("{UP}{outside}/canary"), "../outside/canary".into(), "in-cwd".into()] {
            let hard = || Layer::new().file("Dockerfile", "FROM busybox\nCOPY h /h\nRUN cat /h\n").hardlink("h", &target);
            for outcome in unpack_everywhere(&stand, &hard().bytes()) {
                outcome.does_not_say("of-the-working-directory");
            }
            let read = "FROM evil\nRUN cat /h; echo dead > /h; true\n";
            evil(&stand, vec![hard()], read, &[]).does_not_say("alive").does_not_say("of-the-working-directory");
            let linked = Layer::new().symlink("d", &outside).hardlink("h", "d/canary");
            evil(&stand, vec![linked], read, &[]).does_not_say("alive");
            is_untouched(&stand.bed);
        }
    }
}

#[test]
fn item_05_whiteouts_and_links_of_a_later_layer() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        let first = || Layer::new().symlink("probe", &outside).symlink("var", &format!("{UP}{outside}"));
        for second in [
            Layer::new().file("probe/.wh.canary", "").file("var/.wh.canary", ""),
            Layer::new().file("probe/.wh..wh..opq", "").file("var/.wh..wh..opq", ""),
            Layer::new().hardlink("probe/h", "probe/canary").hardlink("h", "var/canary"),
            Layer::new().file("probe/x", "dead").file("var/canary", "dead"),
            Layer::new().file(".wh...", "").file(".wh..", "").file("a/.wh...", ""),
        ] {
            evil(&stand, vec![first(), second], "FROM evil\nRUN cat /h /probe/h /probe/canary; true\n", &[]).does_not_say("alive");
            is_untouched(&stand.bed);
        }
    }
}

#[test]
fn item_06_an_image_aimed_at_the_builder() {
    for stand in Stand::each() {
        let program = binary().display().to_string();
        let before = fs::metadata(binary()).unwrap();
        outside(&stand.bed);
        let layers = || {
            let climbing = Layer::new().file(&format!("{UP}{program}"), "dead").file(&program, "dead");
            vec![climbing, Layer::new().symlink("up", UP).symlink("root", "/").symlink("rbuild", &program)]
        };
        for copy in ["COPY --from=evil / /x/", "COPY --from=evil /up /x", "COPY --from=evil rbuild /x\nCOPY Dockerfile /x", "WORKDIR /"] {
            evil(&stand, layers(), &format!("FROM evil AS e\n{copy}\nRUN echo dead > /rbuild; true\n"), &[]);
            let after = fs::metadata(binary()).unwrap();
            assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()), "on {}", stand.rung);
        }
    }
}

#[test]
fn item_07_honest_links_still_work() {
    for stand in Stand::each() {
        outside(&stand.bed);
        let links = Layer::new().directory("usr/").directory("usr/lib/").symlink("lib", "usr/lib").symlink("abs", "/usr/lib");
        let links = links.symlink("up", "../../../usr").symlink("loop", "loop").file("bin/dash", "dash\n").symlink("bin/alias", "dash");
        let first = links.file("lib/merged", "merged\n").file("abs/absolute", "absolute\n");
        let second = Layer::new().file("./dotted", "dotted\n").file("bin/alias", "overwritten\n");
        let read = "FROM evil\nRUN cat /usr/lib/merged /up/lib/absolute /dotted /bin/alias /bin/dash; ls -l /loop\n";
        let built = evil(&stand, vec![first, second], read, &["-t", "app"]);
        built.succeeds().says("merged").says("absolute").says("dotted").says("overwritten").says("dash").says("/loop -> loop");
    }
}

#[test]
fn item_08_devices_and_attributes() {
    for stand in Stand::each() {
        let bed = &stand.bed;
        outside(bed);
        let below =
            || Layer::new().file("kept", "kept\n").directory("dir/").file("dir/kept", "of dir\n").file("redirected", "redirected\n");
        // None of these deletes or hides: only whiteouts by name do.
        let forged = Layer::new()
            .device("kept", 0, 0)
            .xattr("trusted.overlay.opaque", "y")
            .directory("dir/")
            .xattr("user.overlay.opaque", "y")
            .directory("dir/")
            .xattr("user.overlay.whiteout", "y")
            .file("redirected", "")
            .xattr("user.overlay.redirect", "/etc")
            .directory("other/")
            .xattr("user.rootlesscontainers", "\x08\x05\x10\x05")
            .file("owned", "x");
        let read = "FROM evil\nRUN test -e /kept && cat /dir/kept && test -e /redirected && test ! -e /other/passwd && stat -c 'owner %u:%g' /owned\n";
        evil(&stand, vec![below(), forged], read, &["-t", "app"]).succeeds().says("of dir").says("owner 0:0");
        // Set-id bits, pipes and capabilities stay; a device is there and is none that could be used.
        let special = Layer::new().fifo("pipe").setuid("suid", "x").device("disk", 8, 0).device("mem", 1, 1);
        let read =
            "FROM evil\nRUN stat -c '%n %a' /suid && test -p /pipe && echo read $(head -c 1 /disk | wc -c) $(head -c 1 /mem | wc -c)\n";
        let built = evil(&stand, vec![special], read, &["-t", "app"]);
        built.succeeds().says("/suid 4755").says("read 0 0");
    }
}

/// What of all this arrives in a layer of ours, from a base's layer and from an archive that is added.
#[test]
fn item_08_what_is_kept_and_what_is_not() {
    const CAPABILITY: &str = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let special = || {
        let kept = Layer::new().fifo("d/pipe").setuid("d/suid", "x").device("d/disk", 8, 0).xattr("security.capability", CAPABILITY);
        let forged = kept.program("d/powerful", b"x").xattr("user.rootlesscontainers", "\x08\x05\x10\x05").file("d/owned", "x");
        let forged =
            forged.xattr("user.rbuild.device", "c:1:1").file("d/fake", "").xattr("trusted.overlay.opaque", "y").directory("d/dir/");
        forged.xattr("user.overlay.whiteout", "y").file("d/dir/white", "").xattr("security.selinux", "forged").file("d/labelled", "x")
    };
    let expected = [
        "drwxr-xr-x 0/0 0 d/dir/",
        "crw-rw-rw- 0/0 8,0 d/disk",
        "-rw-r--r-- 0/0 0 d/dir/white",
        "-rw-r--r-- 0/0 0 d/fake",
        "-rw-r--r-- 0/0 1 d/labelled",
        "-rw-r--r-- 0/0 1 d/owned",
        "prw-r--r-- 0/0 0 d/pipe",
        "-rwxr-xr-x 0/0 1 d/powerful",
        "-rwsr-xr-x 0/0 1 d/suid",
    ];
    for stand in Stand::each() {
        stand.bed.file("special.tar", special().bytes());
        for (layers, dockerfile) in [
            (vec![special()], "FROM evil\nRUN true\n"),
            (vec![], "FROM evil\nADD special.tar /\n"),
            (vec![special()], "FROM scratch\nCOPY --from=evil /d /d\n"),
        ] {
            evil(&stand, layers, dockerfile, &["-o", "type=tar,dest=../out/app.tar"]).succeeds();
            let archive = stand.bed.path("out/app.tar");
            let listed = tool(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&archive));
            let lines: Vec<String> = listed.lines().map(in_short).collect();
            for line in expected {
                assert!(lines.iter().any(|found| found == line), "no {line:?} on {} after {dockerfile:?}:\n{listed}", stand.rung);
            }
            let bytes = fs::read(&archive).unwrap();
            let count = |word: &str| bytes.windows(word.len()).filter(|part| *part == word.as_bytes()).count();
            assert_eq!(count("SCHILY.xattr."), 1, "on {} after {dockerfile:?}", stand.rung);
            assert_eq!(count(&format!("SCHILY.xattr.security.capability={CAPABILITY}\n")), 1, "on {} after {dockerfile:?}", stand.rung);
        }
    }
}

/// Mode, owner, size or device, and name of a line of `tar -tv`.
fn in_short(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    [&words[..3], &words[5..]].concat().join(" ")
}

/// Kilobytes that become more than rbuild may have of memory; on the disk there is room.
#[test]
fn item_09_bombs_take_no_memory() {
    const BOMB: u64 = 768 << 20;
    const MEMORY_KIB: u64 = 640 << 10;
    let mut header = Layer::new().file("zeros", "").bytes();
    header.truncate(512);
    header[124..136].copy_from_slice(format!("{BOMB:011o}\0").as_bytes());
    seal(&mut header);
    let write = |to: &mut dyn Write| -> io::Result<()> {
        to.write_all(&header)?;
        io::copy(&mut io::repeat(0).take(BOMB + 1024), to).map(drop)
    };
    let bed = Bed::caller();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write(&mut gzip).unwrap();
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    write(&mut zstd).unwrap();
    bed.file("gzip", gzip.finish().unwrap()).file("zstd", zstd.finish().unwrap());
    bed.dockerfile(
        "FROM scratch AS zeros\nADD gzip /a/\nADD zstd /b/\nFROM busybox\nRUN --mount=from=zeros,target=/z wc -c /z/a/zeros /z/b/zeros\n",
    );
    let inner = bed.command(&["build", "--progress", "plain", "."]);
    let mut limited = bed.user.command(Path::new("/bin/sh"), &bed.path("home"));
    limited.args(["-c", &format!("ulimit -d {MEMORY_KIB} && exec \"$@\""), "sh"]).arg(inner.get_program()).args(inner.get_args());
    limited.env("RBUILD_STORE", bed.store()).current_dir(bed.path("context")).stdin(Stdio::null());
    Outcome::of(limited).succeeds().says(&format!(" {BOMB} /z/a/zeros")).says(&format!(" {BOMB} /z/b/zeros"));
}

#[test]
fn item_09_archives_that_exhaust() {
    for stand in Stand::each() {
        let bed = &stand.bed;
        outside(bed);
        let whole = Layer::new().file("a", &"x".repeat(5000)).file("b", "y").bytes();
        for length in [1, 513, 5700] {
            unpack_everywhere(&stand, &whole[..length.min(whole.len())])[0].fails();
        }
        let name = "n".repeat(4096);
        let deep = "d/".repeat(10_000) + "f";
        let odd = [
            Layer::new().pax(&[("path", &name)]).file("short", "x"),
            Layer::new().pax(&[("path", &deep)]).file("short", "x"),
            Layer::new().pax(&[("size", "1000000000000000")]).file("lie", "x"),
            Layer::new().pax(&[("size", "-1")]).file("lie", "x"),
            Layer::new().pax(&[("path", "a\nb")]).file("lines", "x").pax(&[("path", "nul\0l")]).file("nul", "x"),
            Layer::new()
                .pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9000000000000000000")])
                .file("s", "9\n"),
        ];
        for layer in odd {
            unpack_everywhere(&stand, &layer.bytes());
        }
        // Twice the same name: the last one counts, as for tar itself.
        let twice = Layer::new().file("same", "first\n").file("same", "second\n");
        unpack_everywhere(&stand, &twice.bytes())[1].succeeds().says("second").does_not_say("first");
        // A layer whose end is missing.
        let bomb = Layer::new().file("zeros", &"\0".repeat(1 << 20));
        evil(&stand, vec![bomb], "FROM evil\nRUN wc -c < /zeros\n", &[]).succeeds().says("1048576");
    }
}

#[test]
fn item_14_copies_to_links_of_the_root() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        let links = || {
            let links = Layer::new().symlink("absolute", &outside).symlink("relative", &format!("{UP}{outside}"));
            vec![links.symlink("dangling", "not/yet").symlink("loop", "loop").symlink("file", &format!("{outside}/canary"))]
        };
        for (copy, read) in [
            ("COPY Dockerfile /absolute/x", format!("cat {outside}/x")),
            ("COPY Dockerfile /relative/x", format!("cat {outside}/x")),
            ("COPY Dockerfile /dangling/x", "cat /not/yet/x".to_owned()),
            ("WORKDIR /absolute/w\nCOPY Dockerfile x", format!("cat {outside}/w/x")),
        ] {
            evil(&stand, links(), &format!("FROM evil\n{copy}\nRUN {read} | tr a-z A-Z\n"), &[]).succeeds().says("FROM EVIL");
            is_untouched(&stand.bed);
        }
        evil(&stand, links(), "FROM evil\nCOPY Dockerfile /loop/x\n", &[]).fails();
        evil(&stand, links(), "FROM evil\nCOPY Dockerfile /file\nRUN cat /file\n", &[]).does_not_say("alive");
        is_untouched(&stand.bed);
    }
}
