//! A registry that misbehaves as a test tells it to: HTTP/1.1, one thread per connection, one request per connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::Image;
use super::image::digest;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What it gets.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send this many bytes of the body, then close; the length header still tells of all.
    pub cut: Option<usize>,
}

impl Reply {
    pub fn of(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: vec![("Content-Type".into(), kind.into())], body: body.into(), cut: None }
    }

    /// An error as registries write it.
    pub fn error(status: u16, code: &str) -> Reply {
        Reply::of(status, "application/json", format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"no\"}}]}}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut(mut self, bytes: usize) -> Reply {
        self.cut = Some(bytes);
        self
    }
}

type Answer = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// The server. Its thread ends with the test process.
pub struct FakeRegistry {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl FakeRegistry {
    /// Serves `image` under any name; where `answer` has a reply, that goes first.
    pub fn serve(image: Image, answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, requests): (Arc<Answer>, _) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (image, answer, requests) = (image.clone(), answer.clone(), requests.clone());
                std::thread::spawn(move || converse(stream, &image, &*answer, &requests));
            }
        });
        FakeRegistry { address, seen }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A registries.conf that allows plain http there.
    pub fn configuration(&self) -> String {
        insecure(&self.address)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// A registries.conf that allows plain http at this address.
pub fn insecure(address: &str) -> String {
    format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n")
}

/// Answers one request. A client that goes away in the middle is no fault of the test.
fn converse(stream: TcpStream, image: &Image, answer: &Answer, seen: &Mutex<Vec<Request>>) {
    let Some(request) = read_request(&stream) else { return };
    seen.lock().unwrap().push(request.clone());
    let reply = answer(&request).unwrap_or_else(|| good_reply(&request, image));
    let _ = write_reply(stream, &request, &reply);
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines.take_while(|line| !line.is_empty());
    let headers = headers.filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())));
    Some(Request { method, path, headers: headers.collect() })
}

fn good_reply(request: &Request, image: &Image) -> Reply {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    if request.path == "/v2/" {
        Reply::of(200, "application/json", "{}")
    } else if request.path.contains("/manifests/") {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        Reply::of(200, kind, image.manifest.clone()).header("Docker-Content-Digest", &digest(&image.manifest))
    } else if let Some((_, bytes)) = image.blobs.iter().find(|(digest, _)| digest == name) {
        Reply::of(200, "application/octet-stream", bytes.clone())
    } else {
        Reply::error(404, "BLOB_UNKNOWN")
    }
}

fn write_reply(mut stream: TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Reply\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    stream.flush()
}
