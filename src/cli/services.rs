//! What a verb works with: the user namespace, the store, the registry client, the runtime.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    build::{Event, Progress as _, Services, SourceOptions, chain},
    cli::{args::Cli, environment, failure::Failure, write},
    oci::Reference,
    registry::{self, Client, ClientOptions, Configuration, Listener, Notice},
    sandbox::{self, EnterError, Entered, Rung},
    store::Store,
};

/// As long as work that was given up may take to clean up after itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A pause that is told.
const FELT: Duration = Duration::from_secs(1);

/// Enters the user namespace. The first thing a verb does that needs it: there must be one thread.
pub fn enter(cli: &Cli) -> Result<Entered, Failure> {
    let options = sandbox::Options { rung: rung(cli)?, runner: environment::runner() };
    sandbox::enter(&options).map_err(|error| {
        let hint = match &error {
            EnterError::OutOfReach { obstacle, .. } => obstacle.as_ref().map(|gate| gate.to_string()),
            EnterError::Broken(_) => Some("`rbuild doctor` tries every gate on its own".to_owned()),
        };
        hint.into_iter().fold(Failure::new(chain(&error)), Failure::with_hint)
    })
}

/// `--rung`; None is the highest that there is.
pub fn rung(cli: &Cli) -> Result<Option<Rung>, Failure> {
    match cli.rung.as_str() {
        "" | "auto" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Failure::usage(format!("--rung {text} is unknown")).with_hint("auto, full, single, chroot or copy; see `rbuild help rungs`")
        }),
    }
}

/// What a build says of a rung that is not the highest; None where there is nothing to say.
pub fn rung_note(entered: &Entered) -> Option<String> {
    let meaning = match entered.rung {
        Rung::Full => return None,
        Rung::Single => "owners and ids are emulated",
        Rung::Chroot => "steps run in a chroot without namespaces",
        Rung::Copy => "no RUN can be run",
    };
    let reason = entered.reason.as_deref().unwrap_or("no reason known");
    Some(format!("rung {}: {meaning} ({reason}); see `rbuild doctor`", entered.rung))
}

/// Opens store and client.
pub fn services(cli: &Cli, entered: &Entered, sources: SourceOptions) -> Result<Services, Failure> {
    let services = Services::new(open_store(cli)?, cli.registries.client()?, entered, sources);
    let services = services.map_err(|error| Failure::new(format!("cannot prepare for running steps: {error}")))?;
    Ok(Services { search_path: environment::search_path().into(), emulators: emulators(cli)?, ..services })
}

/// `--emulators`: by digest only, as what is in it sees everything that a step does.
fn emulators(cli: &Cli) -> Result<Option<Reference>, Failure> {
    let Some(text) = cli.emulators.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let image: Reference = text.parse().map_err(|error| Failure::usage(format!("--emulators {text}: {}", chain(&error))))?;
    match image.digest() {
        Some(_) => Ok(Some(image)),
        None => Err(Failure::usage(format!("--emulators {text} has no digest"))
            .with_hint("pin what is run: NAME@sha256:.., which `rbuild inspect` and `skopeo inspect docker://NAME` tell")),
    }
}

/// What the command line says of registries, over the user's files.
#[derive(Debug, Clone, Default)]
pub struct RegistryAdjustments {
    /// Registries reached by plain http or unverified TLS; `*` is all.
    pub insecure: Vec<String>,
    /// Texts in the form of `registries.conf`.
    pub texts: Vec<String>,
    /// PEM files of authorities.
    pub authorities: Vec<PathBuf>,
    /// Files in the form of docker's `config.json`.
    pub credentials: Vec<PathBuf>,
}

impl RegistryAdjustments {
    /// A registry client that goes by it.
    pub fn client(&self) -> Result<Client, Failure> {
        let mut configuration = configuration()?;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
        };
        for text in &self.texts {
            configuration.add_registries(text).map_err(Failure::usage)?;
        }
        for path in &self.credentials {
            configuration.add_credentials(&read(path)?).map_err(|reason| Failure::new(format!("{}: {reason}", path.display())))?;
        }
        for path in &self.authorities {
            configuration.add_authorities(read(path)?.into_bytes());
        }
        self.insecure.iter().for_each(|host| configuration.mark_insecure(host));
        Ok(client_of(configuration))
    }
}

/// What the user's files say about registries.
pub fn configuration() -> Result<Configuration, Failure> {
    registry::configuration::load(&environment::registry_paths()).map_err(|error| Failure::new(chain(&error)))
}

/// A registry client that takes plain http and unverified TLS from `insecure` hosts.
pub fn client(insecure: &[String]) -> Result<Client, Failure> {
    let mut configuration = configuration()?;
    insecure.iter().for_each(|host| configuration.mark_insecure(host));
    Ok(client_of(configuration))
}

/// Says on standard error what delays it, until something shows progress.
fn client_of(configuration: Configuration) -> Client {
    let listener = Listener::new(|notice| worth_telling(&notice).iter().for_each(|text| eprintln!("{text}")));
    Client::new(configuration, ClientOptions { listener, ..ClientOptions::default() })
}

/// Shows among `steps` what delays the client.
pub fn tell(client: &Client, steps: &Arc<write::Steps>) {
    let steps = steps.clone();
    client.listen(move |notice| {
        if let Some(text) = worth_telling(&notice) {
            steps.event(Event::Note { step: None, text: &text });
        }
    });
}

/// A pause that nobody feels is nobody's business.
fn worth_telling(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Retrying { error, delay } if *delay < FELT && !matches!(error, registry::Error::Stalled { .. }) => None,
        notice => Some(notice.to_string()),
    }
}

/// Opens the store, made if it is not there.
pub fn open_store(cli: &Cli) -> Result<Store, Failure> {
    let root = environment::store_root(cli.store.as_ref())?;
    make_parents(&root)?;
    Store::open(&root).map_err(|error| Failure::new(chain(&error)))
}

fn make_parents(root: &Path) -> Result<(), Failure> {
    let Some(parent) = root.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|error| {
        let failure = Failure::new(format!("cannot make the store {}: {}: {error}", root.display(), parent.display()));
        failure.with_hint("name another directory with --store or RBUILD_STORE")
    })
}

/// The runtime that drives a build.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(crate::sys::process::processors()).enable_all().build();
    built.map_err(|error| Failure::new(format!("cannot start threads: {error}")))
}

/// Does the work until it is done or a signal ends it. Either way nothing runs any more when this returns.
pub fn drive<T>(
    runtime: tokio::runtime::Runtime,
    services: &Services,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            signal = signalled() => Err(signal?),
        }
    });
    if result.is_err() {
        services.cancel.cancel();
    }
    // Steps that were cancelled unmount and clean up; one that waits for another process's lock can't be woken.
    runtime.shutdown_timeout(PATIENCE);
    result
}

/// Waits for a request to end; the exit code is the shell's for it.
pub async fn signalled() -> Result<Failure, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (name, number) = tokio::select! {
        _ = interrupt.recv() => ("interrupted", 2),
        _ = terminate.recv() => ("terminated", 15),
        _ = hangup.recv() => ("hung up", 1),
    };
    Ok(Failure { exit_code: 128 + number, ..Failure::new(name) })
}
