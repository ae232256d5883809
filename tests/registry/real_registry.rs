//! Debian's `docker-registry` on a free loopback port, in a temporary folder.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rbuild::oci::Digest;

pub const USER: &str = "builder";
pub const PASSWORD: &str = "s3cret";
/// For `htpasswd`: the user and the bcrypt of the password.
const HTPASSWD: &str = "builder:$2b$05$NhzJGFl4d5vBfeyYEPNM8.obQy.xTk8wXl6P30rbr9/ZhaA6aD4My\n";

pub struct RealRegistry {
    pub address: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl RealRegistry {
    /// None, with the reason printed, where it isn't installed.
    pub fn start(with_password: bool) -> Option<Self> {
        Self::start_at("127.0.0.1", with_password, "")
    }

    /// On 0.0.0.0, which is not a loopback name.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Option<Self> {
        let tls = format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        Self::start_at("0.0.0.0", false, &tls)
    }

    fn start_at(host: &str, with_password: bool, tls: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        let address = format!("{host}:{port}");
        let root = folder.path().display();
        let mut text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\nhttp: {{addr: '{address}', secret: s{tls}}}\n"
        );
        if with_password {
            std::fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
            text += &format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n");
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, text).unwrap();
        let child = Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = child else {
            assert!(std::env::var_os("RBUILD_TEST_REQUIRE").is_none(), "docker-registry is not installed");
            println!("skipped: docker-registry is not installed (apt install docker-registry)");
            return None;
        };
        let mut registry = Self { address, child, _folder: folder };
        registry.wait_until_it_answers();
        Some(registry)
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            assert!(self.child.try_wait().unwrap().is_none(), "docker-registry ended at once");
            if let Ok(mut stream) = TcpStream::connect(&self.address) {
                let _ = stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n");
                let mut answer = [0; 5];
                if stream.read_exact(&mut answer).is_ok() {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("docker-registry does not answer at {}", self.address);
    }

    /// Lets another implementation read what we wrote.
    pub fn check_with_skopeo(&self, image: &str, digest: &Digest) {
        let name = format!("docker://{}/{image}", self.address);
        let output = Command::new("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &name]).output();
        let Ok(output) = output else { return println!("not compared: skopeo is not installed") };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), digest.as_str(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
