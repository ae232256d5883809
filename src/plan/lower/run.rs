//! RUN: the command line, the three ways of a heredoc, mounts, network.

use crate::{
    dockerfile::{
        Diagnostic, Span, Word, expand,
        mount::{self, MountKind as MountType, MountOptions, Sharing},
        tree::{CommandLine, Heredoc, RunInstruction},
    },
    plan::{
        CacheSharing, Input, Mount, MountKind, NetworkMode, Op, RunOp, Script,
        stages::{Command, Node, NodeId},
    },
};

use super::{
    Lowerer, history,
    metadata::with_shell,
    state::{StageState, clean_path, join_path},
};

impl Lowerer<'_> {
    pub(super) fn lower_run(
        &mut self,
        id: NodeId,
        node: &Node,
        state: &mut StageState,
        command: &Command,
        run: &RunInstruction,
    ) -> Result<(), Diagnostic> {
        let span = command.instruction.span;
        // All are read before any is looked at, as BuildKit does: so is told first what BuildKit tells first.
        let options = run.mounts.iter().map(|word| self.read_mount(state, word)).collect::<Result<Vec<_>, _>>()?;
        let mut mounts = Vec::with_capacity(run.mounts.len());
        for ((word, source), options) in run.mounts.iter().zip(&command.sources).zip(&options) {
            let own = (*source == Some(id) && command.is_trigger).then_some(Input::Vertex(state.root));
            let from = own.or_else(|| self.input_of((*source).filter(|source| *source != id)?));
            mounts.push(self.lower_mount(state, word, options, from, span)?);
        }
        let (args, script) = command_line(state, run);
        if args.is_empty() {
            return Err(Diagnostic::at(span, "arguments are required").with_hint("RUN [] names no program"));
        }
        check_security(run.security.as_ref())?;
        if let Some(device) = run.devices.first() {
            return Err(Diagnostic::at(device.span, "not supported: RUN --device")
                .with_hint("device feature is only supported in Dockerfile frontend 1.14.0-labs or later"));
        }
        let network = self.network(run.network.as_ref())?;
        let text = history::run_command(&args, &state.args, |name| state.environment.value(name).map(str::to_owned));
        let op = Op::Run(Box::new(RunOp {
            args,
            env: state.environment.to_list(),
            proxy_env: self.proxy_env.clone(),
            cwd: state.cwd().to_owned(),
            user: state.config.config.user.clone(),
            mounts,
            network,
            script,
        }));
        let vertex = self.step(node, state, command, op);
        state.add_history(format!("RUN {text} # buildkit"), Some(vertex));
        Ok(())
    }

    fn network(&self, flag: Option<&Word>) -> Result<NetworkMode, Diagnostic> {
        let Some(word) = flag else { return Ok(self.options.network) };
        match word.text.to_ascii_lowercase().as_str() {
            "default" | "" => Ok(self.options.network),
            "none" => Ok(NetworkMode::None),
            "host" if self.options.allow_host_network || self.options.network == NetworkMode::Host => Ok(NetworkMode::Host),
            "host" => {
                Err(Diagnostic::at(word.span, "entitlement network.host is not allowed").with_hint("allow it with `--allow network.host`"))
            }
            other => Err(Diagnostic::at(word.span, format!("invalid network mode \"{other}\"")).with_hint("default, none or host")),
        }
    }

    fn read_mount(&self, state: &StageState, word: &Word) -> Result<MountOptions, Diagnostic> {
        let mut expand = |text: &str| Ok(expand::expand_word(text, self.stages.escape, &state.environment)?.text);
        mount::parse_mount(&word.text, &mut expand).map_err(|message| Diagnostic::at(word.span, message))
    }

    /// `source` is what the mount's `from` stands for, where that is known by now.
    fn lower_mount(
        &self,
        state: &StageState,
        word: &Word,
        options: &MountOptions,
        source: Option<Input>,
        span: Span,
    ) -> Result<Mount, Diagnostic> {
        let fail = |message: String| Diagnostic::at(word.span, message);
        let from = match (&options.from, source) {
            (None, _) => None,
            (Some(_), Some(source)) => Some(source),
            (Some(name), None) => {
                return Err(Diagnostic::at(
                    span,
                    format!(
                        "cannot mount from stage \"{name}\" to \"{}\", stage needs to be defined before current command",
                        options.target.as_deref().unwrap_or_default()
                    ),
                ));
            }
        };
        let target = mount_target(state, options).map_err(fail)?;
        Ok(Mount { kind: self.mount_kind(options, from).map_err(fail)?, target })
    }

    fn mount_kind(&self, options: &MountOptions, from: Option<Input>) -> Result<MountKind, String> {
        let source = clean_path(&format!("/{}", options.source.clone().unwrap_or_default()));
        Ok(match options.kind {
            MountType::Bind => MountKind::Bind { from: from.unwrap_or(Input::Context(String::new())), source, readonly: options.read_only },
            MountType::Cache => MountKind::Cache {
                id: self.cache_id(options),
                sharing: match options.sharing {
                    Some(Sharing::Private) => CacheSharing::Private,
                    Some(Sharing::Locked) => CacheSharing::Locked,
                    _ => CacheSharing::Shared,
                },
                from,
                source,
                readonly: options.read_only,
                mode: options.mode,
                uid: options.uid,
                gid: options.gid,
            },
            MountType::Tmpfs => MountKind::Tmpfs { size_bytes: options.size_bytes.unwrap_or(0), readonly: options.read_only },
            MountType::Secret => secret(options)?,
            MountType::Ssh => {
                if options.source.is_some() {
                    return Err("ssh does not support source".to_owned());
                }
                MountKind::Ssh {
                    id: options.ssh_id().to_owned(),
                    required: options.required,
                    mode: options.mode.unwrap_or(0o600),
                    uid: options.uid.unwrap_or(0),
                    gid: options.gid.unwrap_or(0),
                }
            }
        })
    }

    fn cache_id(&self, options: &MountOptions) -> String {
        let namespace = self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default();
        format!("{namespace}/{}", options.cache_id())
    }
}

