//! A server of another program, on loopback.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The running server. Its shell waits for our end of a pipe to close, so that it never outlives the tests.
pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    _alive: ChildStdin,
    _child: Child,
}

impl Server {
    /// Runs a shell command with arguments that says `http://ADDRESS` once it listens; None if there is no such command.
    pub fn start(command: &str, arguments: &[&str]) -> Option<Self> {
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
