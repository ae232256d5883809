//! Arguments, printers, exit codes; the only room that prints, reads the environment or knows HOME.

mod annotations;
mod args;
mod build;
mod call;
mod container;
mod contexts;
mod environment;
mod failure;
mod lint;
mod login;
mod outputs;
mod parse;
mod ports;
mod progress;
mod push;
mod request;
mod run;
mod services;
mod terminal;
mod write;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};
use failure::{EXIT_USAGE, Failure};

/// The whole program. Call it first thing in `main`, while there is one thread.
pub fn main() -> ExitCode {
    crate::sandbox::init_if_asked();
    let words = args::with_default_verb(std::env::args_os().collect());
    let is_run = words.get(1).is_some_and(|verb| verb == "run");
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, and successes to the shell.
            let _ = error.print();
            let usage = if is_run { container::EXIT_NOT_STARTED } else { EXIT_USAGE };
            return if error.use_stderr() { ExitCode::from(usage) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match &cli.verb {
        Verb::Build(args) => build::build(&cli, args),
        Verb::Parse(args) => parse::parse(args),
        Verb::Run(args) => run::run(&cli, args),
        Verb::Images(args) => build::images(&cli, args),
        Verb::Push(args) => push::push(&cli, args),
        Verb::Login(args) => login::login(args),
        Verb::Logout(args) => login::logout(args),
    }
}
