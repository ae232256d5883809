//! How a step ended, and what goes wrong on the way; also the messages of RUN's init to rbuild.
//! Unaware of how processes are made.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

/// How the step's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel's out-of-memory killer was at work: on a process of the step, or this one was killed meanwhile.
    pub out_of_memory: bool,
    /// Largest use of memory by the step as a whole, where that is counted.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// It was refused a new process for its limit of these.
    #[serde(default)]
    pub out_of_pids: bool,
    /// Largest resident set.
    pub max_rss_kb: u64,
    /// User time.
    pub user_us: u64,
    /// System time.
    pub system_us: u64,
}

/// Why a step could not be run or had no proper end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// RUN's init could not be started.
    #[error("cannot start the sandbox")]
    Start(#[source] io::Error),
    /// RUN's init broke off.
    #[error(transparent)]
    Init(#[from] InitError),
    /// RUN's init ended without a word.
    #[error("the sandbox ended without an answer ({0})")]
    Silent(String),
    /// It took longer than allowed.
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// The caller asked for the end.
    #[error("cancelled")]
    Cancelled,
}

/// Why RUN's init broke off; crosses the process boundary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InitError {
    /// A call was refused while the sandbox was set up.
    #[error("sandbox: cannot {doing}: {reason}")]
    Setup {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        reason: String,
        /// The error number, where there is one.
        errno: Option<i32>,
    },
    /// The user of the step is unknown.
    #[error("{0}")]
    User(String),
    /// The program cannot be executed; the code is the one a shell would give (126, 127).
    #[error("{message}")]
    Exec {
        /// The sentence.
        message: String,
        /// 127: not found, 126: not executable.
        code: i32,
    },
    /// A mount could not be made.
    #[error("cannot mount {target}: {reason}")]
    Mount {
        /// Path inside.
        target: String,
        /// What went wrong.
        reason: String,
    },
    /// A kernel path is not on the file system that it should be on.
    #[error("sandbox: {path} is not the kernel's own")]
    Disguised {
        /// Path inside.
        path: String,
    },
}

/// Adds to a kernel error what was being done.
pub trait During<T> {
    /// `doing` completes "cannot ..".
    fn during(self, doing: &str) -> Result<T, InitError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, doing: &str) -> Result<T, InitError> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            InitError::Setup { doing: doing.to_owned(), reason: error.to_string(), errno: error.raw_os_error() }
        })
    }
}

/// What RUN's init says to rbuild, one JSON text per line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The step's process ended.
    Exited(Exit),
    /// It was never started.
    Failed(InitError),
    /// RUN's init ended in this way.
    Died(String),
}
