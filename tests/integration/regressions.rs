//! What users of kaniko suffered from, by the number of its issue.

use std::fs;
use std::process::Command;

use crate::support::{Bed, tool};

/// What a command in image `app` writes.
#[track_caller]
fn see(bed: &Bed, command: &[&str]) -> String {
    bed.run(&[&["run", "app"], command].concat()).succeeds().out.clone()
}

/// The names in every layer that the build added, bottom first.
fn names(bed: &Bed) -> Vec<Vec<String>> {
    let place = bed.path("out/layout");
    let _ = fs::remove_dir_all(&place);
    bed.build(&["-o", "type=oci,dest=../out/layout,tar=false"]).succeeds();
    let read = |digest: &str| fs::read(place.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let index = json(&fs::read(place.join("index.json")).unwrap());
    let mut manifest = json(&read(index["manifests"][0]["digest"].as_str().unwrap()));
    if let Some(child) = manifest["manifests"][0]["digest"].as_str() {
        manifest = json(&read(child));
    }
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
    let list = layers.map(|digest| {
        let path = place.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        tool(Command::new("tar").arg("-tf").arg(path)).lines().map(str::to_owned).collect()
    });
    list.collect()
}

#[test]
fn kaniko_208_and_1163_owners_are_changes_and_stay() {
    for bed in Bed::each_user() {
        bed.file("f", "f").dockerfile(
            "FROM alpine\nRUN mkdir -p /d/e && touch /d/g && chown 7:8 /d\nRUN chown 9:10 /d/g\nCOPY f /d/e/\nCOPY --chown=1:2 f /d/h\n",
        );
        bed.image("app", &[]);
        assert_eq!(see(&bed, &["stat", "-c", "%u:%g", "/d", "/d/g", "/d/e/f", "/d/h"]), "7:8\n9:10\n0:0\n1:2\n");
    }
}

#[test]
fn kaniko_2050_nothing_is_hidden_that_was_not_there() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN touch /x && rm /x && mkdir -p /y/z && rm -r /y && mkdir /kept\n");
    let last = names(&bed).pop().unwrap();
    assert!(last.iter().any(|name| name.contains("kept")) && !last.iter().any(|name| name.contains(".wh.")), "{last:?}");
}

#[test]
fn kaniko_1636_1236_704_what_was_removed_stays_away_when_cached() {
    for bed in Bed::each_user() {
        let text = "FROM alpine\nRUN mkdir -p /d/e && touch /d/e/f /d/g\nRUN rm -r /etc/shadow /d/e\n";
        bed.dockerfile(text).image("app", &[]);
        // From blobs, not from what the first build left unpacked.
        bed.run(&["prune"]).succeeds();
        bed.dockerfile(&format!(
            "{text}RUN find / -xdev -name '.wh.*' > /hidden; ls -d /etc/shadow /d/e /d/g > /listed 2>/dev/null; true\n"
        ));
        bed.build(&["-t", "app"]).succeeds().says("CACHED");
        assert_eq!(see(&bed, &["cat", "/hidden", "/listed"]), "/d/g\n");
    }
}

#[test]
fn kaniko_2308_a_directory_becomes_a_link() {
    let bed = Bed::caller();
    bed.dockerfile(
        "FROM alpine\nRUN mkdir -p /d/a && touch /d/a/f\nRUN rm -r /d && ln -s /tmp /d\nRUN rm /d && mkdir /d && touch /d/new\n",
    );
    bed.image("app", &[]);
    assert_eq!(see(&bed, &["ls", "-A", "/d"]), "new\n");
    // Others can unpack it too.
    let bundle = bed.path("out/bundle");
    bed.build(&["-o", "type=oci,dest=../out/umoci,tar=false,name=app:1"]).succeeds();
    let image = format!("{}:1", bed.path("out/umoci").display());
    tool(Command::new("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle));
    assert_eq!(fs::read_dir(bundle.join("rootfs/d")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn kaniko_2066_links_survive_copies_between_stages() {
    for bed in Bed::each_user() {
        bed.dockerfile(
            "FROM alpine AS b\nRUN mkdir /d && echo x > /d/one && ln /d/one /d/two && ln -s one /d/soft && ln -s /nowhere /d/dangling\nFROM alpine\nCOPY --from=b /d /d\n",
        );
        bed.image("app", &[]);
        assert_eq!(
            see(&bed, &["stat", "-c", "%h %N", "/d/one", "/d/soft", "/d/dangling"]),
            "2 /d/one\n1 '/d/soft' -> 'one'\n1 '/d/dangling' -> '/nowhere'\n"
        );
    }
}

/// False hits of COPY --from: kaniko #1262, #845, #1348, #589, #870. False misses: #1240, #1520, #575, #682.
#[test]
fn copies_from_stages_follow_content_and_nothing_else() {
    let bed = Bed::caller();
    bed.dockerfile(
        "ARG WHO=one\nFROM alpine AS deep\nARG WHO\nRUN echo $WHO > /who; date +%N > /noise\nFROM deep AS middle\nCOPY f /f\nRUN cat /who /f > /both\n\
         FROM alpine\nCOPY --from=middle /both /\nCOPY --from=deep /who /\nRUN cat /both /who > /all\n",
    );
    let all = |arguments: &[&str]| {
        let outcome = bed.build(&[arguments, &["-o", "type=local,dest=../out/rootfs"]].concat());
        outcome.succeeds();
        let ran = outcome.err.lines().filter(|line| line.contains("cat /both /who") && !line.contains("CACHED")).count();
        (fs::read_to_string(bed.path("out/rootfs/all")).unwrap().replace('\n', " "), ran)
    };
    bed.file("f", "1");
    assert_eq!(all(&[]).0, "one 1one ");
    assert_eq!(all(&["--build-arg", "WHO=two"]).0, "two 1two ");
    bed.file("f", "2");
    assert_eq!(all(&["--build-arg", "WHO=two"]).0, "two 2two ");
    assert_eq!(all(&[]).0, "one 2one ");
    bed.file("f", "1");
    assert_eq!(all(&[]).0, "one 1one ");
    // The stage is made anew and comes out equal where it is looked at.
    bed.build(&["--no-cache-filter", "deep,middle", "-o", "type=cacheonly"]).succeeds();
    let outcome = bed.build(&["--explain", "-o", "type=cacheonly"]);
    outcome.succeeds().does_not_say("runs because");
}
