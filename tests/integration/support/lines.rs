//! The lines that a program writes while it runs, waited for one by one.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a pipe, read by a thread.
pub struct Lines {
    received: Receiver<String>,
    /// All that have come, for the message of a test that fails and for looking back.
    pub seen: Vec<String>,
}

impl Lines {
    /// Of this pipe, from now on.
    pub fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (tell, received) = channel();
        std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Lines { received, seen: Vec::new() }
    }

    /// Waits for the next line that has this text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self.received.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with {text:?} came:\n{}", self.seen.join("\n"));
    }
}
