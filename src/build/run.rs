//! RUN carried out: plan's words turned into the sandbox's.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use crate::{
    build::{
        BuildError, Event, FailedRun, Kind, OutputStream,
        emulators::prepare_emulation,
        engine::{Engine, Realised},
        error::chain,
        layer::{blocking, directories, mounted_directories},
        root,
        secrets::{Masker, Secrets},
    },
    plan::{Input, Mount, MountKind, NetworkMode, Op, RunOp, VertexId},
    sandbox::{self, Exit, RunError, Rung, Spec, Stream},
    store::{CacheMountLease, SnapshotDraft, SnapshotId},
};

/// What must live as long as the step.
#[derive(Default)]
struct Held {
    caches: Vec<CacheMountLease>,
    ssh_sockets: usize,
    /// Variables that hold what may not be written down.
    secret_variables: Vec<String>,
}

impl Engine {
    pub(super) async fn execute_run(
        self: &Arc<Self>,
        id: VertexId,
        op: &RunOp,
        parent: &Realised,
        snapshot: &SnapshotId,
    ) -> Result<(), BuildError> {
        refuse_without_rung()?;
        self.tell_network(op).await;
        let lowers = mounted_directories(&parent.stack, &self.services, &self.progress).await?;
        let attempts = self.request.retries.saturating_add(1);
        for attempt in 1..attempts {
            // What a failed attempt has written goes with its draft.
            let error = match self.attempt(id, op, &lowers, snapshot, false).await {
                Err(error) if is_worth_retrying(&error) => error,
                result => return result,
            };
            let pause = pause_after(attempt);
            let text = format!("attempt {attempt} of {attempts} failed, the next is in {} s: {}", pause.as_secs(), error.message);
            self.progress.event(Event::Note { step: Some(self.step(id)), text: &text });
            tokio::time::sleep(pause).await;
            self.abort.check()?;
        }
        self.attempt(id, op, &lowers, snapshot, true).await.map_err(|error| match attempts {
            1 => error,
            _ => BuildError { message: format!("{} (attempt {attempts} of {attempts})", error.message), ..error },
        })
    }

    /// Runs the step once. Only of the last attempt the root filesystem is kept to look into.
    async fn attempt(
        self: &Arc<Self>,
        id: VertexId,
        op: &RunOp,
        lowers: &[PathBuf],
        snapshot: &SnapshotId,
        is_last: bool,
    ) -> Result<(), BuildError> {
        let draft = self.services.store.new_snapshot().map_err(BuildError::store)?;
        let mut held = Held::default();
        let mut env = op.env.clone();
        let mut mounts = Vec::with_capacity(op.mounts.len() + 1);
        let (caches, mut taken) = self.take_caches(id, &op.mounts).await?;
        held.caches = caches;
        for (index, mount) in op.mounts.iter().enumerate() {
            match taken.remove(&index) {
                Some(kind) => mounts.push(sandbox::Mount { target: PathBuf::from(&mount.target), kind }),
                None => self.prepare_mount(mount, &mut mounts, &mut env, &mut held).await?,
            }
        }
        if let Some(script) = &op.script {
            let kind = sandbox::MountKind::File { bytes: script.content.clone().into_bytes(), mode: 0o755 };
            mounts.push(sandbox::Mount { target: Path::new("/dev/pipes").join(&script.name), kind });
        }
        env.extend(op.proxy_env.iter().filter(|(name, _)| !op.env.iter().any(|(known, _)| known == name)).cloned());
        let mut spec = self.spec(op, env, mounts);
        let authorities = self.request.authorities.clone();
        let (draft, spec, mounts, lent) = {
            let lowers = lowers.to_vec();
            blocking(move || {
                if let Some(authorities) = &authorities {
                    let step = authorities.for_step(&lowers, &spec.env).map_err(|error| authorities_error(&error))?;
                    spec.env.retain(|(name, _)| !step.env.iter().any(|(ours, _)| ours == name));
                    spec.env.extend(step.env);
                    spec.mounts.extend(step.mounts);
                }
                let mounts = spec.mounts.clone();
                root::make_writable(&mut spec, &draft, &lowers)?;
                let lend = |authorities: Arc<crate::build::Authorities>| authorities.lend(&spec.rootfs);
                let lent = authorities.map(lend).transpose().map_err(|error| authorities_error(&error))?;
                Ok::<_, BuildError>((draft, spec, mounts, lent))
            })
            .await?
        };
        let emulation = self.emulation(id).await?;
        held.secret_variables.extend(op.proxy_env.iter().map(|(name, _)| name.clone()));
        let exit = self.run_spec(id, spec.clone()).await.inspect(|exit| self.note_usage(id, exit));
        if let Ok(Exit { code: 0, out_of_memory: true, .. }) = exit {
            let text = "one of its processes was killed for want of memory, and it went on";
            self.progress.event(Event::Note { step: Some(self.step(id)), text });
        }
        if let Some(lent) = lent {
            blocking(move || lent.take_back().map_err(|error| authorities_error(&error))).await?;
        }
        if let Err(error) = exit.and_then(|exit| check_exit(op, exit, &self.request.limits)) {
            let error = explain(error, emulation);
            // What was copied for this time is copied again for whoever looks into the step.
            let spec = Spec { mounts, scratch: None, ..spec };
            return Err(if is_last { self.keep_failed(id, error, spec, draft, held) } else { error });
        }
        drop(held);
        let (snapshot, lowers) = (snapshot.clone(), lowers.to_vec());
        blocking(move || {
            root::snapshotter(&draft).finish(draft.path(), &lowers).map_err(root::store_error)?;
            draft.commit(&snapshot).map(drop).map_err(BuildError::store)
        })
        .await
    }

