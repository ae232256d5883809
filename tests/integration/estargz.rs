//! eStargz layers, read by a reader of their specification (`estargz.py`), by other builders and by ourselves.

use std::process::Command;

use crate::support::{Bed, checkout, tool};

const DOCKERFILE: &str =
    "FROM alpine\nRUN mkdir /d && head -c 3000000 /dev/urandom > /d/big && ln /d/big /d/again && echo small > /d/small && : > /d/empty\n";

#[test]
fn files_are_found_by_the_table_and_the_image_is_one_for_everybody() {
    for bed in Bed::each_user() {
        let archive = bed.path("out/app.tar");
        let output = format!("type=oci,dest={},compression=estargz", archive.display());
        bed.dockerfile(DOCKERFILE).build(&["-t", "app", "-o", &output]).succeeds();
        let read = tool(Command::new("python3").arg(checkout().join("tests/integration/estargz.py")).arg(&archive));
        for name in ["d/again sha256:", "d/small sha256:", ".no.prefetch.landmark sha256:"] {
            assert!(read.lines().any(|line| line.starts_with(name)), "{name} in {read}");
        }
        let unpacked = bed.path("out/unpacked");
        tool(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet"])
                .args([format!("oci-archive:{}", archive.display()), format!("oci:{}:app", unpacked.display())]),
        );
        tool(
            Command::new("umoci")
                .arg("raw")
                .arg("unpack")
                .arg("--rootless")
                .arg("--image")
                .arg(format!("{}:app", unpacked.display()))
                .arg(bed.path("out/root")),
        );
        assert_eq!(std::fs::read(bed.path("out/root/d/small")).unwrap(), b"small\n");
        assert_eq!(std::fs::metadata(bed.path("out/root/d/big")).unwrap().len(), 3_000_000);
    }
}

#[test]
fn it_is_the_form_of_an_output_and_no_other_step_sees_it() {
    let bed = Bed::caller();
    let of = |text: &str| format!("type=oci,dest={},{text}", bed.path("out/app.tar").display());
    bed.dockerfile(DOCKERFILE).build(&["-o", &of("compression=estargz,force-compression=true")]).succeeds();
    let manifest = |archive: &str| -> serde_json::Value {
        serde_json::from_str(&tool(Command::new("skopeo").args(["inspect", "--raw", &format!("oci-archive:{archive}")]))).unwrap()
    };
    let layers = manifest(&bed.path("out/app.tar").display().to_string())["layers"].clone();
    for layer in layers.as_array().unwrap() {
        assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "base layers too: {layer}");
    }
    let plain = format!("type=oci,dest={}", bed.path("out/plain.tar").display());
    bed.build(&["-o", &of("compression=estargz"), "-o", &plain]).succeeds();
    assert!(manifest(&bed.path("out/plain.tar").display().to_string())["layers"].to_string().find("stargz").is_none());
    // A cache that has only this form of a layer gives the step back as it was, without the table.
    let folder = bed.path("out/cache").display().to_string();
    let fresh = Bed::caller();
    fresh.dockerfile(DOCKERFILE).build(&["-o", &of("compression=estargz"), "--cache-to", &format!("type=local,dest={folder}")]).succeeds();
    let second = Bed::caller();
    second.dockerfile(&format!("{DOCKERFILE}RUN ls -a / > /list && ! grep stargz /list && ! grep landmark /list\n"));
    second.build(&["--cache-from", &format!("type=local,src={folder}"), "-o", &of("compression=estargz")]).succeeds().says("CACHED");
}
