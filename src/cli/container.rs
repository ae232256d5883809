//! A container in the foreground: its streams or terminal are ours, signals are passed on, its exit code is ours.
//! Unaware of where its root filesystem comes from.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    build::chain,
    cli::{failure::Failure, terminal::Terminal},
    sandbox::{self, Attached, InitError, RunError, Spec},
};

/// rbuild could not do its part (docker's code for it).
pub const EXIT_NOT_STARTED: u8 = 125;

/// Runs it to its end.
pub fn attach(runtime: &Runtime, spec: &Spec, wants_terminal: bool) -> Result<ExitCode, Failure> {
    let opened = match wants_terminal {
        true => Some(Terminal::open().map_err(|error| not_started(format!("no terminal: {error}")))?),
        false => None,
    };
    let (terminal, attached) = opened.map_or((None, Attached::Streams), |(terminal, theirs)| (Some(terminal), Attached::Terminal(theirs)));
    let keeper = Arc::new(AtomicI32::new(0));
    pass_signals_on(runtime, &keeper)?;
    if let Some(terminal) = &terminal {
        follow_size(runtime, terminal.resizer())?;
    }
    let ended = sandbox::run_attached(spec, attached, None, |pid| keeper.store(pid.as_raw(), Ordering::SeqCst));
    keeper.store(0, Ordering::SeqCst);
    // What it wrote last is shown, and our terminal is as it was, before anything else is said.
    drop(terminal);
    let exit = ended.map_err(|error| match &error {
        RunError::Init(InitError::Exec { code, .. }) => Failure { exit_code: *code as u8, ..Failure::new(chain(&error)) },
        _ => not_started(chain(&error)),
    })?;
    Ok(ExitCode::from(exit.code as u8))
}

/// A failure with docker's exit code for it.
pub fn not_started(message: impl Into<String>) -> Failure {
    Failure { exit_code: EXIT_NOT_STARTED, ..Failure::new(message) }
}

fn pass_signals_on(runtime: &Runtime, keeper: &Arc<AtomicI32>) -> Result<(), Failure> {
    let passed = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];
    for number in passed {
        let keeper = keeper.clone();
        on_signal(runtime, number, move || match keeper.load(Ordering::SeqCst) {
            0 => {}
            pid => drop(kill(Pid::from_raw(pid), number)),
        })?;
    }
    Ok(())
}

fn follow_size(runtime: &Runtime, resize: impl Fn() + Send + 'static) -> Result<(), Failure> {
    on_signal(runtime, Signal::SIGWINCH, resize)
}

fn on_signal(runtime: &Runtime, number: Signal, act: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let _context = runtime.enter();
    let listening = signal(SignalKind::from_raw(number as i32));
    let mut stream = listening.map_err(|error| not_started(format!("cannot listen for signals: {error}")))?;
    runtime.spawn(async move {
        while stream.recv().await.is_some() {
            act();
        }
    });
    Ok(())
}
