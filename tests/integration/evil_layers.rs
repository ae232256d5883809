//! Layers that try to leave their root: whatever happens, nothing outside changes, and nothing outside is read.

use std::fs;

use crate::support::{Bed, Image, Layer};

/// Builds on an image of these layers and looks whether a file outside was touched.
fn attempt(layers: impl Fn(&str) -> Vec<Layer>, steps: &str) {
    for bed in Bed::each_user() {
        fs::create_dir(bed.path("outside")).unwrap();
        fs::write(bed.path("outside/canary"), "alive").unwrap();
        bed.user.own(&bed.path("outside"));
        let outside = bed.path("outside").display().to_string();
        Image::with_busybox(layers(&outside)).write(&bed.path("layout"));
        bed.user.own(&bed.path("layout"));
        bed.dockerfile(&format!("FROM evil\n{steps}\n"));
        let layout = format!("evil=oci-layout://{}", bed.path("layout").display());
        let outcome = bed.build(&["-t", "app", "--build-context", &layout]);
        assert!(outcome.code.is_some_and(|code| code != 101), "{outcome}");

        let found: Vec<String> =
            fs::read_dir(bed.path("outside")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, ["canary"], "{outcome}");
        assert_eq!(fs::read_to_string(bed.path("outside/canary")).unwrap(), "alive", "{outcome}");
        outcome.does_not_say("alive");
    }
}

#[test]
fn names_that_climb() {
    attempt(|_| vec![Layer::new().file("../../../../../../../../../../../../../../tmp/rbuild-evil-climb", "x")], "RUN true");
    assert!(!fs::exists("/tmp/rbuild-evil-climb").unwrap());
    attempt(|outside| vec![Layer::new().file(&format!("a/../../../../../../../../../../..{outside}/x"), "x")], "RUN true");
}

#[test]
fn absolute_names() {
    attempt(|outside| vec![Layer::new().file(&format!("{outside}/x"), "x")], "RUN true");
    attempt(|outside| vec![Layer::new().file(&format!("{outside}/canary"), "dead")], "RUN true");
}

#[test]
fn files_below_a_symlink_to_outside() {
    attempt(|outside| vec![Layer::new().symlink("d", outside).file("d/x", "x").file("d/canary", "dead")], "RUN true");
    attempt(|outside| vec![Layer::new().symlink("d", outside), Layer::new().file("d/x", "x")], "RUN true");
    attempt(|outside| vec![Layer::new().symlink("d", &format!("../../../../../../../../../../..{outside}")).file("d/x", "x")], "RUN true");
    attempt(|_| vec![Layer::new().symlink("d", "/"), Layer::new().file("d/tmp/rbuild-evil-root", "x")], "RUN true");
    assert!(!fs::exists("/tmp/rbuild-evil-root").unwrap());
}

#[test]
fn whiteouts_through_a_symlink() {
    attempt(|outside| vec![Layer::new().symlink("d", outside), Layer::new().file("d/.wh.canary", "")], "RUN true");
    attempt(|outside| vec![Layer::new().symlink("d", outside), Layer::new().file("d/.wh..wh..opq", "")], "RUN true");
    attempt(|outside| vec![Layer::new().file(&format!("..{outside}/.wh.canary"), "")], "RUN true");
    attempt(|_| vec![Layer::new().file(".wh...", "").file(".wh..", "").file("a/.wh...", "")], "RUN true");
}

#[test]
fn hardlinks_to_outside() {
    let read = "RUN cat /h; echo dead > /h; true";
    attempt(|outside| vec![Layer::new().hardlink("h", &format!("{outside}/canary"))], read);
    attempt(|outside| vec![Layer::new().hardlink("h", &format!("../../../../../../../../../../..{outside}/canary"))], read);
    attempt(|outside| vec![Layer::new().symlink("d", outside).hardlink("h", "d/canary")], read);
    attempt(|outside| vec![Layer::new().symlink("l", &format!("{outside}/canary")).hardlink("h", "l")], read);
}

#[test]
fn copies_through_links_of_the_image() {
    attempt(|outside| vec![Layer::new().symlink("d", outside)], "COPY Dockerfile /d/x");
    attempt(|outside| vec![Layer::new().symlink("d", outside)], "WORKDIR /d/x");
    attempt(|outside| vec![Layer::new().symlink("d", outside)], "COPY --from=evil /d/canary /stolen\nRUN cat /stolen");
    attempt(|outside| vec![Layer::new().symlink("l", &format!("{outside}/canary"))], "COPY Dockerfile /l");
}

#[test]
fn links_in_etc_are_not_followed_out() {
    attempt(
        |outside| vec![Layer::new().symlink("etc/hosts", &format!("{outside}/canary")).symlink("etc/resolv.conf", &format!("{outside}/x"))],
        "RUN true",
    );
    attempt(|outside| vec![Layer::new().symlink("etc/passwd", &format!("{outside}/canary"))], "USER someone\nRUN true");
    attempt(|outside| vec![Layer::new().symlink("proc", outside).symlink("sys", outside).symlink("dev", outside)], "RUN true");
}

#[test]
fn honest_links_still_work() {
    for bed in Bed::each_user() {
        // As overlayfs builders do it: a link counts for the names of its own layer, one below is replaced.
        let links = Layer::new().directory("usr/").directory("usr/lib/").symlink("lib", "usr/lib").symlink("abs", "/usr/lib");
        let links = links.symlink("up", "../../../usr").symlink("loop", "loop");
        let through = links.file("lib/merged", "merged\n").file("abs/absolute", "absolute\n");
        let layers = [through, Layer::new().file("./dotted", "dotted\n")];
        Image::with_busybox(layers).write(&bed.path("layout"));
        bed.user.own(&bed.path("layout"));
        bed.dockerfile("FROM honest\nRUN cat /usr/lib/merged /up/lib/absolute /dotted\n");
        let layout = format!("honest=oci-layout://{}", bed.path("layout").display());
        bed.build(&["--build-context", &layout]).succeeds().says("merged").says("absolute").says("dotted");
    }
}
