//! A registry made of a closure: each request gets the answer that the test wants, also a broken one.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// What came. Header names are in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The body was as long as its Content-Length.
    pub complete: bool,
    /// When its head had come.
    pub came: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// `GET /v2/..`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What goes back.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Whole,
    CutAt(usize),
    StallAt(usize),
    Never,
}

impl Answer {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, headers: Vec::new(), body: body.as_ref().to_vec(), end: End::Whole }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// The connection ends after so many bytes of the body.
    pub fn cut_at(self, length: usize) -> Self {
        Self { end: End::CutAt(length), ..self }
    }

    /// Nothing comes after so many bytes of the body.
    pub fn stall_at(self, length: usize) -> Self {
        Self { end: End::StallAt(length), ..self }
    }

    /// The body is repeated until nobody listens.
    pub fn endless(self) -> Self {
        Self { end: End::Never, ..self }
    }
}

/// How much of a request's body is read before the connection is cut; None for all.
type Greed = Arc<dyn Fn(&Request) -> Option<usize> + Send + Sync>;

pub struct Fake {
    pub address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_greedy(answer, Arc::new(|_| None))
    }

    /// `greed` may cut connections while a body comes in; the request is logged with what was read.
    pub fn start_greedy(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static, greed: Greed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self { address: listener.local_addr().unwrap().to_string(), log: Arc::default() };
        let (log, answer) = (fake.log.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answer, greed) = (log.clone(), answer.clone(), greed.clone());
                thread::spawn(move || serve(stream, &log, &*answer, &greed));
            }
        });
        fake
    }

    /// Every request but the question for the scheme.
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|request| request.path != "/v2/").cloned().collect()
    }

    /// Their first lines.
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Answer, greed: &Greed) {
    let Some(mut request) = read_request_head(&mut stream) else { return };
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    let wanted = greed(&request).map_or(length, |limit| limit.min(length));
    request.body = vec![0; wanted];
    request.complete = wanted == length && stream.read_exact(&mut request.body).is_ok();
    if wanted < length {
        let _ = stream.read_exact(&mut request.body);
        answer(&request);
        log.lock().unwrap().push(request);
        return;
    }
    let answer = if request.path == "/v2/" { Answer::new(200, "{}") } else { answer(&request) };
    let head_only = request.method == "HEAD";
    log.lock().unwrap().push(request);
    let _ = write_answer(&mut stream, &answer, head_only);
}

fn write_answer(stream: &mut TcpStream, answer: &Answer, head_only: bool) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {} Because\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if answer.end == End::Never {
        write!(stream, "\r\n")?;
        loop {
            stream.write_all(&answer.body)?;
        }
    }
    write!(stream, "Content-Length: {}\r\n\r\n", answer.body.len())?;
    if head_only {
        return Ok(());
    }
    match answer.end {
        End::CutAt(length) => stream.write_all(&answer.body[..length]),
        End::StallAt(length) => {
            stream.write_all(&answer.body[..length])?;
            thread::sleep(Duration::from_secs(5));
            Ok(())
        }
        _ => stream.write_all(&answer.body),
    }
}

fn read_request_head(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        // A TLS hello.
        if !head[0].is_ascii_uppercase() {
            return None;
        }
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Some(Request { method, path, headers: headers.collect(), body: Vec::new(), complete: false, came: Instant::now() })
}
