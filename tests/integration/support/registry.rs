//! A real docker-registry on loopback, one for the whole test process, that serves the stand-in bases of `examples/bases`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use super::{checkout, tool};

/// Its bcrypt.
const HTPASSWD: &str = "builder:$2b$05$NhzJGFl4d5vBfeyYEPNM8.w2Y8tuA8F1NvKp8POyE4vUptzSCdzOm\n";

/// The running registry. Its shell waits for our end of a pipe to close, so it never outlives the tests.
pub struct Registry {
    address: String,
    _alive: ChildStdin,
    _child: Child,
    _storage: tempfile::TempDir,
}

impl Registry {
    /// The registry of this process, started at first use, with `alpine` (also called `busybox`) and `my-upstream-image`.
    pub fn stand_in() -> &'static Registry {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(|| {
            let registry = Registry::start(false);
            registry.add_base("alpine", &["alpine", "busybox"]);
            registry.add_base("my-upstream-image", &["my-upstream-image"]);
            registry
        })
    }

    /// Adds `node:20-alpine`, which takes the npm registry and some time to make.
    pub fn add_node(&self) {
        static ADDED: OnceLock<()> = OnceLock::new();
        ADDED.get_or_init(|| self.add_base("node:20-alpine", &["node:20-alpine"]));
    }

    /// Adds `debian:12`, which root makes with debootstrap from the Debian archive.
    pub fn add_debian(&self) {
        static ADDED: OnceLock<()> = OnceLock::new();
        ADDED.get_or_init(|| self.add_base("debian:12", &["debian:12"]));
    }

    fn add_base(&self, base: &str, names: &[&str]) {
        let bases = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bases");
        let listed = tool(Command::new("python3").arg(checkout().join("examples/bases/bases.py")).arg("--out").arg(bases).arg(base));
        let (_, layout) = listed.trim().split_once(' ').expect("bases.py prints a name and a folder");
        for name in names {
            self.push(layout.as_ref(), &format!("library/{name}"));
        }
    }

    /// A registry of its own, without images, for `builder` with `s3cret-of-the-builder` only.
    pub fn private() -> Registry {
        Registry::start(true)
    }

    fn start(is_private: bool) -> Registry {
        let storage = tempfile::tempdir().unwrap();
        let configuration = storage.path().join("registry.yml");
        let blobs = storage.path().join("blobs");
        // Port 0: the kernel picks a free one, the log says which.
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            blobs.display()
        );
        if is_private {
            let passwords = storage.path().join("htpasswd");
            fs::write(&passwords, HTPASSWD).unwrap();
            text += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", passwords.display());
        }
        fs::write(&configuration, text).unwrap();
        let script = "docker-registry serve \"$1\" </dev/null 2>&1 & trap 'kill $!' EXIT; read -r _";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map(|line| line.expect("the registry's log can be read"))
            .find_map(|line| Some(line.split_once("listening on ")?.1.split('"').next()?.to_owned()))
            .expect("docker-registry starts (apt-get install docker-registry)");
        // Its log goes on: a full pipe would stop it.
        std::thread::spawn(move || log.for_each(drop));
        Registry { address, _alive: child.stdin.take().unwrap(), _child: child, _storage: storage }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Copies an OCI layout there.
    fn push(&self, layout: &Path, name: &str) {
        tool(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                .args([format!("oci:{}", layout.display()), format!("docker://{}/{name}", self.address)]),
        );
    }

    /// A registries.conf that takes docker.io from here.
    pub fn configuration(&self) -> String {
        format!(
            "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"{0}\"\ninsecure = true\n\n\
             [[registry]]\nlocation = \"{0}\"\ninsecure = true\n",
            self.address
        )
    }
}
