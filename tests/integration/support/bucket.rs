//! A real S3 server on loopback (moto's) behind a door that checks signatures (`signed.py`), one for the whole test
//! process. Every test has a bucket of its own.

use std::process::Command;
use std::sync::OnceLock;

use super::{bed::checkout, server::Server, skip, tool};

/// The key that the door knows, and its secret.
pub const KEY: (&str, &str) = ("us", "0f-us-al0ne");

/// The running servers: moto's, which takes requests of anybody, and the door to it, which checks their signatures.
pub struct Buckets {
    server: Server,
    door: Server,
}

impl Buckets {
    /// The servers of this process, started at first use; None where they are not installed.
    pub fn stand_in() -> Option<&'static Buckets> {
        static BUCKETS: OnceLock<Option<Buckets>> = OnceLock::new();
        let buckets = BUCKETS.get_or_init(Buckets::start).as_ref();
        if buckets.is_none() {
            skip("there is no moto_server to be S3 (tests/run installs it)");
        }
        buckets
    }

    fn start() -> Option<Buckets> {
        let server = Server::start("moto_server -H 127.0.0.1 -p 0", &[])?;
        let door = checkout().join("tests/integration/signed.py");
        // moto's Python has botocore.
        let command = "\"$(dirname \"$(command -v moto_server)\")/python3\" \"$@\"";
        let door = Server::start(command, &[door.to_str().unwrap(), &server.address, KEY.0, KEY.1]).expect("moto comes with botocore");
        Some(Buckets { server, door })
    }
    /// Where requests must be signed.
    pub fn door(&self) -> String {
        format!("http://{}", self.door.address)
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Makes a bucket.
    pub fn make(&self, bucket: &str) {
        self.put(bucket, b"");
    }

    /// Puts an object, or makes a bucket.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        tool(Command::new("curl").args(["-sSf", "-T"]).arg(file.path()).arg(format!("{}/{path}", self.endpoint())));
    }

    /// The names of all objects, with their sizes.
    pub fn objects(&self, bucket: &str) -> Vec<(String, usize)> {
        let text = tool(Command::new("curl").args(["-sSf", &format!("{}/{bucket}?list-type=2", self.endpoint())]));
        let inside = |part: &str, tag: &str| -> String {
            let (_, rest) = part.split_once(&format!("<{tag}>")).unwrap_or_else(|| panic!("no {tag} in {part}"));
            rest.split('<').next().unwrap().to_owned()
        };
        text.split("<Contents>").skip(1).map(|part| (inside(part, "Key"), inside(part, "Size").parse().unwrap())).collect()
    }
}
