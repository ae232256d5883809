//! `rbuild lock` and the file that `--locked` reads: `rbuild.lock` beside the Dockerfile; `NAME.lock` for one that is
//! called otherwise.

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use crate::{
    build::{self, Lock},
    cli::{
        args::{BuildArgs, Cli},
        environment,
        failure::Failure,
        request, services,
    },
};

/// Asks the registries and writes the file; says what changed.
pub fn lock(cli: &Cli, args: &BuildArgs) -> Result<ExitCode, Failure> {
    let path = path(args).ok_or_else(|| Failure::usage("a lock file stands beside a Dockerfile, and this context has none on disk"))?;
    let before = read(args)?.unwrap_or_default();
    let request = request::request(args, build::LayerPolicy::default())?;
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, environment::source_options(args.offline, &request.ssh, false)?)?;
    let runtime = services::runtime()?;
    let progress: Arc<dyn build::Progress> = Arc::new(build::Silent);
    let found = services::drive(runtime, &services, async {
        let fail = |error: build::BuildError| Failure::in_dockerfile(&request.dockerfile_name, &request.dockerfile, &error.diagnostic());
        build::lock(&request, &services, &progress).await.map_err(fail)
    })?;
    if found != before || !path.exists() {
        // Whole or not at all, also when we are killed.
        let draft = path.with_extension("lock.new");
        let written = std::fs::write(&draft, found.to_text()).and_then(|()| std::fs::rename(&draft, &path));
        written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    let mut out = std::io::stdout().lock();
    for (name, digest) in found.iter() {
        let mark = match before.iter().find(|(known, _)| *known == name) {
            Some((_, known)) if known == digest => "unchanged",
            Some(_) => "changed",
            None => "new",
        };
        let _ = writeln!(out, "{name} {digest} {mark}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The lock file of the Dockerfile that the arguments name; None where there is none.
pub fn read(args: &BuildArgs) -> Result<Option<Lock>, Failure> {
    let missing = || Failure::new("--locked needs a lock file").with_hint("`rbuild lock` writes it");
    let Some(path) = path(args) else { return if args.locked { Err(missing()) } else { Ok(None) } };
    match std::fs::read_to_string(&path) {
        Ok(text) => Lock::parse(&text).map(Some).map_err(|error| Failure::new(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if args.locked {
                Err(missing())
            } else {
                Ok(None)
            }
        }
        Err(error) => Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    }
}

fn path(args: &BuildArgs) -> Option<PathBuf> {
    let context = PathBuf::from(&args.context);
    let dockerfile = match args.file.as_deref() {
        Some("-") => return None,
        Some(file) if file.contains("://") => return None,
        Some(file) => PathBuf::from(file),
        None if context.is_dir() => context.join("Dockerfile"),
        None => return None,
    };
    let name = dockerfile.file_name()?.to_string_lossy().into_owned();
    let lock = if name == "Dockerfile" || name == "Containerfile" { "rbuild.lock".to_owned() } else { format!("{name}.lock") };
    Some(dockerfile.with_file_name(lock))
}
