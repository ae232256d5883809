//! `rbuild shell STEP|IMAGE` and `--on-error`: a shell where a step failed, or in an image; one is lent where there is none.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use clap::Args;
use tokio::runtime::Runtime;

use crate::{
    build::{self, BuildError, FailedRun, Services, SourceOptions, chain},
    cli::{
        absent,
        args::{BuildArgs, Cli},
        container,
        failure::Failure,
        find,
        progress::Place,
        services,
    },
    sandbox::{Mount, MountKind, Source, Spec},
    snapshot::layered::{LayeredRoot, Lower},
    store::SnapshotDraft,
    sys::root::RootDir,
};

/// Shells that images have, the more comfortable first.
const SHELLS: [&str; 3] = ["/bin/bash", "/bin/ash", "/bin/sh"];

/// Where a shell is lent to. Its own name decides what busybox does.
const LENT: &str = "/dev/.rbuild/busybox";

/// Makes the lent shell's other commands callable, behind those of the image, and becomes the shell.
const LENT_START: &str =
    "b=/dev/.rbuild/busybox d=/dev/shm/.rbuild-commands; $b mkdir -p $d && $b --install -s $d; PATH=$PATH:$d exec $b ash";

/// `rbuild shell`.
#[derive(Debug, Args, Clone)]
pub struct ShellArgs {
    /// Number or part of the name of a step that failed, or an image [default: the step that failed last]
    #[arg(value_name = "STEP|IMAGE", add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::places))]
    pub place: Option<String>,
    /// Command instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// List the failed steps that can be entered
    #[arg(long)]
    pub list: bool,
    /// Copy a file or directory out of it instead
    #[arg(long = "copy", value_name = "PATH:DEST")]
    pub copies: Vec<String>,
}

/// `rbuild shell`.
pub fn shell(cli: &Cli, args: &ShellArgs) -> Result<ExitCode, Failure> {
    let copies = args.copies.iter().map(|text| Copy::parse("--copy", text)).collect::<Result<Vec<_>, _>>()?;
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, SourceOptions::default())?;
    let runtime = services::runtime()?;
    let failed = FailedRun::all(&services.store).map_err(Failure::from)?;
    if args.list {
        failed.iter().for_each(|run| println!("{:>3}  {}", run.step, run.name.lines().next().unwrap_or_default()));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = args.place.as_deref().unwrap_or_default();
    let number = wanted.trim_start_matches('#').parse::<usize>().ok();
    let is_it = |run: &&FailedRun| wanted.is_empty() || number == Some(run.step) || (number.is_none() && run.name.contains(wanted));
    match failed.iter().find(is_it) {
        Some(run) if !copies.is_empty() => copy_all(run, &copies).map(|()| ExitCode::SUCCESS),
        Some(run) => enter_step(run, &args.command, &services, &runtime),
        None if wanted.is_empty() || number.is_some() => Err(Failure::new("no such failed step is kept")
            .with_hint("`rbuild shell --list` shows those that are; an image can be entered too")),
        None => enter_image(wanted, &args.command, &services, &runtime),
    }
}

/// One `PATH:DEST`.
pub struct Copy {
    path: String,
    destination: PathBuf,
}

impl Copy {
    /// Reads it.
    pub fn parse(flag: &str, text: &str) -> Result<Self, Failure> {
        match text.rsplit_once(':') {
            Some((path, destination)) if !path.is_empty() && !destination.is_empty() => {
                let destination = std::path::absolute(destination).map_err(|error| Failure::new(format!("{flag} {text}: {error}")))?;
                Ok(Self { path: path.to_owned(), destination: if text.ends_with('/') { destination.join("") } else { destination } })
            }
            _ => Err(Failure::usage(format!("{flag} {text}: expected PATH:DEST")).with_hint("such as /src/reports:./reports")),
        }
    }
}

/// What a build does when a RUN fails.
pub struct OnError {
    copies: Vec<Copy>,
    enters: bool,
    run: Mutex<Option<Arc<FailedRun>>>,
}

impl OnError {
    /// As the flags say.
    pub fn of(args: &BuildArgs) -> Result<Self, Failure> {
        let copies = args.on_error_copy.iter().map(|text| Copy::parse("--on-error-copy", text)).collect::<Result<Vec<_>, _>>()?;
        let enters = match args.on_error.as_str() {
            "end" => false,
            "shell" => true,
            other => return Err(Failure::usage(format!("--on-error {other} is unknown")).with_hint("end or shell")),
        };
        Ok(Self { copies, enters, run: Mutex::default() })
    }

    /// Takes what the error leads to.
    pub fn remember(&self, error: &BuildError) {
        *self.run.lock().expect("no holder panics") = error.failed_run.clone();
    }

    /// Brings files out and opens the shell. The build's failure stays what it was.
    pub fn act(&self, failure: Failure, services: &Services) -> Failure {
        let Some(run) = self.run.lock().expect("no holder panics").take() else { return failure };
        if let Err(error) = copy_all(&run, &self.copies) {
            eprintln!("{}", error.render(false));
        }
        if !self.enters {
            return failure.with_hint(format!("look around where it failed: rbuild shell {}", run.step));
        }
        eprintln!("{}", failure.render(Place::here().colour()));
        let entered = services::runtime().and_then(|runtime| enter_step(&run, &[], services, &runtime));
        if let Err(error) = entered {
            eprintln!("{}", error.render(false));
        }
        failure
    }
}

