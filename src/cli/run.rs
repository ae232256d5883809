//! `rbuild run`: an image of the store, started in the sandbox with our own terminal.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use crate::{
    build::{self, Silent, chain},
    cli::{
        args::{Cli, RunArgs},
        failure::Failure,
        request, services,
    },
    oci::{Digest, Platform, Reference},
    plan::NetworkMode,
    sandbox::{self, RootFs, Spec, Stdio},
};

/// Runs the image's command, or the one given, and passes its exit code on.
pub fn run(cli: &Cli, args: &RunArgs) -> Result<ExitCode, Failure> {
    let entered = services::enter()?;
    let services = services::services(cli, &entered, crate::build::SourceOptions::default())?;
    let runtime = services::runtime()?;
    let image = find(&services.store, &args.image)?;
    let config = &image.config.config;
    let progress: Arc<dyn build::Progress> = Arc::new(Silent);
    let lowers = runtime.block_on(build::unpack_image(&image, &services, &progress)).map_err(|error| Failure::new(error.message))?;
    let draft = services.store.new_snapshot().map_err(|error| Failure::new(chain(&error)))?;
    let spec = Spec {
        rootfs: RootFs::Overlay { lowers, upper: draft.fs(), work: draft.work(), volatile: true },
        args: command(args, config)?,
        env: variables(args, config),
        cwd: working_directory(args, config),
        user: args.user.clone().unwrap_or_else(|| config.user.clone()),
        mounts: volumes(args)?,
        hostname: "rbuild".to_owned(),
        network: match request::network(&args.network)? {
            NetworkMode::Default => sandbox::Network::Default,
            NetworkMode::None => sandbox::Network::None,
            NetworkMode::Host => sandbox::Network::Host,
        },
        stdio: Stdio::Inherit,
        ..Spec::default()
    };
    let exit = sandbox::run(&spec, None, |_, _| ()).map_err(|error| match &error {
        sandbox::RunError::Init(sandbox::InitError::Exec { code, .. }) => Failure { exit_code: *code as u8, ..Failure::new(chain(&error)) },
        _ => Failure { exit_code: 125, ..Failure::new(chain(&error)) },
    })?;
    Ok(ExitCode::from(exit.code as u8))
}

fn find(store: &crate::store::Store, name: &str) -> Result<crate::oci::Image, Failure> {
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    let platform = Platform::host();
    let descriptor = match name.parse::<Digest>() {
        Ok(digest) => Some(crate::oci::Descriptor::new(crate::oci::media_type::OCI_MANIFEST, digest, 0)),
        Err(_) => {
            let reference: Reference = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            store.resolve(&reference).map_err(fail)?
        }
    };
    let descriptor = descriptor.ok_or_else(|| {
        Failure::new(format!("the store has no image {name}")).with_hint("`rbuild images` lists them; `rbuild -t NAME` builds one")
    })?;
    store.image(&descriptor, &platform).map_err(fail)
}

fn command(args: &RunArgs, config: &crate::oci::ContainerConfig) -> Result<Vec<String>, Failure> {
    let mut words = match &args.entrypoint {
        Some(program) => vec![program.clone()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    match (args.command.is_empty(), &args.entrypoint) {
        (false, _) => words.extend(args.command.iter().cloned()),
        (true, None) => words.extend(config.cmd.clone().unwrap_or_default()),
        (true, Some(_)) => {}
    }
    if words.is_empty() {
        return Err(Failure::new("the image has neither ENTRYPOINT nor CMD").with_hint("say what to run: rbuild run IMAGE COMMAND"));
    }
    Ok(words)
}

fn variables(args: &RunArgs, config: &crate::oci::ContainerConfig) -> Vec<(String, String)> {
    let split = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut list: Vec<(String, String)> = config.env.iter().filter_map(split).collect();
    let ours = ["TERM"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let given = args.env.iter().filter_map(|text| split(text).or_else(|| Some((text.clone(), std::env::var(text).ok()?))));
    for (name, value) in ours.chain(given) {
        list.retain(|(known, _)| *known != name);
        list.push((name, value));
    }
    list
}

fn working_directory(args: &RunArgs, config: &crate::oci::ContainerConfig) -> String {
    let wanted = args.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
    if wanted.is_empty() { "/".to_owned() } else { wanted }
}

fn volumes(args: &RunArgs) -> Result<Vec<sandbox::Mount>, Failure> {
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
        let source = std::path::absolute(source).map_err(|error| Failure::new(format!("--volume {text}: {error}")))?;
        let parent = source.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let name = source.file_name().map_or_else(PathBuf::new, PathBuf::from);
        let kind = sandbox::MountKind::Bind { source: sandbox::Source::Directory(parent), subpath: name, read_only };
        Ok(sandbox::Mount { target: PathBuf::from(target), kind })
    };
    args.volumes.iter().map(read).collect()
}