    /// Whether this step speaks of ids that are not mapped, or may meet files that cannot be what they are: then it sees them
    /// as they are written down.
    fn needs_emulation(&self, op: &RunOp) -> bool {
        let highest = sandbox::highest_id();
        let any_leaves = || self.plan.vertices.iter().any(|vertex| leaves_unreal_files(&vertex.op, highest));
        *self.leaves_unreal_files.get_or_init(any_leaves) || words(op).any(|word| is_unmapped(word, highest))
    }

    /// Says what steps can reach, once: when the first one that runs asks for the default network.
    async fn tell_network(self: &Arc<Self>, op: &RunOp) {
        static TOLD: Once = Once::new();
        if op.network != NetworkMode::Default || TOLD.is_completed() {
            return;
        }
        let this = self.clone();
        let tell = move || {
            TOLD.call_once(|| {
                let text = sandbox::network::in_words(&this.request.run_defaults.extra_hosts);
                this.progress.event(Event::Note { step: None, text: &text });
            });
        };
        blocking(tell).await;
    }

    /// Makes programs of the step's platform runnable. What stands against it only matters if the step then fails: it may
    /// run programs of this machine alone.
    async fn emulation(&self, id: VertexId) -> Result<Option<sandbox::EmulationError>, BuildError> {
        prepare_emulation(&self.plan.vertices[id.0].platform, self.step(id), &self.services, &self.progress).await
    }

    /// The error with what a person needs to look into the step.
    fn keep_failed(self: &Arc<Self>, id: VertexId, mut error: BuildError, spec: Spec, draft: SnapshotDraft, held: Held) -> BuildError {
        if matches!(error.kind, Kind::Run(_)) {
            let secret_variables = held.secret_variables.clone();
            let step = (self.step(id), self.plan.vertices[id.0].name.as_str());
            let all = Arc::new(Mutex::new((held, self.inputs.clone())));
            // What can't be kept is no second failure.
            error.failed_run = FailedRun::keep(step, spec, draft, &secret_variables, all).ok().map(Arc::new);
        }
        error
    }

