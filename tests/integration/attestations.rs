//! What is stated about images: read back from a real registry by its HTTP interface alone, as other tools do.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Bed, Registry, Server, checkout, tool};

const MANIFESTS: &str = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
const SECRET: &str = "s3cr3t-of-nobody-else";

/// An image with packages of every kind that it is read from.
const DOCKERFILE: &str = "FROM alpine\nARG CHANNEL\n\
    COPY installed /lib/apk/db/installed\nCOPY status /var/lib/dpkg/status\n\
    COPY package.json /app/node_modules/left-pad/package.json\n\
    COPY METADATA /usr/lib/python3/site-packages/requests-2.32.0.dist-info/METADATA\n\
    RUN --mount=type=secret,id=key test -s /run/secrets/key\n";

fn bed(bed: Bed) -> Bed {
    bed.dockerfile(DOCKERFILE)
        .file("installed", "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\n")
        .file("status", "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9\n\n")
        .file("package.json", "{\"name\":\"left-pad\",\"version\":\"1.3.0\",\"license\":\"WTFPL\"}")
        .file("METADATA", "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.0\nLicense: Apache-2.0\n\n");
    fs::write(bed.path("out/key"), SECRET).unwrap();
    bed
}

/// A name in the registry of this process that no other test uses: `(HOST/REPOSITORY, REPOSITORY)`.
fn name(bed: &Bed) -> (String, String) {
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    (format!("{}/stated-{unique}", Registry::stand_in().address()), format!("stated-{unique}"))
}

fn get(repository: &str, what: &str) -> String {
    let url = format!("http://{}/v2/{repository}/{what}", Registry::stand_in().address());
    tool(Command::new("curl").args(["-sSf", "-H", MANIFESTS, &url]))
}

fn json(repository: &str, what: &str) -> Value {
    serde_json::from_str(&get(repository, what)).unwrap()
}

/// The statements about a digest: by the tag of the specification, because Debian's registry lists no referrers.
fn statements(repository: &str, digest: &str) -> Vec<Value> {
    let listed = json(repository, &format!("manifests/{}", digest.replace(':', "-")));
    let entries = listed["manifests"].as_array().unwrap().iter().map(|entry| {
        assert_eq!(entry["artifactType"], "application/vnd.in-toto+json");
        let manifest = json(repository, &format!("manifests/{}", entry["digest"].as_str().unwrap()));
        assert_eq!(manifest["subject"]["digest"], digest);
        let statement = json(repository, &format!("blobs/{}", manifest["layers"][0]["digest"].as_str().unwrap()));
        assert_eq!(entry["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
        statement
    });
    entries.collect()
}

fn digest_of(bed: &Bed) -> String {
    let metadata: Value = serde_json::from_slice(&fs::read(bed.path("out/metadata.json")).unwrap()).unwrap();
    metadata["containerimage.digest"].as_str().unwrap().to_owned()
}

fn of_type<'a>(statements: &'a [Value], predicate_type: &str) -> &'a Value {
    let found: Vec<&Value> = statements.iter().filter(|statement| statement["predicateType"] == predicate_type).collect();
    assert_eq!(found.len(), 1, "{predicate_type} in {statements:?}");
    found[0]
}

const SLSA: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";
const PUSH: [&str; 4] = ["--push", "--metadata-file", "../out/metadata.json", "--secret=id=key,src=../out/key"];

