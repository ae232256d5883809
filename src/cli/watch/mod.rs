//! `rbuild watch`: builds again whenever a file changes that the build uses, and restarts the container. All in one
//! process: what is open stays open, what is known of files stays known. A build that fails is told of, and the last good
//! container goes on.

mod app;
mod brief;
mod changes;
mod rules;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;

use self::{app::App, brief::Brief, changes::Changes, rules::Rules};
use crate::{
    build::{self, Progress, Request, Services, Silent, chain},
    cli::{
        args::{BuildArgs, Cli, ContainerArgs},
        attest,
        build::{Made, make, reporter, wanted},
        contexts, environment,
        failure::Failure,
        guarded, lint,
        progress::{Mode, Place, Reporter},
        request, run, services, shell, write,
    },
    oci::Digest,
    sandbox::{Cancel, Network},
};

/// Silence after which what somebody saves is whole.
const QUIET: Duration = Duration::from_millis(20);
/// The same where many files change: a checkout, an installation.
const QUIET_OF_MANY: Duration = Duration::from_millis(150);
/// More changes than one save makes.
const MANY: usize = 12;
/// Something that never ends doesn't keep us waiting for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// `rbuild watch`.
#[derive(Debug, Args, Clone)]
pub struct WatchArgs {
    /// Run the image, and run it anew after each build that changed it
    #[arg(long)]
    pub run: bool,
    /// As for `rbuild build`
    #[command(flatten)]
    pub build: BuildArgs,
    /// What the container gets
    #[command(flatten)]
    pub container: ContainerArgs,
    /// Command of the container instead of the image's
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Watches until a signal ends it.
pub fn watch(cli: &Cli, args: &WatchArgs) -> Result<ExitCode, Failure> {
    let build = &args.build;
    if !Path::new(&build.context).is_dir() {
        return Err(Failure::usage(format!("the context {} is not a directory that could be watched", build.context)));
    }
    if build.on_error != "end" {
        return Err(
            Failure::usage("--on-error=shell would stop the watching").with_hint("enter the step from another terminal: rbuild shell")
        );
    }
    if !args.run && !args.command.is_empty() {
        return Err(Failure::usage("a command needs --run"));
    }
    wanted(build)?.check()?;
    shell::OnError::of(build)?;
    reporter(build)?;
    let container = run::Options::of(&args.container)?;
    let first = request::request(build, wanted(build)?.first_form()?.policy)?;
    let entered = services::enter(cli)?;
    container.check(entered.rung)?;
    let options = environment::source_options(build.offline, &first.ssh, contexts::is_by_ssh(build))?;
    let services = services::services(cli, &entered, options)?;
    let services = guarded::guard(services, build, &first);
    let runtime = services::runtime()?;
    let network = if args.run { container.network(None)? } else { Network::Host };
    let mut changes = Changes::new().map_err(|error| Failure::new(format!("cannot watch files: {error}")))?;
    let mut session = Session { args, container, services, network, app: None, running: None, is_first: true };
    let ended = runtime.block_on(async {
        let ended = tokio::select! {
            ended = session.live(&mut changes) => ended,
            signal = services::signalled() => signal,
        };
        session.services.cancel.cancel();
        if let Some(app) = session.app.take() {
            app.stop().await;
        }
        ended
    });
    drop(session);
    // Steps that were cancelled unmount and clean up.
    runtime.shutdown_timeout(services::PATIENCE);
    // To be interrupted is how it ends.
    let ended = ended?;
    if ended.exit_code == 130 { Ok(ExitCode::from(ended.exit_code)) } else { Err(ended) }
}

struct Session<'a> {
    args: &'a WatchArgs,
    container: run::Options,
    services: Services,
    network: Network,
    app: Option<App>,
    /// The image that `app` was started from.
    running: Option<Digest>,
    is_first: bool,
}