/// What is executed, and the file it is read from when a heredoc is a program (BuildKit `dispatchRun`).
fn command_line(state: &StageState, run: &RunInstruction) -> (Vec<String>, Option<Script>) {
    let text = match &run.command {
        CommandLine::Exec(words) => return (words.clone(), None),
        CommandLine::Shell(text) => text,
    };
    match run.heredocs.as_slice() {
        [] => (with_shell(state, text), None),
        [only] if is_only_heredoc(text) => {
            let content = only.content();
            if state.config.os != "windows" && content.starts_with("#!") {
                let script = Script { name: only.name.clone(), content };
                return (with_shell(state, &format!("/dev/pipes/{}", only.name)), Some(script));
            }
            (with_shell(state, &content), None)
        }
        heredocs => (with_shell(state, &with_bodies(text, heredocs)), None),
    }
}

/// Whether the command is exactly one heredoc word (BuildKit `ParseHeredoc`).
fn is_only_heredoc(text: &str) -> bool {
    let text = text.trim().trim_start_matches(|character: char| character.is_ascii_digit());
    let Some(rest) = text.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    let options = expand::Options { raw_quotes: true, skip_unset: true, ..expand::Options::default() };
    !rest.contains('<') && expand::expand(rest, '\\', options, &expand::Empty).is_ok_and(|expanded| expanded.words.len() == 1)
}

/// The line with its heredocs behind it, for the shell to read.
fn with_bodies(text: &str, heredocs: &[Heredoc]) -> String {
    let mut all = text.to_owned();
    for heredoc in heredocs {
        all.push('\n');
        all.push_str(&heredoc.body);
        all.push_str(&heredoc.name);
    }
    all
}

fn check_security(flag: Option<&Word>) -> Result<(), Diagnostic> {
    let Some(word) = flag else { return Ok(()) };
    match word.text.to_ascii_lowercase().as_str() {
        "sandbox" | "" => Ok(()),
        "insecure" => {
            Err(Diagnostic::at(word.span, "entitlement security.insecure is not allowed").with_hint("rbuild has no privileged mode"))
        }
        other => Err(Diagnostic::at(word.span, format!("security \"{other}\" is not valid")).with_hint("sandbox is the only one here")),
    }
}

fn secret(options: &MountOptions) -> Result<MountKind, String> {
    let id = options.secret_id();
    if id.is_empty() {
        return Err("one of source, target required".to_owned());
    }
    Ok(MountKind::Secret {
        env: options.env.as_ref().map(|name| if name.is_empty() { id.clone() } else { name.clone() }),
        id,
        required: options.required,
        mode: options.mode.unwrap_or(0o400),
        uid: options.uid.unwrap_or(0),
        gid: options.gid.unwrap_or(0),
    })
}

/// Where the mount appears; empty for a secret that is only a variable and for an ssh socket at its usual place.
fn mount_target(state: &StageState, options: &MountOptions) -> Result<String, String> {
    let target = match options.kind {
        MountType::Secret => options.secret_target(),
        _ => options.target.clone(),
    };
    let target = target.unwrap_or_default();
    if target.is_empty() && matches!(options.kind, MountType::Secret | MountType::Ssh) {
        return Ok(target);
    }
    let path = join_path(state.cwd(), &target);
    if path == "/" {
        return Err(format!("invalid mount target \"{path}\""));
    }
    Ok(path)
}
