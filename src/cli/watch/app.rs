//! The container of `rbuild watch --run`: started from what a build has made, ended before the next. Unaware of builds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::oneshot;

use crate::{
    build::chain,
    cli::failure::Failure,
    sandbox::{self, Attached, Cancel, Exit, RunError, Spec},
    store::SnapshotDraft,
};

/// As long as an app may take to end (docker's time).
const PATIENCE: Duration = Duration::from_secs(10);

/// What [`sandbox::run_attached`] says.
pub type Ended = Result<Exit, RunError>;

/// A container that runs. Dropped, it is killed.
pub struct App {
    keeper: Arc<AtomicI32>,
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Ended>,
}

impl App {
    /// Starts it; `draft` takes what it writes, and goes with it.
    pub fn start(spec: Spec, draft: SnapshotDraft) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("cannot start the container: {error}"));
        let cancel = Cancel::new().map_err(failed)?;
        let keeper = Arc::new(AtomicI32::new(0));
        let (tell, ended) = oneshot::channel();
        let (theirs, switch) = (keeper.clone(), cancel.clone());
        let work = move || {
            let result = sandbox::run_attached(&spec, Attached::Outputs, Some(&switch), |pid| theirs.store(pid.as_raw(), Ordering::SeqCst));
            theirs.store(0, Ordering::SeqCst);
            drop(draft);
            let _ = tell.send(result);
        };
        let thread = std::thread::Builder::new().name("container".into()).spawn(work).map_err(failed)?;
        Ok(Self { keeper, cancel, thread: Some(thread), ended })
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.ended).await.unwrap_or(Err(RunError::Cancelled))
    }

    /// Asks it to end, and ends it when it does not.
    pub async fn stop(mut self) {
        // Before it has begun there is nobody to ask.
        match self.keeper.load(Ordering::SeqCst) {
            0 => self.cancel.cancel(),
            pid => drop(kill(Pid::from_raw(pid), Signal::SIGTERM)),
        }
        if tokio::time::timeout(Duration::from_secs(1), self.ended()).await.is_ok() {
            return;
        }
        eprintln!("waiting for the app to end");
        if tokio::time::timeout(PATIENCE, self.ended()).await.is_err() {
            eprintln!("it does not end on SIGTERM: killed");
            self.cancel.cancel();
            let _ = self.ended().await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How it ended, for people.
pub fn sentence(ended: &Ended) -> String {
    match ended {
        Ok(exit) => match exit.signal {
            Some(signal) => format!("the app was ended by signal {signal}"),
            None => format!("the app ended with exit code {}", exit.code),
        },
        Err(error) => format!("the app did not start: {}", chain(error)),
    }
}
