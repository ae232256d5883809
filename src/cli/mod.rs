//! Arguments, printers, exit codes; the only room that prints, reads the environment or knows HOME.

mod absent;
mod annotations;
mod args;
mod attest;
mod authorities;
mod build;
mod cache;
mod cache_mounts;
mod call;
mod complete;
mod container;
mod contexts;
mod copy;
mod diff;
mod doctor;
mod environment;
mod failure;
mod find;
mod guarded;
mod history;
mod images;
mod index;
mod inspect;
mod kaniko;
mod limits;
mod lint;
mod lock;
mod login;
mod outputs;
mod parse;
mod plan;
mod ports;
mod progress;
mod provenance;
mod push;
mod quality;
mod report;
mod reproducible;
mod request;
mod run;
mod sbom;
mod services;
mod shell;
mod terminal;
mod topics;
mod upkeep;
mod verify;
mod watch;
mod words;
mod write;

use std::process::ExitCode;

use args::{Cli, Verb};
use failure::{EXIT_USAGE, Failure};

/// The whole program. Call it first thing in `main`, while there is one thread.
pub fn main() -> ExitCode {
    crate::sandbox::init_if_asked();
    crate::sys::process::share_heap();
    // Answers a shell that completes, and ends.
    clap_complete::CompleteEnv::with_factory(complete::command).var(complete::VARIABLE).bin("rbuild").complete();
    let words = words::with_default_verb(std::env::args_os().collect());
    let is_run = words.get(1).is_some_and(|verb| verb == "run");
    let cli = match words::parse(&words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, and successes to the shell.
            let _ = error.print();
            if let Some(clap::error::ContextValue::String(flag)) = error.get(clap::error::ContextKind::InvalidArg)
                && let Some(reason) = topics::refused_flag(flag)
            {
                eprintln!("hint: {flag}: {reason}");
            }
            let usage = if is_run { container::EXIT_NOT_STARTED } else { EXIT_USAGE };
            return if error.use_stderr() { ExitCode::from(usage) } else { ExitCode::SUCCESS };
        }
    };
    let code = match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    };
    crate::sandbox::end_server();
    code
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match &cli.verb {
        Verb::Build(args) => build::build(&cli, args),
        Verb::Plan(args) => plan::plan(&cli, args),
        Verb::Parse(args) => parse::parse(args),
        Verb::Help(args) => topics::help(args),
        Verb::Completions(args) => topics::completions(args),
        Verb::Man(args) => topics::man(args),
        Verb::Kaniko(args) => kaniko::kaniko(&cli, args),
        Verb::Watch(args) => watch::watch(&cli, args),
        Verb::Run(args) => run::run(&cli, args),
        Verb::Shell(args) => shell::shell(&cli, args),
        Verb::Images(args) => images::images(&cli, args),
        Verb::Tag(args) => images::tag(&cli, args),
        Verb::Rm(args) => images::remove(&cli, args),
        Verb::Save(args) => images::save(&cli, args),
        Verb::Copy(args) => copy::copy(&cli, args),
        Verb::Inspect(args) => inspect::inspect(&cli, args),
        Verb::History(args) => inspect::history(&cli, args),
        Verb::Sbom(args) => sbom::sbom(&cli, args),
        Verb::Diff(args) => diff::diff(&cli, args),
        Verb::Verify(args) => verify::verify(&cli, args),
        Verb::Index(args) => index::index(&cli, args),
        Verb::Push(args) => push::push(&cli, args),
        Verb::Lock(args) => lock::lock(&cli, args),
        Verb::Cache(args) => cache_mounts::cache(&cli, args),
        Verb::Du(args) => upkeep::du(&cli, args),
        Verb::Prune(args) => upkeep::prune(&cli, args),
        Verb::Fsck(args) => upkeep::fsck(&cli, args),
        Verb::Logs(args) => history::logs(&cli, args),
        Verb::Why(args) => history::why(&cli, args),
        Verb::Report(args) => report::report(&cli, args),
        Verb::Doctor(args) => doctor::doctor(&cli, args),
        Verb::Login(args) => login::login(args),
        Verb::Logout(args) => login::logout(args),
    }
}
