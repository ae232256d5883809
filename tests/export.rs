//! What we write is read by the tools that people use: skopeo and umoci. Where one is missing, its test says so.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use rbuild::{
    export::{FileDestination, ImageOptions, LayoutOptions, write_docker_archive, write_image, write_oci_archive, write_oci_directory},
    oci::{Descriptor, DiffId, Digest, History, Image, ImageConfig, Layer, media_type},
    snapshot::{CompressPool, Compression, Entry, EntryKind, LayerWriter, TarWriter, Timestamp},
    store::Store,
};

struct Bed {
    top: tempfile::TempDir,
    store: Store,
}

impl Bed {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        Self { top, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.top.path().join(name)
    }

    /// An image of two layers; the second adds a file to the first one's directory.
    fn image(&self, platform: &str, compression: Compression) -> Image {
        let layers = ["one", "two"].map(|name| self.layer(name, compression)).to_vec();
        let platform: rbuild::oci::Platform = platform.parse().unwrap();
        let mut config = ImageConfig {
            created: Some("2024-05-06T07:08:09Z".to_owned()),
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.config.cmd = Some(vec!["/d/one".to_owned()]);
        config.config.labels.insert("platform".to_owned(), platform.to_string());
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        config.history = vec![History { created_by: Some("COPY one /d # buildkit".to_owned()), ..History::default() }; 2];
        Image { platform, config, layers }
    }

    fn layer(&self, name: &str, compression: Compression) -> Layer {
        let pool = CompressPool::new(2);
        let mut writer = self.store.blob_writer().unwrap();
        let layer = LayerWriter::new(&mut writer, compression, &pool).unwrap();
        let mut tar = TarWriter::new(layer);
        let mtime = Timestamp { seconds: 1_000_000_000, nanoseconds: 0 };
        let entry =
            |path: &str, kind, size| Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime, size, xattrs: Vec::new() };
        tar.append(&entry("d/", EntryKind::Directory, 0), &mut std::io::empty()).unwrap();
        tar.append(&entry(&format!("d/{name}"), EntryKind::File, name.len() as u64), &mut name.as_bytes()).unwrap();
        let (_, blob) = tar.finish().unwrap().finish().unwrap();
        let (digest, size) = writer.complete().unwrap();
        let media_type = match compression {
            Compression::Zstd(_) => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER_GZIP,
        };
        Layer { descriptor: Descriptor::new(media_type, digest, size), diff_id: blob.diff_id }
    }

    fn names(&self) -> LayoutOptions {
        LayoutOptions { names: vec!["app".parse().unwrap()], ..LayoutOptions::default() }
    }
}

/// Runs a tool and returns what it prints; None, said aloud, if it is not installed.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    if Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: {name} is not installed");
        return None;
    }
    let output = Command::new(name).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn path_text(kind: &str, path: &Path, name: &str) -> String {
    format!("{kind}:{}{name}", path.display())
}

