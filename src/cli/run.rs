//! `rbuild run`: an image of the store, started in the sandbox with our own terminal.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use tokio::runtime::Runtime;

use crate::{
    build::{self, Services, Silent, chain},
    cli::{
        absent,
        args::{Cli, ContainerArgs, RunArgs},
        container::{self, EXIT_NOT_STARTED},
        failure::Failure,
        find, ports, request, services,
    },
    oci::Platform,
    plan::NetworkMode,
    sandbox::{self, DefaultNetwork, Network, Published, Rung, Spec},
};

/// Runs the image's command, or the one given, and passes its exit code on.
pub fn run(cli: &Cli, args: &RunArgs) -> Result<ExitCode, Failure> {
    // docker's code for everything that is not the container's own.
    start(cli, args).map_err(|failure| Failure { exit_code: failure.exit_code.max(EXIT_NOT_STARTED), ..failure })
}

fn start(cli: &Cli, args: &RunArgs) -> Result<ExitCode, Failure> {
    if args.detach {
        return Err(Failure::usage("--detach is not possible: there is no daemon that would keep the container")
            .with_hint("start it in the background: `rbuild run IMAGE &`, or `systemd-run --user rbuild run IMAGE`"));
    }
    let options = Options::of(&args.container)?;
    let entered = services::enter(cli)?;
    options.check(entered.rung)?;
    let services = services::services(cli, &entered, crate::build::SourceOptions::default())?;
    let runtime = services::runtime()?;
    let (manifest, image) = find::image(&services.store, &args.image, args.platform.as_deref())?;
    let lowers = runtime.block_on(absent::unpack(&manifest, &image, &services))?;
    emulate(&image.platform, &services, &runtime)?;
    let draft = services.store.new_snapshot().map_err(|error| Failure::new(chain(&error)))?;
    let wanted = args.network.as_deref().map(request::network).transpose()?;
    let network = options.network(wanted)?;
    let mut spec = options.spec(&image.config.config, &args.command, network)?;
    if args.tty && !spec.env.iter().any(|(name, _)| name == "TERM") {
        spec.env.push(("TERM".to_owned(), std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned())));
    }
    build::make_writable(&mut spec, &draft, &lowers).map_err(Failure::from)?;
    container::attach(&runtime, &spec, args.tty)
}

/// Makes an image's programs runnable. It may run programs of this machine alone, and then nothing is missing.
pub fn emulate(platform: &Platform, services: &Services, runtime: &Runtime) -> Result<(), Failure> {
    let progress: Arc<dyn build::Progress> = Arc::new(Silent);
    let prepared = runtime.block_on(build::prepare_emulation(platform, build::StepId(0), services, &progress));
    if let Some(missing) = prepared.map_err(Failure::from)?.filter(|missing| !missing.is_uncertain) {
        eprintln!("warning: {missing}");
        missing.fix.iter().for_each(|fix| eprintln!("hint: {fix}"));
    }
    Ok(())
}

/// What a container gets, read and checked.
pub struct Options {
    args: ContainerArgs,
    ports: Vec<Published>,
    mounts: Vec<sandbox::Mount>,
    /// Of `--env-file` and `--env`, in order.
    variables: Vec<(String, String)>,
}

impl Options {
    /// Reads the flags.
    pub fn of(args: &ContainerArgs) -> Result<Self, Failure> {
        Ok(Self {
            ports: args.publish.iter().map(|text| ports::parse(text)).collect::<Result<_, _>>()?,
            mounts: volumes(args)?,
            variables: variables(args)?,
            args: args.clone(),
        })
    }

    /// Whether they can be had on this rung.
    pub fn check(&self, rung: Rung) -> Result<(), Failure> {
        let writes_outside = |mount: &sandbox::Mount| matches!(mount.kind, sandbox::MountKind::Bind { read_only: false, .. });
        if rung == Rung::Chroot && self.mounts.iter().any(writes_outside) {
            return Err(Failure::new("--volume: nothing can be mounted here (the `chroot` rung), so that what is written would be lost")
                .with_hint("SOURCE:TARGET:ro gives the container a copy"));
        }
        Ok(())
    }

