//! A web server on loopback: files of a table, answered as a real server does (HEAD, ETag, Last-Modified, 404, basic
//! refusals), and the repositories of a directory through `git http-backend`. HTTP/1.1, one request per connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A file on the server.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub body: Vec<u8>,
    /// `ETag`, `Last-Modified`.
    pub headers: Vec<(String, String)>,
    /// What the Authorization header must be.
    pub authorization: Option<String>,
}

impl Page {
    pub fn of(body: impl Into<Vec<u8>>) -> Page {
        Page { body: body.into(), ..Page::default() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Page {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Default)]
struct State {
    pages: BTreeMap<String, Page>,
    repositories: Option<PathBuf>,
    seen: Vec<String>,
}

/// The server. Its thread ends with the test process.
#[derive(Clone)]
pub struct Web {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web { address: listener.local_addr().unwrap().to_string(), state: Arc::default() };
        let state = web.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                // A client that goes away in the middle is no fault of the test.
                std::thread::spawn(move || answer(stream, &state).unwrap_or_default());
            }
        });
        web
    }

    pub fn page(&self, path: &str, page: Page) -> &Self {
        self.state.lock().unwrap().pages.insert(path.to_owned(), page);
        self
    }

    /// Serves the repositories in `folder` below `/git/`.
    pub fn repositories(&self, folder: &Path) -> &Self {
        self.state.lock().unwrap().repositories = Some(folder.to_owned());
        self
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `METHOD /path` since the last call.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn read(stream: &TcpStream) -> Option<Asked> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            Some(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        while let Some((name, value)) = line()?.split_once(": ") {
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut asked = Asked { method, target, headers, body: Vec::new() };
        let length = asked.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        reader.take(length).read_to_end(&mut asked.body).ok()?;
        Some(asked)
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(asked) = Asked::read(&stream) else { return Ok(()) };
    let path = asked.target.split('?').next().unwrap_or_default().to_owned();
    let (page, repositories) = {
        let mut state = state.lock().unwrap();
        state.seen.push(format!("{} {path}", asked.method));
        (state.pages.get(&path).cloned(), state.repositories.clone())
    };
    match (page, repositories) {
        (Some(page), _) => write_page(stream, &asked, &page),
        (None, Some(folder)) if path.starts_with("/git/") => write_git(stream, &asked, &path, &folder),
        _ => write(stream, 404, &[], b"there is no such page"),
    }
}

fn write_page(stream: TcpStream, asked: &Asked, page: &Page) -> std::io::Result<()> {
    if page.authorization.is_some() && page.authorization.as_deref() != asked.header("authorization") {
        return write(stream, 401, &[], b"");
    }
    let etag = page.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.as_str());
    if etag.is_some() && asked.header("if-none-match") == etag {
        return write(stream, 304, &page.headers, b"");
    }
    write(stream, 200, &page.headers, if asked.method == "HEAD" { b"" } else { &page.body })
}

fn write(mut stream: TcpStream, status: u16, headers: &[(String, String)], body: &[u8]) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Reply\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

/// The CGI program's own headers, then what it says.
fn write_git(mut stream: TcpStream, asked: &Asked, path: &str, folder: &Path) -> std::io::Result<()> {
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", folder).env("GIT_HTTP_EXPORT_ALL", "1").env("REQUEST_METHOD", &asked.method);
    command
        .env("PATH_INFO", path.trim_start_matches("/git"))
        .env("QUERY_STRING", asked.target.split_once('?').map_or("", |(_, query)| query));
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    command.env("CONTENT_LENGTH", asked.body.len().to_string());
    for (name, variable) in
        [("content-type", "CONTENT_TYPE"), ("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "HTTP_GIT_PROTOCOL")]
    {
        if let Some(value) = asked.header(name) {
            command.env(variable, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().expect("it is piped").write_all(&asked.body)?;
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or(output.len().saturating_sub(4));
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let body = output.get(end + 4..).unwrap_or_default();
    let rest: String = head.lines().filter(|line| !line.starts_with("Status: ")).map(|line| format!("{line}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{rest}\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}
