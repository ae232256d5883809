//! COPY, WORKDIR and mounts that would lead out of a root filesystem.

use std::fs;

use super::Stand;
use crate::support::{Bed, Image, Layer};

/// A directory outside with a canary, and its path.
pub fn outside(bed: &Bed) -> String {
    let _ = fs::create_dir(bed.path("outside"));
    fs::write(bed.path("outside/canary"), "alive").unwrap();
    bed.user.own(&bed.path("outside"));
    bed.path("outside").display().to_string()
}

pub fn is_untouched(bed: &Bed) {
    use std::os::unix::fs::MetadataExt;
    let names: Vec<_> = fs::read_dir(bed.path("outside")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["canary"]);
    assert_eq!(fs::read_to_string(bed.path("outside/canary")).unwrap(), "alive");
    let metadata = fs::metadata(bed.path("outside/canary")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o644, fs::metadata(bed.path("outside")).unwrap().uid()));
}

pub fn evil(stand: &Stand, layers: Vec<Layer>, dockerfile: &str, arguments: &[&str]) -> crate::support::Outcome {
    let bed = &stand.bed;
    let _ = fs::remove_dir_all(bed.path("layout"));
    Image::with_busybox(layers).write(&bed.path("layout"));
    bed.user.own(&bed.path("layout"));
    bed.dockerfile(dockerfile);
    let layout = format!("evil=oci-layout://{}", bed.path("layout").display());
    stand.build(&[&["--build-context", &layout], arguments].concat())
}

#[test]
fn item_10_a_user_database_that_is_no_file() {
    for stand in Stand::each() {
        for layer in
            [Layer::new().symlink("etc/passwd", "/dev/zero"), Layer::new().directory("etc/passwd/"), Layer::new().fifo("etc/passwd")]
        {
            evil(&stand, vec![layer], "FROM evil\nUSER someone\nRUN true\n", &[]).fails();
        }
        let large = Layer::new().file("etc/group", &"x:x:1:\n".repeat(4 << 20));
        evil(&stand, vec![large], "FROM evil\nCOPY --chown=a:b Dockerfile /\n", &[]).fails();
    }
}

#[test]
fn item_15_copy_from_proc() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        for source in [
            format!("/proc/self/root{outside}/canary"),
            format!("/proc/self/cwd/../../..{outside}/canary"),
            "/proc/self/environ".to_owned(),
        ] {
            stand.bed.dockerfile(&format!("FROM busybox AS a\nFROM busybox\nCOPY --from=a {source} /stolen\nRUN cat /stolen\n"));
            stand.build(&[]).fails().does_not_say("alive");
        }
        is_untouched(&stand.bed);
    }
}

#[test]
fn item_16_a_workdir_in_proc() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        let climb = "../../../../../../../..";
        let lines: String = (0..64)
            .step_by(if stand.rung == "full" { 3 } else { 9 })
            .map(|number| format!("WORKDIR /proc/self/fd/{number}\nRUN cat {climb}{outside}/canary {climb}/..{outside}/canary; true\n"))
            .collect();
        stand.lines(&lines, &[]).does_not_say("alive");
        evil(&stand, vec![Layer::new().symlink("d", &outside)], "FROM evil\nWORKDIR /d\nRUN echo x > made; cat canary; true\n", &[])
            .does_not_say("alive");
        is_untouched(&stand.bed);
    }
}

#[test]
fn item_17_owners_and_modes_of_links() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        std::os::unix::fs::symlink(format!("{outside}/canary"), stand.bed.path("context/link")).unwrap();
        let layer = Layer::new().symlink("l", &format!("{outside}/canary"));
        evil(
            &stand,
            vec![layer],
            "FROM evil\nCOPY --chown=1:1 --chmod=777 link /l\nCOPY --chown=1:1 --chmod=777 Dockerfile /l\nRUN chmod 777 /l; chown 1:1 /l; true\n",
            &[],
        );
        is_untouched(&stand.bed);
    }
}

#[test]
fn item_18_parents_and_excludes_that_climb() {
    for bed in Bed::each_user() {
        outside(&bed);
        bed.file("a/file", "x");
        for lines in [
            "COPY --parents ../outside/canary /d/",
            "COPY --parents a/../../outside/./canary /d/",
            "COPY --exclude=../* --parents ./a/../../outside /d/",
            "COPY ../../../../../../outside/canary /d/",
        ] {
            bed.dockerfile(&format!("FROM busybox\n{lines}\nRUN cat /d/canary /d/*/canary /d/outside/canary\n"));
            bed.build(&[]).fails().does_not_say("alive");
        }
        is_untouched(&bed);
    }
}