    /// The host's network, unless ports are published: then a private one that they lead into. Asked once for all
    /// containers of this program.
    pub fn network(&self, wanted: Option<NetworkMode>) -> Result<Network, Failure> {
        if self.ports.is_empty() {
            return Ok(match wanted {
                Some(NetworkMode::Default) => Network::Default,
                Some(NetworkMode::None) => Network::None,
                Some(NetworkMode::Host) | None => Network::Host,
            });
        }
        if matches!(wanted, Some(NetworkMode::None | NetworkMode::Host)) {
            return Err(Failure::usage("--publish needs the container to have a network of its own").with_hint("leave --network out"));
        }
        let are_the_same = self.ports.iter().all(|port| port.host_port == port.port);
        for port in &self.ports {
            eprintln!("port {} of the container is port {} here", port.port, port.host_port);
        }
        sandbox::publish(self.ports.clone());
        match sandbox::default_network() {
            DefaultNetwork::Private { .. } => Ok(Network::Default),
            DefaultNetwork::Host { reason } if are_the_same => {
                eprintln!("warning: {reason}: the container shares the host's network");
                Ok(Network::Host)
            }
            DefaultNetwork::Host { reason } => {
                Err(Failure::new(format!("ports can't be published: {reason}"))
                    .with_hint("install pasta (package `passt`), or free the port"))
            }
        }
    }

    /// The container of an image, without a root filesystem yet.
    pub fn spec(&self, config: &crate::oci::ContainerConfig, command: &[String], network: Network) -> Result<Spec, Failure> {
        let args = &self.args;
        let split = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut env: Vec<(String, String)> = config.env.iter().filter_map(split).collect();
        for (name, value) in &self.variables {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        let cwd = args.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
        Ok(Spec {
            args: words(args, command, config)?,
            env,
            cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
            user: args.user.clone().unwrap_or_else(|| config.user.clone()),
            mounts: self.mounts.clone(),
            hostname: args.hostname.clone().unwrap_or_else(|| "rbuild".to_owned()),
            network,
            ..Spec::default()
        })
    }
}

fn words(args: &ContainerArgs, command: &[String], config: &crate::oci::ContainerConfig) -> Result<Vec<String>, Failure> {
    let mut words = match &args.entrypoint {
        Some(program) => vec![program.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    match (command.is_empty(), &args.entrypoint) {
        (false, _) => words.extend(command.iter().cloned()),
        (true, None) => words.extend(config.cmd.clone().unwrap_or_default()),
        (true, Some(_)) => {}
    }
    if words.is_empty() {
        return Err(Failure::new("the image has neither ENTRYPOINT nor CMD").with_hint("say what to run: rbuild run IMAGE COMMAND"));
    }
    Ok(words)
}

fn variables(args: &ContainerArgs) -> Result<Vec<(String, String)>, Failure> {
    let split = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let ours = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
    let mut given: Vec<(String, String)> = Vec::new();
    for file in &args.env_files {
        let text = std::fs::read_to_string(file).map_err(|error| Failure::new(format!("--env-file {}: {error}", file.display())))?;
        let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        given.extend(lines.filter_map(|line| split(line).or_else(|| ours(line))));
    }
    given.extend(args.env.iter().filter_map(|text| split(text).or_else(|| ours(text))));
    Ok(given)
}

fn volumes(args: &ContainerArgs) -> Result<Vec<sandbox::Mount>, Failure> {
    let read = |text: &String| {
        let mut parts = text.split(':');
        let (Some(source), Some(target), option, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Failure::usage(format!("--volume {text}: expected SOURCE:TARGET[:ro]")));
        };
        let read_only = match option {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(other) => return Err(Failure::usage(format!("--volume {text}: unknown option `{other}`"))),
        };
        if !std::path::Path::new(source).exists() {
            return Err(Failure::new(format!("--volume {text}: {source} is not there"))
                .with_hint("the source is a file or directory of this machine; make it first"));
        }
        let source = std::path::absolute(source).map_err(|error| Failure::new(format!("--volume {text}: {error}")))?;
        let parent = source.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let name = source.file_name().map_or_else(PathBuf::new, PathBuf::from);
        let kind = sandbox::MountKind::Bind { source: sandbox::Source::Directory(parent), subpath: name, read_only };
        Ok(sandbox::Mount { target: PathBuf::from(target), kind })
    };
    args.volumes.iter().map(read).collect()
}
