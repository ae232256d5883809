//! Images made by hand, entry by entry, so that they can be as wrong as a test wants.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// A layer under construction. Names are written as they are given: `..` and absolute ones too.
#[derive(Default)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    pub fn new() -> Layer {
        Layer::default()
    }

    pub fn directory(self, name: &str) -> Layer {
        self.entry(b'5', name, "", b"", 0o755)
    }

    pub fn file(self, name: &str, text: &str) -> Layer {
        self.entry(b'0', name, "", text.as_bytes(), 0o644)
    }

    pub fn program(self, name: &str, bytes: &[u8]) -> Layer {
        self.entry(b'0', name, "", bytes, 0o755)
    }

    pub fn symlink(self, name: &str, target: &str) -> Layer {
        self.entry(b'2', name, target, b"", 0o777)
    }

    pub fn fifo(self, name: &str) -> Layer {
        self.entry(b'6', name, "", b"", 0o644)
    }

    /// A character device.
    pub fn device(mut self, name: &str, major: u64, minor: u64) -> Layer {
        let at = self.tar.len();
        self = self.entry(b'3', name, "", b"", 0o666);
        let header = &mut self.tar[at..at + 512];
        header[329..345].copy_from_slice(format!("{major:07o}\0{minor:07o}\0").as_bytes());
        seal(header);
        self
    }

    /// A program that would run as its owner.
    pub fn setuid(self, name: &str, text: &str) -> Layer {
        self.entry(b'0', name, "", text.as_bytes(), 0o4755)
    }

    /// Extended headers of the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Layer {
        let record = |(name, value): &(&str, &str)| {
            let rest = name.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() == length - rest).unwrap();
            format!("{length} {name}={value}\n")
        };
        let text: String = records.iter().map(record).collect();
        self.entry(b'x', "extended", "", text.as_bytes(), 0o644)
    }

    /// An extended attribute of the next entry.
    pub fn xattr(self, name: &str, value: &str) -> Layer {
        self.pax(&[(&format!("SCHILY.xattr.{name}"), value)])
    }

    pub fn hardlink(self, name: &str, target: &str) -> Layer {
        self.entry(b'1', name, target, b"", 0o644)
    }

    /// A raw ustar entry; the `tar` crate would refuse the names that matter here.
    fn entry(mut self, kind: u8, name: &str, link: &str, data: &[u8], mode: u32) -> Layer {
        assert!(name.len() < 100 && link.len() < 100, "longer names need extensions that no test needs");
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let mut field = |at: usize, width: usize, value: u64| {
            header[at..at + width].copy_from_slice(format!("{value:0width$o}\0", width = width - 1).as_bytes());
        };
        field(100, 8, mode.into());
        field(108, 8, 0);
        field(116, 8, 0);
        field(124, 12, data.len() as u64);
        field(136, 12, 1_500_000_000);
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut header);
        self.tar.extend_from_slice(&header);
        self.tar.extend_from_slice(data);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end mark.
    pub fn bytes(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

/// Writes the checksum of a header.
pub fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An image as blobs in memory.
#[derive(Clone)]
pub struct Image {
    /// Manifest, as a registry would send it.
    pub manifest: Vec<u8>,
    /// Digest -> bytes of config and layers.
    pub blobs: Vec<(String, Vec<u8>)>,
}

impl Image {
    pub fn of(layers: impl IntoIterator<Item = Layer>) -> Image {
        let tars: Vec<Vec<u8>> = layers.into_iter().map(Layer::bytes).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": tars.iter().map(|tar| digest(tar)).collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let mut blobs = vec![(digest(&config), config)];
        blobs.extend(tars.iter().map(|tar| {
            let zipped = gzip(tar);
            (digest(&zipped), zipped)
        }));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &blobs[0].1),
            "layers": blobs[1..].iter().map(|(_, bytes)| descriptor("layer.v1.tar+gzip", bytes)).collect::<Vec<_>>(),
        });
        Image { manifest: manifest.to_string().into_bytes(), blobs }
    }

    /// busybox and this layer on top.
    pub fn with_busybox(layers: impl IntoIterator<Item = Layer>) -> Image {
        let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
        let mut base = Layer::new().directory("bin/").program("bin/busybox", &busybox);
        for applet in ["sh", "cat", "echo", "ls", "mkdir", "touch", "true", "sleep", "id", "ln", "rm", "mv", "stat", "head", "wc", "tr"] {
            base = base.symlink(&format!("bin/{applet}"), "busybox");
        }
        Image::of(std::iter::once(base.directory("etc/").directory("tmp/")).chain(layers))
    }

    /// Writes it as an OCI layout, for `--build-context NAME=oci-layout://DIR`.
    pub fn write(&self, folder: &Path) {
        let store = folder.join("blobs/sha256");
        fs::create_dir_all(&store).unwrap();
        let manifest = (digest(&self.manifest), self.manifest.clone());
        for (digest, bytes) in self.blobs.iter().chain([&manifest]) {
            fs::write(store.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        }
        let mut top = descriptor("manifest.v1+json", &self.manifest);
        top["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        fs::write(folder.join("index.json"), json!({"schemaVersion": 2, "manifests": [top]}).to_string()).unwrap();
        fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()})
}

/// `sha256:...` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A program of this machine and the libraries that it needs, as files of a layer's tree. None where there is no such program.
pub fn program_tree(program: &str, tree: &Path) -> Option<()> {
    let listed = Command::new("ldd").arg(program).output().ok().filter(|output| output.status.success())?;
    let listed = String::from_utf8(listed.stdout).ok()?;
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program]).map(Path::new) {
        let target = tree.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(fs::canonicalize(path).ok()?, target).ok()?;
    }
    Some(())
}
