//! What is kept between builds, and what is written for the user: nobody else's word or link counts.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use super::files::{is_untouched, outside};
use crate::support::{Bed, User, digest, tool};

#[test]
fn item_42_another_step_is_another_key() {
    let bed = Bed::caller();
    let pairs = [
        ("USER 1000\nRUN id -u", "USER 1001\nRUN id -u"),
        ("RUN true", "SHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN true"),
        ("RUN --mount=type=tmpfs,target=/t true", "RUN --mount=type=tmpfs,target=/u true"),
        ("RUN --mount=type=cache,id=a,target=/t true", "RUN --mount=type=cache,id=b,target=/t true"),
        ("RUN --mount=type=bind,target=/t true", "RUN --mount=type=bind,rw,target=/t true"),
        ("RUN --network=none : network", "RUN : network"),
        ("ENV A=1\nRUN : env", "ENV A=2\nRUN : env"),
        ("ARG A=1\nRUN : arg", "ARG A=2\nRUN : arg"),
    ];
    for (first, second) in pairs {
        let build = |lines: &str| bed.dockerfile(&format!("FROM busybox\n{lines}\n")).build(&[]);
        build(first).succeeds();
        build(second).succeeds().does_not_say("CACHED");
        build(second).succeeds().says("CACHED");
    }
    // What is of the image only is in the image: nothing of an earlier one is taken for it.
    let image = |lines: &str| bed.dockerfile(&format!("FROM busybox\nRUN : same\n{lines}\n")).image("app", &[]);
    for (first, second) in [
        ("HEALTHCHECK CMD one", "HEALTHCHECK CMD two"),
        ("ONBUILD RUN one", "ONBUILD RUN two"),
        ("SHELL [\"/bin/sh\"]", "SHELL [\"/bin/ash\"]"),
        ("USER 1", "USER 2"),
    ] {
        assert_ne!(image(first), image(second), "{first}");
    }
}

#[test]
fn item_43_a_damaged_store_is_noticed() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM busybox\nRUN seq 100000 > /numbers\n").build(&["-t", "app"]).succeeds();
        let blobs = || fs::read_dir(bed.store().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        for path in blobs() {
            let bytes = fs::read(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
        let archive = bed.path("out/app.tar");
        let built = bed.build(&["-t", "app", "-o", &format!("type=oci,dest={}", archive.display())]);
        assert!(built.code.is_some_and(|code| code != 101), "{built}");
        if built.code == Some(0) {
            let folder = bed.path("unpacked");
            fs::create_dir(&folder).unwrap();
            tool(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&folder));
            for blob in fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
                let name = format!("sha256:{}", blob.file_name().unwrap().to_str().unwrap());
                assert_eq!(digest(&fs::read(&blob).unwrap()), name, "half a blob was served: {built}");
            }
        }
        // It heals, or says what to do.
        let again = bed.build(&["-t", "app"]);
        assert!(again.code == Some(0) || again.err.contains("hint: "), "{again}");
    }
}

#[test]
fn item_44_a_store_of_somebody_else() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM busybox\nRUN true\n");
        fs::create_dir(bed.store()).unwrap();
        bed.user.own(&bed.store());
        fs::set_permissions(bed.store(), fs::Permissions::from_mode(0o777)).unwrap();
        bed.build(&[]).fails().says("store");
        fs::remove_dir_all(bed.store()).unwrap();
        let elsewhere = bed.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        if bed.user == User::Caller && nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(&elsewhere, Some(4242), Some(4242)).unwrap();
        }
        symlink(&elsewhere, bed.store()).unwrap();
        bed.build(&[]).fails().says("store");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        fs::remove_file(bed.store()).unwrap();
    }
}

#[test]
fn item_49_outputs_follow_no_link() {
    for bed in Bed::each_user() {
        let outside = outside(&bed);
        let canary = format!("{outside}/canary");
        bed.dockerfile("FROM busybox AS made\nRUN mkdir -p /o/d && echo dead > /o/d/canary\nFROM scratch\nCOPY --from=made /o /\n");
        let link = |name: &str, target: &str| {
            let _ = fs::remove_file(bed.path("out").join(name));
            symlink(target, bed.path("out").join(name)).unwrap();
            bed.path("out").join(name).display().to_string()
        };
        let id = link("id", &canary);
        let metadata = link("metadata", &canary);
        bed.build(&["-t", "app", "--iidfile", &id, "--metadata-file", &metadata]).succeeds();
        assert!(fs::read_to_string(&id).unwrap().starts_with("sha256:"));
        is_untouched(&bed);
        for kind in ["tar", "oci", "docker"] {
            let archive = link(kind, &canary);
            bed.build(&["-t", "app", "-o", &format!("type={kind},dest={archive}")]).succeeds();
            assert!(fs::symlink_metadata(&archive).unwrap().is_file());
            is_untouched(&bed);
        }
        fs::create_dir(bed.path("out/tree")).unwrap();
        bed.user.own(&bed.path("out"));
        symlink(&outside, bed.path("out/tree/d")).unwrap();
        bed.build(&["-o", &format!("type=local,dest={}", bed.path("out/tree").display())]);
        is_untouched(&bed);
        assert!(Path::new(&canary).exists());
    }
}