/// Brings files out; what is missing is told, and the others are still brought.
pub fn copy_all(run: &FailedRun, copies: &[Copy]) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for copy in copies {
        // Relative paths are below the step's own directory.
        let path = Path::new(run.directory()).join(&copy.path);
        match build::copy_out(run, &path.to_string_lossy(), &copy.destination) {
            Ok(target) => eprintln!("copied {} to {}", path.display(), target.display()),
            Err(error) => missing.push(format!("cannot copy {}: {error}", path.display())),
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::new(missing.join("; "))) }
}

/// Opens a shell where the step failed.
pub fn enter_step(run: &FailedRun, command: &[String], services: &Services, runtime: &Runtime) -> Result<ExitCode, Failure> {
    let draft = services.store.new_snapshot().map_err(|error| Failure::new(chain(&error)))?;
    let mut spec = run.spec(Vec::new(), &draft).map_err(Failure::from)?;
    if command.is_empty() {
        eprintln!("step {}: {}", run.step, run.name.lines().next().unwrap_or_default());
        eprintln!("the command that failed: {}", quoted(run.command()));
        run.left_out.iter().for_each(|what| eprintln!("missing here: {what}"));
    }
    let layers = run.layers().to_vec();
    start(&mut spec, command, &layers, runtime)
}

fn enter_image(name: &str, command: &[String], services: &Services, runtime: &Runtime) -> Result<ExitCode, Failure> {
    let (manifest, image) = find::image(&services.store, name, None)?;
    let lowers = runtime.block_on(absent::unpack(&manifest, &image, services))?;
    super::run::emulate(&image.platform, services, runtime)?;
    let draft: SnapshotDraft = services.store.new_snapshot().map_err(|error| Failure::new(chain(&error)))?;
    let config = &image.config.config;
    let env = config.env.iter().filter_map(|text| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut spec = Spec {
        env: env.collect(),
        cwd: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
        user: config.user.clone(),
        hostname: "rbuild".to_owned(),
        network: crate::sandbox::Network::Host,
        ..Spec::default()
    };
    build::make_writable(&mut spec, &draft, &lowers).map_err(Failure::from)?;
    start(&mut spec, command, &lowers, runtime)
}

/// Starts the command, or the shell that there is, or one that is lent.
fn start(spec: &mut Spec, command: &[String], layers: &[PathBuf], runtime: &Runtime) -> Result<ExitCode, Failure> {
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if has_terminal && let Ok(term) = std::env::var("TERM") {
        spec.env.retain(|(name, _)| name != "TERM");
        spec.env.push(("TERM".to_owned(), term));
    }
    spec.args = match (command.is_empty(), find_shell(layers)) {
        (false, _) => command.to_vec(),
        (true, Some(shell)) => vec![shell.to_owned()],
        (true, None) => lend_shell(spec)?,
    };
    container::attach(runtime, spec, has_terminal)
}

fn find_shell(layers: &[PathBuf]) -> Option<&'static str> {
    let opened = layers.iter().map(|path| RootDir::open(path).map(Lower::Directory)).collect::<Result<Vec<_>, _>>().ok()?;
    let root = LayeredRoot::read_only(opened).ok()?;
    let is_program = |path: &&&str| root.stat(Path::new(path), true).ok().flatten().is_some_and(|found| found.mode & 0o111 != 0);
    SHELLS.iter().find(is_program).copied()
}

/// Mounts this machine's static busybox where nothing of the image's is.
fn lend_shell(spec: &mut Spec) -> Result<Vec<String>, Failure> {
    let places = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static", "/usr/local/bin/busybox"];
    let Some(found) = places.iter().map(Path::new).find(|path| is_static(path)) else {
        return Err(Failure::new("the image has no shell, and there is no static busybox here to lend it")
            .with_hint("install one (package `busybox-static`), or name a program of the image"));
    };
    let found = found.canonicalize().map_err(|error| Failure::new(format!("{}: {error}", found.display())))?;
    let (parent, name) = (found.parent().unwrap_or(Path::new("/")), found.file_name().unwrap_or_default());
    let kind = MountKind::Bind { source: Source::Directory(parent.to_owned()), subpath: PathBuf::from(name), read_only: true };
    spec.mounts.push(Mount { target: PathBuf::from(LENT), kind });
    eprintln!("the image has no shell: busybox is lent");
    Ok([LENT, "ash", "-c", LENT_START].map(str::to_owned).to_vec())
}

/// Whether it is a program that needs no loader.
fn is_static(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    bytes.starts_with(b"\x7fELF") && !bytes.windows(8).take(4096).any(|part| part == b"/ld-linu" || part == b"/ld-musl")
}

/// As it could be typed into a shell.
fn quoted(args: &[String]) -> String {
    let quote = |word: &String| {
        let is_plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte));
        if is_plain { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_for_a_shell() {
        let words = ["/bin/sh", "-c", "echo 'a' > b", ""].map(str::to_owned);
        assert_eq!(quoted(&words), "/bin/sh -c 'echo '\\''a'\\'' > b' ''");
    }

    #[test]
    fn copies_need_both_sides() {
        assert!(Copy::parse("--copy", "/a:b").is_ok());
        assert!(["/a", ":b", "/a:", ""].iter().all(|text| Copy::parse("--copy", text).is_err()));
        assert!(Copy::parse("--copy", "/a:out/").unwrap().destination.as_os_str().as_encoded_bytes().ends_with(b"/"));
    }
}