impl Session<'_> {
    /// Goes on until something is wrong that no change of a file can mend.
    async fn live(&mut self, changes: &mut Changes) -> Result<Failure, Failure> {
        let mut changed: Option<PathBuf> = None;
        loop {
            let began = Instant::now();
            let again = self.build(changes, changed.take(), began).await?;
            let path = match again {
                Some(path) => path,
                None => self.wait(changes).await,
            };
            settle(changes, &self.args.build.context).await;
            changed = Some(path);
        }
    }

    /// The next change; an app that ends meanwhile is told of.
    async fn wait(&mut self, changes: &mut Changes) -> PathBuf {
        loop {
            let Some(app) = &mut self.app else { return changes.next().await };
            tokio::select! {
                path = changes.next() => return path,
                ended = app.ended() => {
                    say(&format!("{}; waiting for a change", app::sentence(&ended)));
                    (self.app, self.running) = (None, None);
                }
            }
        }
    }

    /// One build. Gives the change that made it out of date while it ran.
    async fn build(&mut self, changes: &mut Changes, cause: Option<PathBuf>, began: Instant) -> Result<Option<PathBuf>, Failure> {
        let build = &self.args.build;
        let wanted = wanted(build)?;
        let request = match request::request(build, wanted.first_form()?.policy) {
            // What is built is run.
            Ok(request) => build::Request { wants_files: true, ..request },
            Err(failure) => {
                tell(&failure);
                return Ok(None);
            }
        };
        self.follow(changes, &request).await?;
        if let Some(cause) = &cause {
            say(&format!("{} changed", shown(cause, &build.context)));
        }
        let cancel = Cancel::new().map_err(|error| Failure::new(format!("cannot prepare for running steps: {error}")))?;
        let services = Services { cancel: Arc::new(cancel), ..self.services.clone() };
        let (first_reporter, brief) = (std::mem::take(&mut self.is_first).then(|| reporter(build)).transpose()?, brief());
        let inner: Arc<dyn Progress> = match &first_reporter {
            Some((_, reporter)) => reporter.clone(),
            None => brief.clone(),
        };
        let warnings = Arc::new(lint::Watcher::new(inner, &request.dockerfile_name));
        let steps = write::Steps::new(warnings.clone());
        let after = shell::OnError::of(build)?;
        let mut stale = None;
        let result = {
            let attestations = attest::Attestations::of(build)?;
            let source = attestations.source(build, wanted.is_pushed()?);
            let work = make(build, request, &wanted, (attestations, &source), &services, &steps, &after);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    result = &mut work => break result,
                    path = changes.next(), if stale.is_none() => {
                        // What runs now would be thrown away.
                        stale = Some(path);
                        services.cancel.cancel();
                    }
                }
            }
        };
        if let Some((_, reporter)) = &first_reporter {
            if result.is_err() && stale.is_none() {
                reporter.failed()
            } else {
                reporter.stop()
            }
            let _ = warnings.show(lint::Shown::of(build));
        }
        if stale.is_some() {
            return Ok(stale);
        }
        match result {
            Ok(made) => self.use_result(&made, &services, &brief, began).await?,
            Err(failure) => {
                if first_reporter.is_none() {
                    brief.show_failure();
                }
                tell(&after.act(failure, &services));
                say("the build failed; waiting for a change");
            }
        }
        Ok(None)
    }

    /// From now on changes of what this build uses are told.
    async fn follow(&self, changes: &Changes, request: &Request) -> Result<(), Failure> {
        let build = &self.args.build;
        let dockerfile = build.file.as_ref().map_or_else(|| Path::new(&build.context).join("Dockerfile"), PathBuf::from);
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        // Of a Dockerfile that can't be read everything may matter: the build itself says what is wrong with it.
        let plans = build::plan(request, &self.services, &silent).await.ok();
        let rules = Rules::of(request, &dockerfile, plans.as_deref());
        changes.follow(rules).map_err(|error| Failure::new(format!("cannot watch files: {error}")))
    }

    async fn use_result(&mut self, made: &Made, services: &Services, brief: &Brief, began: Instant) -> Result<(), Failure> {
        let digest = made.written.descriptor.digest.clone();
        let took = began.elapsed().as_secs_f64();
        let ran = match brief.ran() {
            1 => "1 step ran".to_owned(),
            count => format!("{count} steps ran"),
        };
        let is_same = self.running.as_ref() == Some(&digest);
        if !self.args.run || is_same {
            say(&format!("{} in {took:.2} s, {ran}", if is_same { "nothing new".to_owned() } else { digest.to_string() }));
            self.running = Some(digest);
            return Ok(());
        }
        if let Some(app) = self.app.take() {
            app.stop().await;
        }
        match self.start(made, services).await {
            Ok(app) => {
                self.app = Some(app);
                self.running = Some(digest);
                say(&format!("running after {:.2} s ({took:.2} s to build, {ran})", began.elapsed().as_secs_f64()));
            }
            Err(failure) => tell(&failure),
        }
        Ok(())
    }

    async fn start(&self, made: &Made, services: &Services) -> Result<App, Failure> {
        let platform = made.outcome.platforms.first().ok_or_else(|| Failure::new("nothing was built that could be run"))?;
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        let lowers = build::root_directories(platform, services, &silent).await.map_err(Failure::from)?;
        let draft = services.store.new_snapshot().map_err(|error| Failure::new(chain(&error)))?;
        let mut spec = self.container.spec(&platform.image.config.config, &self.args.command, self.network.clone())?;
        build::make_writable(&mut spec, &draft, &lowers).map_err(Failure::from)?;
        App::start(spec, draft)
    }
}

fn brief() -> Arc<Brief> {
    Brief::new(Reporter::new(Mode::Quiet, Place::here()))
}

/// Waits until what somebody does to the files is over: editors write aside and rename, git locks its index.
async fn settle(changes: &mut Changes, context: &str) {
    let began = Instant::now();
    let mut count = 1;
    let lock = Path::new(context).join(".git/index.lock");
    while began.elapsed() < LONGEST_WAIT {
        let quiet = if count > MANY || lock.exists() { QUIET_OF_MANY } else { QUIET };
        match tokio::time::timeout(quiet, changes.next()).await {
            Ok(_) => count += 1,
            Err(_) if lock.exists() => {}
            Err(_) => return,
        }
    }
}

fn tell(failure: &Failure) {
    eprintln!("{}", failure.render(Place::here().colour()));
}

fn say(text: &str) {
    eprintln!("{} {text}", jiff::Zoned::now().strftime("%H:%M:%S"));
}

/// As people know it: below the context.
fn shown(path: &Path, context: &str) -> String {
    let top = std::fs::canonicalize(context).unwrap_or_default();
    path.strip_prefix(&top).ok().filter(|inside| !inside.as_os_str().is_empty()).unwrap_or(path).display().to_string()
}
