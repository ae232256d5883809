//! Runs git so that nothing but what we say decides what it does: a fresh environment, no configuration of user or
//! system, no hooks, filters, prompts or helpers, four protocols. Credentials travel in the environment, never in
//! arguments. Unaware of what is fetched.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{io::AsyncReadExt, process::Command};

use super::{
    GitError, GitOptions,
    remote::{PROTOCOLS, Remote},
};

/// What git prints is kept up to here.
const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;
const MESSAGE_LIMIT_BYTES: u64 = 1 << 20;
/// Lines of an error message that are shown.
const MESSAGE_LINES: usize = 8;

/// Configuration above all other. An `Authorization` is added where needed.
const CONFIGURATION: [(&str, &str); 24] = [
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.logAllRefUpdates", "false"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "main"),
    ("init.templateDir", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("protocol.version", "2"),
    ("http.followRedirects", "initial"),
    ("http.lowSpeedLimit", "100"),
    ("http.lowSpeedTime", "60"),
    ("safe.bareRepository", "explicit"),
];

/// git as this build may use it, for one remote.
pub(super) struct Git<'a> {
    pub(super) options: &'a GitOptions,
    pub(super) remote: &'a Remote,
    /// An empty directory.
    pub(super) home: &'a Path,
}

/// What one call may do and where.
pub(super) struct Call<'a> {
    /// The repository's own directory.
    pub(super) git_dir: Option<PathBuf>,
    /// Where files are checked out, and where git runs.
    pub(super) work_tree: Option<&'a Path>,
    /// Whether the other side is a repository of ours on this disk.
    pub(super) from_disk: bool,
}

impl Call<'_> {
    /// In a bare repository.
    pub(super) fn bare(git_dir: &Path) -> Self {
        Self { git_dir: Some(git_dir.to_owned()), work_tree: None, from_disk: false }
    }

    /// In no repository.
    pub(super) fn nowhere() -> Self {
        Self { git_dir: None, work_tree: None, from_disk: false }
    }
}

/// Kills what is left of a call when it is given up: git and the helpers it started.
struct KillGroup(Option<Pid>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Git<'_> {
    /// Runs git and gives what it printed.
    pub(super) async fn run<A: AsRef<OsStr>>(&self, call: Call<'_>, arguments: &[A]) -> Result<String, GitError> {
        let action = || {
            let name = arguments.iter().find(|argument| !argument.as_ref().as_encoded_bytes().starts_with(b"-"));
            name.map_or_else(String::new, |name| name.as_ref().to_string_lossy().into_owned())
        };
        let limit = Duration::from_secs(self.options.timeout_seconds);
        match tokio::time::timeout(limit, self.output(call, arguments)).await {
            Ok(Ok((true, output, _))) => Ok(output),
            Ok(Ok((false, _, message))) => {
                let message = self.remote.hide(last_lines(&message).trim());
                Err(GitError::Failed { action: action(), remote: self.remote.shown.clone(), message })
            }
            Ok(Err(error)) => Err(GitError::NoGit(error)),
            Err(_) => {
                let (remote, seconds) = (self.remote.shown.clone(), self.options.timeout_seconds);
                Err(GitError::TooSlow { action: action(), remote, seconds })
            }
        }
    }

    async fn output<A: AsRef<OsStr>>(&self, call: Call<'_>, arguments: &[A]) -> std::io::Result<(bool, String, String)> {
        let mut command = Command::new(&self.options.program);
        command.args(arguments).env_clear().envs(self.environment(&call));
        command.current_dir(call.work_tree.unwrap_or(self.home));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut group = KillGroup(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (output, message) = tokio::join!(read(stdout, OUTPUT_LIMIT_BYTES), read(stderr, MESSAGE_LIMIT_BYTES));
        let status = child.wait().await?;
        // Its number is free from here on.
        group.0 = None;
        Ok((status.success(), output?, message?))
    }

    fn environment(&self, call: &Call<'_>) -> Vec<(OsString, OsString)> {
        let mut list: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: &OsStr| list.push((name.into(), value.to_owned()));
        for (name, value) in &self.options.environment {
            if !name.as_encoded_bytes().starts_with(b"GIT_") {
                set(&name.to_string_lossy(), value);
            }
        }
        set("HOME", self.home.as_os_str());
        set("LC_ALL", "C".as_ref());
        set("GIT_CONFIG_NOSYSTEM", "1".as_ref());
        set("GIT_CONFIG_GLOBAL", "/dev/null".as_ref());
        set("GIT_ATTR_NOSYSTEM", "1".as_ref());
        set("GIT_TERMINAL_PROMPT", "0".as_ref());
        set("GIT_NO_REPLACE_OBJECTS", "1".as_ref());
        set("GIT_ALLOW_PROTOCOL", if call.from_disk { "file".as_ref() } else { PROTOCOLS.as_ref() });
        set("GIT_SSH_COMMAND", self.options.ssh_command().as_ref());
        set("GIT_SSH_VARIANT", "ssh".as_ref());
        if let Some(socket) = &self.options.ssh_agent {
            set("SSH_AUTH_SOCK", socket.as_os_str());
        }
        if let Some(git_dir) = &call.git_dir {
            set("GIT_DIR", git_dir.as_os_str());
        }
        let mut configuration: Vec<(String, String)> = CONFIGURATION.map(|(name, value)| (name.into(), value.into())).into();
        // The repositories are ours; in a user namespace their owner may look like somebody else.
        configuration.push(("safe.directory".into(), "*".into()));
        if let Some(authorization) = self.remote.authorization.as_ref().filter(|_| !call.from_disk) {
            configuration.push((format!("http.{}.extraHeader", authorization.scope), format!("Authorization: {}", authorization.value)));
        }
        set("GIT_CONFIG_COUNT", configuration.len().to_string().as_ref());
        for (index, (name, value)) in configuration.iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{index}"), name.as_ref());
            set(&format!("GIT_CONFIG_VALUE_{index}"), value.as_ref());
        }
        list
    }
}

/// Reads to the end, keeps the last `limit` bytes.
async fn read(mut from: impl tokio::io::AsyncRead + Unpin, limit: u64) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if bytes.len() > 2 * limit {
            bytes.drain(..bytes.len() - limit);
        }
    }
}

/// The end of a message, without what would play with a terminal.
fn last_lines(message: &str) -> String {
    let lines: Vec<&str> = message.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("; ");
    shown.chars().filter(|character| !character.is_control()).collect()
}