    fn spec(&self, op: &RunOp, env: Vec<(String, String)>, mounts: Vec<sandbox::Mount>) -> Spec {
        let defaults = &self.request.run_defaults;
        // We raised ours; programs that close every descriptor there may be would notice.
        let (soft, hard) = self.services.open_files;
        let own = sandbox::Ulimit { name: "nofile".to_owned(), soft, hard };
        let given = defaults.ulimits.iter().map(|limit| sandbox::Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard });
        let ulimits = std::iter::once(own).chain(given);
        Spec {
            args: op.args.clone(),
            env,
            cwd: op.cwd.clone(),
            user: op.user.clone(),
            mounts,
            hostname: self.request.common_facts.hostname.clone(),
            extra_hosts: defaults.extra_hosts.clone(),
            network: match op.network {
                NetworkMode::Default => sandbox::Network::Default,
                NetworkMode::None => sandbox::Network::None,
                NetworkMode::Host => sandbox::Network::Host,
            },
            shm_size_bytes: defaults.shm_size_bytes.unwrap_or(64 << 20),
            ulimits: ulimits.collect(),
            limits: self.request.limits.clone(),
            timeout: self.request.timeout,
            emulate_ids: self.needs_emulation(op),
            ..Spec::default()
        }
    }

    async fn run_spec(self: &Arc<Self>, id: VertexId, spec: Spec) -> Result<Exit, BuildError> {
        let this = self.clone();
        let step = self.step(id);
        blocking(move || {
            let show = |stream: OutputStream, bytes: &[u8]| this.progress.event(Event::Output { step, stream, bytes });
            let secrets = &this.services.secrets;
            let (mut out, mut err) = (Masker::new(secrets), Masker::new(secrets));
            let output = |stream: Stream, bytes: &[u8]| match stream {
                Stream::Stdout => out.feed(bytes, |bytes| show(OutputStream::Stdout, bytes)),
                Stream::Stderr => err.feed(bytes, |bytes| show(OutputStream::Stderr, bytes)),
            };
            let exit = sandbox::run(&spec, Some(&this.services.cancel), output).map_err(|error| run_error(&spec, &error));
            let found = [(out, OutputStream::Stdout), (err, OutputStream::Stderr)]
                .map(|(masker, stream)| masker.finish(|bytes| show(stream, bytes)))
                .into_iter()
                .flatten()
                .next();
            match (exit, found) {
                // The command's own failure is told first.
                (Ok(exit), Some(found)) if exit.code == 0 => {
                    let error = Secrets::refusal(&found, "what the command has written");
                    Err(error.with_hint("it is shown and logged as ***"))
                }
                (exit, _) => exit,
            }
        })
        .await
    }

    async fn prepare_mount(
        self: &Arc<Self>,
        mount: &Mount,
        mounts: &mut Vec<sandbox::Mount>,
        env: &mut Vec<(String, String)>,
        held: &mut Held,
    ) -> Result<(), BuildError> {
        let target = PathBuf::from(&mount.target);
        let mut add = |kind| mounts.push(sandbox::Mount { target: target.clone(), kind });
        match &mount.kind {
            MountKind::Bind { from, source, readonly } => {
                let (tree, subpath) = self.mount_source(from, source).await?;
                add(match readonly {
                    true => sandbox::MountKind::Bind { source: tree, subpath, read_only: true },
                    false => sandbox::MountKind::Discard { source: tree, subpath, scratch: None },
                });
            }
            MountKind::Tmpfs { size_bytes, readonly } => {
                let size_bytes = Some(*size_bytes).filter(|size| *size > 0);
                add(sandbox::MountKind::Tmpfs { size_bytes, read_only: *readonly });
            }
            MountKind::Cache { .. } => unreachable!("caches are taken before other mounts are prepared"),
            MountKind::Secret { id, env: variable, required, mode, uid, gid } => {
                let Some(bytes) = self.request.secrets.get(id) else {
                    if *required {
                        return Err(BuildError::new(Kind::Step, format!("secret {id}: not found"))
                            .with_hint(format!("give it with --secret id={id},src=FILE")));
                    }
                    if let Some(name) = variable {
                        env.push((name.clone(), String::new()));
                    }
                    return Ok(());
                };
                if let Some(name) = variable {
                    held.secret_variables.push(name.clone());
                    env.retain(|(known, _)| known != name);
                    env.push((name.clone(), String::from_utf8_lossy(bytes).into_owned()));
                }
                if !mount.target.is_empty() {
                    add(sandbox::MountKind::Secret { bytes: bytes.clone(), mode: *mode, uid: *uid, gid: *gid });
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let path = match mount.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{}", held.ssh_sockets),
                    given => given.to_owned(),
                };
                held.ssh_sockets += 1;
                if !env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
                    env.push(("SSH_AUTH_SOCK".to_owned(), path.clone()));
                }
                let Some(agent) = self.request.ssh.get(id) else {
                    if *required {
                        return Err(BuildError::new(Kind::Step, format!("ssh {id}: no agent was given"))
                            .with_hint(format!("give it with --ssh {id}")));
                    }
                    // As with BuildKit the variable is there, the socket is not.
                    return Ok(());
                };
                let agent =
                    agent.socket().map_err(|error| BuildError::new(Kind::Step, format!("ssh {id}: cannot start an agent: {error}")))?;
                let kind = sandbox::MountKind::Ssh { agent, mode: *mode, uid: *uid, gid: *gid };
                mounts.push(sandbox::Mount { target: PathBuf::from(path), kind });
            }
        }
        Ok(())
    }

    /// The tree that a mount shows a part of, and which part.
    async fn mount_source(self: &Arc<Self>, from: &Input, source: &str) -> Result<(sandbox::Source, PathBuf), BuildError> {
        Ok(match from {
            Input::Vertex(None) => (sandbox::Source::Overlay(Vec::new()), PathBuf::from(source)),
            Input::Vertex(Some(id)) => {
                let realised = self.clone().realise(*id).await?;
                let paths = directories(&realised.stack, &self.services, &self.progress).await?;
                (sandbox::Source::Overlay(paths), PathBuf::from(source))
            }
            Input::Context(name) => {
                let directory = self.inputs.mount_directory(name, source).await?;
                (sandbox::Source::Directory(directory), PathBuf::from(super::inputs::MOUNTED))
            }
        })
    }
}