#[test]
fn item_19_a_bind_of_an_image_whose_source_is_a_link_to_the_root() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        let layer = || Layer::new().symlink("root", "/").symlink("up", "../../../../../../../..").symlink("out", &outside);
        for source in ["root", "up", "/root", "out"] {
            let lines = format!(
                "FROM busybox\nRUN --mount=type=bind,from=evil,source={source},target=/m,rw cat /m{outside}/canary /m/canary; echo x > /m{outside}/made; ls /m; true\n"
            );
            evil(&stand, vec![layer()], &lines, &["--no-cache"]).does_not_say("alive");
        }
        is_untouched(&stand.bed);
    }
}

#[test]
fn item_20_cache_mounts_that_climb() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        stand.bed.file("sub/file", "x");
        for options in [
            "id=../../../../../../..".to_owned(),
            format!("id=../../../../../../..{outside}"),
            format!("id=a,source=../../../../../../../..{outside}"),
            "id=b,from=ctx,source=../".to_owned(),
        ] {
            let lines = format!("RUN --mount=type=cache,{options},target=/m cat /m/canary /m{outside}/canary; echo dead > /m/canary; true");
            let built = stand.lines(&lines, &["--build-context", &format!("ctx={}", stand.bed.path("context/sub").display())]);
            built.does_not_say("alive");
            assert!(built.code.is_some_and(|code| code != 101), "{built}");
        }
        is_untouched(&stand.bed);
    }
}

#[test]
fn item_21_unknown_mount_options() {
    let bed = Bed::caller();
    for options in [
        "type=bind,bind-propagation=shared,target=/m",
        "type=bind,target=/m,Z",
        "type=bind,target=/m,relabel=shared",
        "type=nosuch,target=/m",
        "type=tmpfs,target=/m,mode=07777x",
    ] {
        bed.dockerfile(&format!("FROM busybox\nRUN --mount={options} true\n"));
        bed.build(&[]).fails().says("Dockerfile:2");
    }
}

#[test]
fn item_23_mount_targets_below_links() {
    for stand in Stand::each() {
        let outside = outside(&stand.bed);
        for lines in [
            "RUN --mount=type=tmpfs,target=/m/below touch /m/below/x".to_owned(),
            "RUN --mount=type=bind,target=/m/canary,source=Dockerfile true".to_owned(),
            format!("RUN --mount=type=tmpfs,target=/up{outside}/below touch /up{outside}/below/x"),
            // The target's parent becomes a link during the step; what was made for the mount is cleared up after it.
            format!("RUN --mount=type=tmpfs,target=/s/t/below mv /s /s2; ln -s {outside}/.. /s; ls /s/outside"),
            format!("RUN --mount=type=tmpfs,target=/s/canary rm -rf /s; mv /s /s2; ln -s {outside} /s; true"),
            format!("RUN --mount=type=bind,target=/s/canary,source=Dockerfile mv /s /s2; ln -s {outside} /s; true"),
        ] {
            let layer = Layer::new().symlink("m", &outside).symlink("up", "../../../../../../..");
            let built = evil(&stand, vec![layer], &format!("FROM evil\n{lines}\n"), &["--no-cache"]);
            assert!(built.code.is_some_and(|code| code != 101), "{built}");
            is_untouched(&stand.bed);
        }
    }
}

#[test]
fn item_25_a_writable_bind_of_the_context() {
    for stand in Stand::each() {
        stand.bed.file("dir/file", "before");
        let lines = "RUN --mount=type=bind,target=/m,rw echo after > /m/dir/file; rm -f /m/Dockerfile; chmod 777 /m/dir; echo new > /m/new; cat /m/dir/file";
        stand.lines(lines, &[]);
        assert_eq!(fs::read_to_string(stand.bed.path("context/dir/file")).unwrap(), "before", "on {}", stand.rung);
        assert!(stand.bed.path("context/Dockerfile").exists() && !stand.bed.path("context/new").exists());
    }
}

#[test]
fn item_45_cache_mounts_stay_out_of_layers_and_apart() {
    for stand in Stand::each() {
        let lines = "RUN --mount=type=cache,id=a,target=/c echo of-a > /c/file\n\
            RUN --mount=type=cache,id=b,target=/c test ! -e /c/file\n\
            RUN --mount=type=cache,id=a,uid=7,target=/c test ! -e /c/file\n\
            RUN test ! -e /c/file\n\
            RUN --mount=type=cache,id=a,target=/c cat /c/file";
        stand.lines(lines, &[]).succeeds().says("of-a");
    }
}