#[test]
fn skopeo_reads_the_store_in_place() {
    let bed = Bed::new();
    let image = bed.image("linux/amd64", Compression::GZIP);
    let written = write_image(&bed.store, std::slice::from_ref(&image), &ImageOptions::default()).unwrap();
    for name in ["app", "ghcr.io/me/app:1.2"] {
        bed.store.tag(&name.parse().unwrap(), &written).unwrap();
    }
    for name in [":app", ":app:latest", ":ghcr.io/me/app:1.2"] {
        let Some(text) = tool("skopeo", &["inspect", &path_text("oci", bed.store.root(), name)]) else { return };
        let found = json(&text);
        assert_eq!(found["Digest"], written.digest.as_str());
        assert_eq!(found["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(found["Labels"]["platform"], "linux/amd64");
    }
    let Some(config) = tool("skopeo", &["inspect", "--config", &path_text("oci", bed.store.root(), ":app")]) else { return };
    assert_eq!(json(&config)["created"], "2024-05-06T07:08:09Z");
    assert_eq!(json(&config)["history"].as_array().unwrap().len(), 2);
}

#[test]
fn skopeo_copies_what_we_write() {
    let bed = Bed::new();
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let image = bed.image("linux/amd64", compression);
        let written = write_image(&bed.store, std::slice::from_ref(&image), &ImageOptions::default()).unwrap();
        let (oci, docker, layout) = (bed.path("oci.tar"), bed.path("docker.tar"), bed.path("layout"));
        write_oci_archive(&bed.store, &written, FileDestination::Path(oci.clone()), &bed.names()).unwrap();
        write_docker_archive(&bed.store, &written, FileDestination::Path(docker.clone()), &bed.names()).unwrap();
        write_oci_directory(&bed.store, &written, &layout, &bed.names()).unwrap();
        let sources = [
            path_text("oci-archive", &oci, ":latest"),
            path_text("docker-archive", &docker, ":app:latest"),
            path_text("oci", &layout, ":latest"),
            path_text("oci-archive", &docker, ":latest"),
        ];
        for (number, source) in sources.iter().enumerate() {
            let copy = bed.path(&format!("copy-{number}-{}", image.layers[0].descriptor.digest.hex()));
            if tool("skopeo", &["copy", "--insecure-policy", source, &path_text("dir", &copy, "")]).is_none() {
                return;
            }
            let manifest = json(&fs::read_to_string(copy.join("manifest.json")).unwrap());
            let config = manifest["config"]["digest"].as_str().unwrap().trim_start_matches("sha256:");
            let config: ImageConfig = serde_json::from_slice(&fs::read(copy.join(config)).unwrap()).unwrap();
            let expected: Vec<DiffId> = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
            assert_eq!(config.rootfs.diff_ids, expected, "{source}");
        }
    }
}

#[test]
fn skopeo_finds_each_platform_of_a_nested_index() {
    let bed = Bed::new();
    let images = ["linux/amd64", "linux/arm/v7"].map(|platform| bed.image(platform, Compression::GZIP));
    let written = write_image(&bed.store, &images, &ImageOptions::default()).unwrap();
    let path = bed.path("oci.tar");
    write_oci_archive(&bed.store, &written, FileDestination::Path(path.clone()), &bed.names()).unwrap();
    for (architecture, variant, label) in [("amd64", "", "linux/amd64"), ("arm", "v7", "linux/arm/v7")] {
        let source = path_text("oci-archive", &path, ":latest");
        let arguments = ["--override-arch", architecture, "--override-variant", variant, "inspect", &source];
        let Some(text) = tool("skopeo", &arguments) else { return };
        assert_eq!(json(&text)["Labels"]["platform"], label);
    }
}

#[test]
fn umoci_unpacks_what_we_write() {
    let bed = Bed::new();
    let written = write_image(&bed.store, &[bed.image("linux/amd64", Compression::GZIP)], &ImageOptions::default()).unwrap();
    bed.store.tag(&"app".parse().unwrap(), &written).unwrap();
    let layout = bed.path("layout");
    write_oci_directory(&bed.store, &written, &layout, &bed.names()).unwrap();
    for (number, source) in [format!("{}:latest", layout.display()), format!("{}:app", bed.store.root().display())].iter().enumerate() {
        let bundle = bed.path(&format!("bundle{number}"));
        let rootless = if rustix::process::geteuid().is_root() { "--rootless=false" } else { "--rootless" };
        if tool("umoci", &["unpack", rootless, "--image", source, bundle.to_str().unwrap()]).is_none() {
            return;
        }
        for name in ["one", "two"] {
            assert_eq!(fs::read_to_string(bundle.join("rootfs/d").join(name)).unwrap(), name);
        }
    }
}

#[test]
fn umoci_and_we_can_work_on_one_store() {
    let bed = Bed::new();
    let written = write_image(&bed.store, &[bed.image("linux/amd64", Compression::GZIP)], &ImageOptions::default()).unwrap();
    bed.store.tag(&"app".parse().unwrap(), &written).unwrap();
    let source = format!("{}:app", bed.store.root().display());
    if tool("umoci", &["tag", "--image", &source, "theirs"]).is_none() {
        return;
    }
    bed.store.tag(&"second".parse().unwrap(), &written).unwrap();
    assert_eq!(bed.store.resolve(&"theirs".parse().unwrap()).unwrap().map(|found| found.digest), Some(written.digest));
    assert_eq!(bed.store.images().unwrap().len(), 3);
    assert_eq!(bed.store.fsck().unwrap(), []);
    assert_eq!(Digest::of(&fs::read(bed.store.root().join("oci-layout")).unwrap()), Digest::of(br#"{"imageLayoutVersion":"1.0.0"}"#));
}