/// On the lowest rung nothing is run.
fn refuse_without_rung() -> Result<(), BuildError> {
    if sandbox::current() > Rung::Copy {
        return Ok(());
    }
    let refused = BuildError::new(Kind::Step, "this step cannot be run here: there is no user namespace and no chroot (the `copy` rung)");
    Err(match sandbox::obstacle() {
        Some(gate) => refused.with_hint(gate.to_string()),
        None => refused.with_hint("--rung copy asked for it; `rbuild doctor` says which rungs there are"),
    })
}

/// The words of a step.
fn words(op: &RunOp) -> impl Iterator<Item = &str> {
    // A time is no id, and is in the environment of every reproducible build.
    let variables = op.env.iter().filter(|(name, _)| name != "SOURCE_DATE_EPOCH").map(|(_, value)| value);
    let texts = variables.chain(&op.args).chain([&op.user]).chain(op.script.iter().map(|script| &script.content));
    texts.flat_map(|text| text.split(|character: char| !character.is_ascii_alphanumeric()))
}

/// Whether a number could be an id that is not mapped.
fn is_unmapped(word: &str, highest: u32) -> bool {
    highest < u32::MAX - 1 && word.parse::<u32>().is_ok_and(|number| number > highest)
}

/// Whether files may come to have owners that are not mapped, or be devices, which no user namespace may make.
fn leaves_unreal_files(op: &Op, highest: u32) -> bool {
    const GIVES: [&str; 10] = ["chown", "chgrp", "useradd", "groupadd", "adduser", "addgroup", "usermod", "groupmod", "install", "setpriv"];
    match op {
        Op::Run(op) => {
            words(op).any(|word| word == "mknod")
                || (words(op).any(|word| is_unmapped(word, highest)) && words(op).any(|word| GIVES.contains(&word)))
        }
        Op::Copy(op) => op.chown.iter().flat_map(|owner| owner.split(':')).any(|id| is_unmapped(id, highest)),
        Op::Image(_) | Op::Workdir(_) => false,
    }
}

