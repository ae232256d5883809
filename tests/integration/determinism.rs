//! The same inputs give the same digest: in two stores, as root and as a user, later and in another directory.

use crate::support::{Bed, Outcome};

fn digest(bed: &Bed) -> String {
    bed.dockerfile(
        "FROM alpine AS builder\nWORKDIR /w\nCOPY --chown=3:4 . .\nRUN mkdir -p a/b && echo text > a/b/c && chown -R 5:6 a && ln a/b/c a/h && \
         ln -s h a/s && rm /etc/shadow && mkfifo a/p && chmod 2750 a/b\nFROM alpine\nCOPY --from=builder /w /w\nRUN date > /dev/null && touch /touched\n",
    );
    bed.file("one", "1").file("sub/two", "2").file("sub/three", "3".repeat(300_000));
    let mut command = bed.command(&[
        "build",
        "--progress",
        "plain",
        "-o",
        "type=oci,dest=../out/app.tar,rewrite-timestamp=true",
        "-o",
        "type=image",
        "-t",
        "app",
        ".",
    ]);
    command.env("SOURCE_DATE_EPOCH", "1600000000");
    Outcome::of(command).succeeds();
    bed.digest("app")
}

#[test]
fn two_stores_and_two_users_agree_on_the_digest() {
    let beds: Vec<Bed> = Bed::each_user().into_iter().chain(Bed::each_user()).collect();
    let archives: Vec<(String, Vec<u8>)> = beds
        .iter()
        .map(|bed| {
            digest(bed);
            let archive = std::fs::read(bed.path("out/app.tar")).unwrap();
            let reference = format!("oci-archive:{}", bed.path("out/app.tar").display());
            let inspected = crate::support::tool(std::process::Command::new("skopeo").args(["inspect", &reference]));
            let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
            (inspected["Digest"].as_str().unwrap().to_owned(), archive)
        })
        .collect();
    for (bed, (digest, archive)) in beds.iter().zip(&archives) {
        assert_eq!(digest, &archives[0].0, "as {:?}", bed.user);
        assert_eq!(archive, &archives[0].1, "as {:?}: the archives differ", bed.user);
    }
}
