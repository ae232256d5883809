//! `rbuild kaniko`: the command line of kaniko's executor, for pipelines that move. Its words become those of a build;
//! how a build works is `build`'s business.

mod flags;
mod translate;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser};
use serde_json::Value;

use crate::{
    build::chain,
    cli::{
        args::{Cli, Verb},
        build,
        failure::Failure,
    },
    export::{self, FileDestination},
};
use flags::Executor;
use translate::Translated;

/// Where kaniko's image keeps logins, and where pipelines therefore write them.
const LOGINS: &str = "/kaniko/.docker/config.json";

/// `rbuild kaniko`.
#[derive(Debug, Args, Clone)]
#[command(disable_help_flag = true)]
pub struct KanikoArgs {
    /// Flags of /kaniko/executor; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub words: Vec<String>,
}

/// Builds what kaniko's flags say and writes the files that they ask for.
pub fn kaniko(cli: &Cli, args: &KanikoArgs) -> Result<ExitCode, Failure> {
    let (words, idle) = flags::without_idle(&args.words)?;
    let executor = match Executor::try_parse_from(std::iter::once("rbuild kaniko".to_owned()).chain(words)) {
        Ok(executor) => executor,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
            return Err(Failure::usage(text));
        }
    };
    let translated = translate::translate(&executor)?;
    if !idle.is_empty() {
        eprintln!("note: nothing here needs {}", idle.join(", "));
    }
    for note in &translated.notes {
        eprintln!("note: {note}");
    }
    run(cli, &executor, translated)
}

fn run(cli: &Cli, executor: &Executor, translated: Translated) -> Result<ExitCode, Failure> {
    let Translated { words, mut registries, stdin, .. } = translated;
    if std::env::var_os("DOCKER_CONFIG").is_none() && Path::new(LOGINS).exists() {
        registries.credentials.push(PathBuf::from(LOGINS));
    }
    if let Some(path) = stdin {
        let fail = |error: std::io::Error| Failure::new(format!("cannot read the context {}: {error}", path.display()));
        let file = std::fs::File::open(&path).map_err(fail)?;
        nix::unistd::dup2_stdin(&file).map_err(|errno| fail(errno.into()))?;
    }
    let metadata = tempfile::NamedTempFile::new().map_err(|error| Failure::new(format!("cannot make a temporary file: {error}")))?;
    let own = ["rbuild", "build", "--metadata-file"].map(str::to_owned).into_iter();
    let words = own.chain([metadata.path().display().to_string()]).chain(words);
    let parsed = Cli::try_parse_from(words).map_err(|error| Failure::usage(error.render().to_string()))?;
    let cli = Cli { store: cli.store.clone(), rung: cli.rung.clone(), registries, ..parsed };
    let Verb::Build(args) = &cli.verb else { unreachable!("the words begin with build") };
    let code = build::build(&cli, args)?;
    if code == ExitCode::SUCCESS {
        write_digests(executor, metadata.path())?;
    }
    Ok(code)
}

/// Writes `--digest-file` and its siblings.
fn write_digests(executor: &Executor, metadata: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(metadata).map_err(|error| Failure::new(format!("cannot read the build's metadata: {error}")))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| Failure::new(format!("the build's metadata: {error}")))?;
    let Some(digest) = metadata["containerimage.digest"].as_str() else { return Ok(()) };
    for (path, text) in executor.digest_files(digest) {
        let fail = |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        // As kaniko's file it may be a link that somebody else has put there.
        export::write_file(FileDestination::Path(path.to_owned()), text.as_bytes()).map_err(|error| Failure::new(chain(&error)))?;
    }
    Ok(())
}
