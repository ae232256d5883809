//! The keys that are worked out here are those of records that BuildKit wrote (`testdata/buildkit-cache`).

use std::path::{Path, PathBuf};

use super::{
    graph::Graph,
    keys::{self, From, Key, Settings},
};
use crate::{
    dockerfile,
    oci::{ChainId, Descriptor, Digest, Image, ImageConfig, Index, Layer, Manifest},
    plan::{self, Base, Bases, ContextKind, Op, Options, Plan, RunDefaults},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/buildkit-cache")
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

fn layout() -> PathBuf {
    folder().join("layout")
}

fn blob(digest: &Digest) -> PathBuf {
    layout().join("blobs/sha256").join(digest.hex())
}

/// The manifest that a tag of the layout is.
fn tagged(tag: &str) -> Digest {
    let index: Index = read_json(&layout().join("index.json"));
    let is_named = |entry: &&Descriptor| entry.annotations.get("org.opencontainers.image.ref.name").is_some_and(|name| name == tag);
    index.manifests.iter().find(is_named).unwrap_or_else(|| panic!("{tag} is not there")).digest.clone()
}

/// Digest of the base image's manifest, its config and its layers.
fn base() -> (Digest, ImageConfig, Vec<Layer>) {
    let digest = tagged("base");
    let manifest: Manifest = read_json(&blob(&digest));
    let config: ImageConfig = read_json(&blob(&manifest.config.digest));
    let pairs = manifest.layers.into_iter().zip(config.rootfs.diff_ids.clone());
    let layers = pairs.map(|(descriptor, diff_id)| Layer { descriptor, diff_id }).collect();
    (digest, config, layers)
}

fn graph(case: &str) -> Graph {
    let manifest: Manifest = read_json(&blob(&tagged(&format!("{case}-max"))));
    let config = std::fs::read(blob(&manifest.config.digest)).unwrap();
    Graph::parse(&config, &manifest.layers).unwrap()
}

fn plan(case: &str) -> Plan {
    let text = std::fs::read_to_string(folder().join(format!("{case}.Dockerfile"))).unwrap();
    let file = dockerfile::parse(&text).unwrap();
    let platform: crate::oci::Platform = "linux/amd64".parse().unwrap();
    let contexts = [("base".to_owned(), ContextKind::Image)].into();
    let options = Options { contexts, target_platform: platform.clone(), build_platform: platform, ..Options::default() };
    let (digest, config, layers) = base();
    let mut bases = Bases::new();
    for (key, _) in plan::missing_bases(&file, &options, &bases).unwrap() {
        let image = Image { platform: key.platform.clone(), config: config.clone(), layers: layers.clone() };
        bases.insert(key, Base { image, digest: digest.clone() });
    }
    plan::lower(&file, &options, &bases).unwrap()
}

/// Whether a record has a key's digest and as many inputs, with the selectors that the key has for them.
fn is_there(graph: &Graph, key: &Key) -> bool {
    graph.with_digest(&key.digest).iter().any(|index| {
        let inputs = &graph.record(*index).inputs;
        inputs.len() == key.deps.len()
            && inputs.iter().zip(&key.deps).all(|(links, dep)| {
                let inner = match &dep.from {
                    From::Key(inner) => is_there(graph, inner),
                    // Contexts are known by their content only.
                    From::Context(_) => return links.iter().any(|link| link.selector.is_empty()),
                    From::Vertex(_) => true,
                };
                inner && links.iter().any(|link| link.selector == dep.selector)
            })
    })
}

/// The steps of a case that have no record, of how many steps.
fn missing(case: &str) -> (Vec<String>, usize) {
    let (graph, plan) = (graph(case), plan(case));
    let settings = Settings { hostname: "buildkitsandbox", epoch: None, run_defaults: &RunDefaults::default() };
    let steps: Vec<_> = plan.vertices.iter().filter(|vertex| !matches!(vertex.op, Op::Image(_))).collect();
    let has_record = |vertex: &&&plan::Vertex| keys::keys(vertex, &settings).first().is_some_and(|key| is_there(&graph, key));
    let missing = steps.iter().filter(|vertex| !has_record(vertex)).map(|vertex| vertex.name.clone()).collect();
    (missing, steps.len())
}

#[test]
fn base_images_have_the_keys_of_buildkits_records() {
    let (digest, config, _) = base();
    let chain = ChainId::of(&config.rootfs.diff_ids);
    let keys = keys::image_keys(&digest, &"linux/amd64".parse().unwrap(), chain.as_ref());
    let graph = graph("runs");
    assert!(keys.iter().all(|key| graph.with_digest(key).iter().any(|index| graph.is_root(*index, key))), "{keys:?}");
    assert_eq!(keys.len(), 2);
}

#[test]
fn steps_have_the_keys_of_buildkits_records() {
    let cases = [("runs", 9), ("mounts", 14), ("copies", 22), ("stages", 7), ("links", 3)];
    let found = cases.map(|(case, _)| (case, missing(case)));
    assert_eq!(found, cases.map(|(case, steps)| (case, (Vec::new(), steps))));
}

/// The key of a RUN or COPY of the plan, changed.
fn changed(text: &str, change: impl Fn(&mut RunDefaults)) -> Option<Key> {
    let file = dockerfile::parse(&format!("FROM scratch\n{text}\n")).unwrap();
    let plan = plan::lower(&file, &Options::default(), &Bases::new()).unwrap();
    let mut run_defaults = RunDefaults::default();
    change(&mut run_defaults);
    let settings = Settings { hostname: "buildkitsandbox", epoch: None, run_defaults: &run_defaults };
    keys::keys(&plan.vertices[0], &settings).into_iter().next()
}

#[test]
fn what_is_not_known_to_be_the_same_there_has_no_key() {
    let key = |text: &str| changed(text, |_| ());
    assert!(key("RUN x").is_some());
    assert_ne!(key("RUN x"), key("RUN y"));
    assert_eq!(changed("RUN x", |defaults| defaults.extra_hosts.push(("h".into(), "1.2.3.4".into()))), None);
    assert_eq!(changed("RUN x", |defaults| defaults.shm_size_bytes = Some(1)), None);
    for text in [
        "RUN --mount=type=cache,target=/c,uid=1 x",
        "RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/t x",
        "ADD http://example.com/a /a",
        "ADD https://example.com/a.git /a",
        "COPY --chown=name a /a",
    ] {
        assert_eq!(key(text), None, "{text}");
    }
}

#[test]
fn chains_of_layers_that_make_no_sense_are_no_results() {
    let (layer, other) = ("sha256:".to_owned() + &"a".repeat(64), "sha256:".to_owned() + &"b".repeat(64));
    let parse = |text: &str| {
        let mut descriptor = Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", layer.parse().unwrap(), 1);
        descriptor.annotations.insert("containerd.io/uncompressed".into(), other.clone());
        Graph::parse(text.replace("LAYER", &layer).replace("OTHER", &other).as_bytes(), &[descriptor])
    };
    let results = |layers: &str, result: &str| {
        let text = format!(r#"{{"layers":{layers},"records":[{{"digest":"LAYER",{result}}}]}}"#);
        parse(&text).unwrap().results(0).len()
    };
    let good = r#"[{"blob":"LAYER","parent":-1}]"#;
    assert_eq!(results(good, r#""layers":[{"layer":0,"createdAt":"2026-01-02T03:04:05Z"}]"#), 1);
    assert_eq!(results(good, r#""chains":[{"layers":[0,0],"createdAt":"2026-01-02T03:04:05Z"}]"#), 1);
    assert_eq!(results(good, r#""layers":[{"layer":5}]"#), 0);
    assert_eq!(results(good, r#""chains":[{"layers":[1]}]"#), 0);
    assert_eq!(results(r#"[{"blob":"LAYER","parent":1},{"blob":"LAYER"}]"#, r#""layers":[{"layer":0}]"#), 0, "a ring");
    assert_eq!(results(r#"[{"blob":"LAYER","parent":-7}]"#, r#""layers":[{"layer":0}]"#), 0);
    assert_eq!(results(r#"[{"blob":"OTHER","parent":-1}]"#, r#""layers":[{"layer":0}]"#), 0, "nobody has it");
    assert!(parse(r#"{"records":[{"digest":"LAYER","inputs":[[{"link":1}]]}]}"#).is_err());
}
