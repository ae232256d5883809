//! A real S3 server on loopback (moto's) behind a door that checks signatures (`signed.py`), one for the whole test
//! process. Every test has a bucket of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use super::{bed::checkout, skip, tool};

/// The key that the door knows, and its secret.
pub const KEY: (&str, &str) = ("us", "0f-us-al0ne");

/// The running servers: moto's, which takes requests of anybody, and the door to it, which checks their signatures.
pub struct Buckets {
    server: Server,
    door: Server,
}

/// A process of a shell that waits for our end of a pipe to close, so that it never outlives the tests.
struct Server {
    address: String,
    _alive: ChildStdin,
    _child: Child,
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

impl Server {
    /// Runs a shell command with arguments that says `http://ADDRESS` once it listens; None if there is no such command.
    fn start(command: &str, arguments: &[&str]) -> Option<Self> {
        let script = format!("{command} </dev/null 2>&1 & trap 'kill $!' EXIT; read -r _");
        let mut child = Command::new("sh");
        child.args(["-c", &script, "server"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("sh runs");
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| match line.split_once("http://") {
            Some((_, address)) => Some(Some(address.trim().to_owned())),
            None => line.contains("not found").then_some(None),
        });
        std::thread::spawn(move || log.for_each(drop));
        let Some(address) = address.flatten() else {
            // Its standard input is closed by that: it ends.
            let _ = child.wait();
            return None;
        };
        Some(Self { address, _alive: child.stdin.take().unwrap(), _child: child })
    }
}