fn authorities_error(error: &std::io::Error) -> BuildError {
    BuildError::new(Kind::Step, format!("cannot lend the step the authorities of --ca: {error}"))
}

/// What is not there, or can't be executed, does not come by waiting.
fn is_worth_retrying(error: &BuildError) -> bool {
    matches!(error.kind, Kind::Run(code) if !matches!(code, 126 | 127))
}

/// 1 s, 2 s, 4 s, .. at most 30 s: most of what gets better by itself is a network.
fn pause_after(attempt: u32) -> Duration {
    Duration::from_secs(1 << (attempt - 1).min(5)).min(Duration::from_secs(30))
}

/// BuildKit's words for a command that failed, and ours for why.
fn check_exit(op: &RunOp, exit: Exit, limits: &sandbox::Limits) -> Result<(), BuildError> {
    if exit.code == 0 && exit.signal.is_none() {
        return Ok(());
    }
    let command = op.args.join(" ");
    let message = format!("process \"{command}\" did not complete successfully: exit code: {}", exit.code);
    let failed = |more: &str| BuildError::new(Kind::Run(exit.code), format!("{message}{more}"));
    Err(match (exit.out_of_memory, limits.memory_bytes, exit.signal) {
        (true, Some(limit), _) => {
            let peak = exit.memory_peak_bytes.unwrap_or(exit.max_rss_kb << 10);
            failed(&format!(": out of memory: the limit is {}, the peak was {}", mebibytes(limit), mebibytes(peak)))
                .with_hint("raise --memory, or let the step do less at once")
        }
        (true, None, _) => {
            failed(": out of memory").with_hint("the kernel killed it for want of memory; give the machine or container more")
        }
        _ if exit.out_of_pids => failed(": it was refused new processes")
            .with_hint(format!("--pids-limit is {}; raise it, or let the step do less at once", limits.pids.unwrap_or_default())),
        (_, _, Some(signal)) => failed("").with_hint(format!("it was ended by signal {signal}")),
        _ if exit.code == 127 => failed("").with_hint("127 is what a shell says when a command is not found"),
        _ => failed(""),
    })
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A program that can't be executed may be another processor's: then that is what is said. 126 is the kernel's refusal;
/// the other codes come from programs, which ran if an emulator may be there.
fn explain(error: BuildError, emulation: Option<sandbox::EmulationError>) -> BuildError {
    match (emulation, error.kind) {
        (Some(missing), Kind::Run(code)) if code == 126 || (matches!(code, 127 | 255) && !missing.is_uncertain) => {
            let fix = missing.fix.clone().or(error.hint.clone());
            BuildError { message: format!("{}: {missing}", error.message), hint: fix, ..error }
        }
        _ => error,
    }
}

fn run_error(spec: &Spec, error: &RunError) -> BuildError {
    match error {
        RunError::Cancelled => BuildError::new(Kind::Cancelled, "cancelled"),
        // The code is that of timeout(1).
        RunError::TimedOut(_) => {
            let message = format!("process \"{}\" did not complete successfully: {}", spec.args.join(" "), chain(error));
            BuildError::new(Kind::Run(124), message)
                .with_hint("it was ended, with all that it had started; raise --timeout if it needs longer")
        }
        RunError::Init(sandbox::InitError::Exec { code, .. }) => {
            let message = format!("process \"{}\" did not complete successfully: {}: exit code: {code}", spec.args.join(" "), chain(error));
            let failed = BuildError::new(Kind::Run(*code), message);
            match spec.args.first() {
                Some(program) if *code == 127 => failed.with_hint(format!(
                    "this root filesystem has no {program}, or lacks what it is linked with; COPY it from another stage, or start FROM an image that has it"
                )),
                _ => failed,
            }
        }
        _ => {
            let message = format!("process \"{}\" did not complete successfully: {}", spec.args.join(" "), chain(error));
            let failed = BuildError::new(Kind::Step, message);
            match error {
                RunError::Init(sandbox::InitError::Setup { .. }) => {
                    failed.with_hint("`rbuild doctor` tries what a step needs, one thing at a time")
                }
                _ => failed,
            }
        }
    }
}