#[test]
fn statements_are_beside_the_image_and_name_it() {
    for bed in Bed::each_user().into_iter().map(bed) {
        let (app, repository) = name(&bed);
        bed.build(&[&["-t", &app, "--sbom", "--build-arg", "CHANNEL=nightly-of-us"], &PUSH[..]].concat()).succeeds();
        let digest = digest_of(&bed);
        let all = statements(&repository, &digest);
        for statement in &all {
            assert_eq!(statement["subject"][0]["digest"]["sha256"], digest.trim_start_matches("sha256:"));
            let text = statement.to_string();
            assert!(!text.contains(SECRET) && !text.contains("nightly-of-us"), "{text}");
        }
        let provenance = &of_type(&all, SLSA)["predicate"]["buildDefinition"];
        assert!(provenance["resolvedDependencies"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/alpine@latest"), "{provenance}");
        assert_eq!(provenance["externalParameters"]["request"]["secrets"][0]["id"], "key", "its name is no secret");
        let packages = of_type(&all, SPDX)["predicate"]["packages"].as_array().unwrap();
        for (package, version, locator) in [
            ("musl", "1.2.5-r0", "pkg:apk/rbuild-stand-in/musl@1.2.5-r0"),
            ("libc6", "2.36-9", "pkg:deb/rbuild-stand-in/libc6@2.36-9"),
            ("left-pad", "1.3.0", "pkg:npm/left-pad@1.3.0"),
            ("requests", "2.32.0", "pkg:pypi/requests@2.32.0"),
        ] {
            let found = packages.iter().find(|found| found["name"] == package).unwrap_or_else(|| panic!("{package} in {packages:?}"));
            assert_eq!(found["versionInfo"], version);
            assert!(found["externalRefs"].to_string().contains(locator), "{found}");
        }
    }
}

#[test]
fn mode_max_has_build_arguments_and_the_dockerfile_but_no_secret() {
    let bed = bed(Bed::caller());
    let (app, repository) = name(&bed);
    let wanted = ["-t", &app, "--attest", "type=provenance,mode=max", "--build-arg", "CHANNEL=nightly-of-us"];
    bed.build(&[&wanted[..], &PUSH[..]].concat()).succeeds();
    let all = statements(&repository, &digest_of(&bed));
    let request = &of_type(&all, SLSA)["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:CHANNEL"], "nightly-of-us");
    let source = &all[0]["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"][0];
    let data = tool(Command::new("sh").arg("-c").arg("printf %s \"$0\" | base64 -d").arg(source["data"].as_str().unwrap()));
    assert_eq!(data, DOCKERFILE);
    assert!(!all[0].to_string().contains(SECRET));
}

#[test]
fn a_push_has_provenance_unless_it_is_refused_and_only_once() {
    let bed = bed(Bed::caller());
    let (app, repository) = name(&bed);
    bed.build(&[&["-t", &app], &PUSH[..]].concat()).succeeds();
    bed.build(&[&["-t", &app], &PUSH[..]].concat()).succeeds();
    assert_eq!(statements(&repository, &digest_of(&bed)).len(), 1);
    let (other, repository) = (format!("{app}-2"), format!("{repository}-2"));
    bed.build(&[&["-t", &other, "--provenance=false"], &PUSH[..]].concat()).succeeds();
    let tags = json(&repository, "tags/list");
    assert_eq!(tags["tags"], serde_json::json!(["latest"]));
}

#[test]
fn a_registry_that_lists_referrers_gets_no_tag_for_them() {
    let registry = Registry::stand_in();
    let script = checkout().join("tests/integration/referring.py");
    let door = Server::start("python3 \"$@\"", &[script.to_str().unwrap(), registry.address()]).expect("there is Python");
    let bed = bed(Bed::caller());
    bed.registries(&format!("{}\n[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.configuration(), door.address));
    let repository = name(&bed).1;
    let app = format!("{}/{repository}", door.address);
    // What the second one finds it does not write again; the third one makes more than fit on a page.
    for wanted in [&[][..], &[], &["--sbom", "--provenance=mode=max"], &[]] {
        bed.build(&[&["-t", &app], wanted, &PUSH[..]].concat()).succeeds().does_not_say("warning");
    }
    let mut path = format!("/v2/{repository}/referrers/{}", digest_of(&bed));
    let mut listed = Vec::new();
    loop {
        let answer = tool(Command::new("curl").args(["-sSfi", &format!("http://{}{path}", door.address)]));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let page: Value = serde_json::from_str(body).unwrap();
        listed.extend(page["manifests"].as_array().unwrap().iter().map(|entry| entry["annotations"]["in-toto.io/predicate-type"].clone()));
        match head.lines().find_map(|line| line.strip_prefix("Link: <")?.split_once('>')) {
            Some((next, _)) => path = next.to_owned(),
            None => break,
        }
    }
    // Those of one push come in any order.
    assert_eq!(listed[0], SLSA);
    listed.sort_by_key(Value::to_string);
    assert_eq!(listed, [SLSA, SLSA, SPDX]);
    assert_eq!(json(&repository, "tags/list")["tags"], serde_json::json!(["latest"]));
}

#[test]
fn in_an_index_they_are_what_buildkit_writes() {
    let bed = bed(Bed::caller());
    let (app, repository) = name(&bed);
    let wanted = ["-t", &app, "--sbom", "--provenance=mode=min,version=v0.2", "--attest-form=index"];
    bed.build(&[&wanted[..], &PUSH[..]].concat()).succeeds();
    let index = json(&repository, "manifests/latest");
    let [image, attestation] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    assert_eq!(attestation["platform"], serde_json::json!({"architecture": "unknown", "os": "unknown"}));
    let manifest = json(&repository, &format!("manifests/{}", attestation["digest"].as_str().unwrap()));
    let kinds: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, [SPDX, "https://slsa.dev/provenance/v0.2"]);
    for layer in manifest["layers"].as_array().unwrap() {
        let statement = json(&repository, &format!("blobs/{}", layer["digest"].as_str().unwrap()));
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image["digest"].as_str().unwrap().trim_start_matches("sha256:"));
        assert_eq!(statement["predicateType"], layer["annotations"]["in-toto.io/predicate-type"]);
    }
    // They are no image of their own, and the only image is what is saved.
    bed.run(&["images", &app]).succeeds().says("linux/").does_not_say("unknown");
    bed.run(&["save", &app, "-o", "../out/app.tar"]).succeeds();
    bed.run(&["copy", &app, "docker-archive:../out/copy.tar"]).succeeds();
    // The image is still what others find for their platform.
    let found = tool(Command::new("skopeo").args(["inspect", "--config", "--tls-verify=false", &format!("docker://{app}")]));
    assert!(found.contains("\"rootfs\""), "{found}");
}

#[test]
fn every_platform_has_its_own_list_of_packages() {
    let bed = bed(Bed::caller());
    let (app, repository) = name(&bed);
    bed.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /lib/apk/db/installed\n");
    for platform in ["amd64", "arm64"] {
        bed.file(platform, format!("P:only-{platform}\nV:1\nA:{platform}\n\n"));
    }
    bed.build(&["-t", &app, "--platform", "linux/amd64,linux/arm64", "--sbom", "--push"]).succeeds();
    let index = json(&repository, "manifests/latest");
    for entry in index["manifests"].as_array().unwrap() {
        let all = statements(&repository, entry["digest"].as_str().unwrap());
        let packages = of_type(&all, SPDX)["predicate"]["packages"].to_string();
        for platform in ["amd64", "arm64"] {
            let is_its_own = entry["platform"]["architecture"] == platform;
            assert_eq!(packages.contains(&format!("only-{platform}")), is_its_own, "{packages}");
        }
    }
}

#[test]
fn files_have_them_beside_them() {
    let bed = bed(Bed::caller());
    let wanted = ["--sbom", "--secret=id=key,src=../out/key", "-o", "type=local,dest=../out/files,attestation-prefix=app."];
    bed.build(&[&wanted[..], &["-o", "type=oci,dest=../out/app.tar"]].concat()).succeeds();
    for (file, predicate) in [("app.sbom.spdx.json", SPDX), ("app.provenance.json", SLSA)] {
        let statement: Value = serde_json::from_slice(&fs::read(bed.path("out/files").join(file)).unwrap()).unwrap();
        assert_eq!(statement["predicateType"], predicate);
        let names = statement["subject"].as_array().unwrap().iter().map(|subject| subject["name"].as_str().unwrap());
        assert!(names.clone().any(|name| name.ends_with("node_modules/left-pad/package.json")), "{:?}", names.collect::<Vec<_>>());
    }
    let listed = tool(Command::new("skopeo").args(["inspect", "--raw"]).arg(format!("oci-archive:{}", bed.path("out/app.tar").display())));
    assert!(listed.contains("attestation-manifest"), "{listed}");
}
