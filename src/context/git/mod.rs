//! Trees from git: contexts and `ADD` by a repository's URL.
//!
//! One bare repository per remote keeps what was fetched, shallow and by commit; a checkout is made from it in a directory
//! of its own. The `git` program does the work, held as `command` says; what it left is put in order as `finish` says.
//! Unaware of how URLs with fragments and queries are read and of what trees are for.

mod command;
mod error;
mod finish;
mod remote;
mod resolve;

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::FlockOperation;

pub use self::error::GitError;
use self::{
    command::{Call, Git},
    remote::Remote,
    resolve::Resolved,
};
use super::{ContextError, TemporaryTree, http::Secrets};
use crate::{
    dockerfile::git_reference::{GitReference, MtimePolicy, is_commit},
    sys::{root::RootDir, stat_key::now_ns},
};

/// Held while a repository of the cache is used; its time says when that was.
pub(super) const LOCK_FILE: &str = "rbuild.lock";

/// How git is used.
#[derive(Debug, Clone)]
pub struct GitOptions {
    /// Where fetched repositories are kept; created when missing.
    pub cache_dir: PathBuf,
    /// Where checkouts are made; created when missing.
    pub work_dir: PathBuf,
    /// The program, looked up in the environment's PATH.
    pub program: PathBuf,
    /// PATH, proxy and certificate variables; variables of git itself are not passed on.
    pub environment: Vec<(OsString, OsString)>,
    /// Socket of an ssh agent; without it ssh has no key.
    pub ssh_agent: Option<PathBuf>,
    /// Host keys to trust; without it, keys are trusted at first sight and remembered beside the cache.
    pub known_hosts: Option<PathBuf>,
    /// Answer from the cache without asking anyone, or fail.
    pub offline: bool,
    /// Bound on one call of git.
    pub timeout_seconds: u64,
}

impl GitOptions {
    /// Reasonable bounds.
    pub fn new(cache_dir: PathBuf, work_dir: PathBuf, environment: Vec<(OsString, OsString)>) -> Self {
        Self {
            cache_dir,
            work_dir,
            program: "git".into(),
            environment,
            ssh_agent: None,
            known_hosts: None,
            offline: false,
            timeout_seconds: 1800,
        }
    }

    /// Nothing of the user's ssh configuration: the agent is the only key ring.
    fn ssh_command(&self) -> String {
        let hosts = self.known_hosts.clone().unwrap_or_else(|| self.cache_dir.join("known_hosts"));
        let policy = if self.known_hosts.is_some() { "yes" } else { "accept-new" };
        let agent = if self.ssh_agent.is_some() { "SSH_AUTH_SOCK" } else { "none" };
        // git gives this to a shell, ssh reads the option's value once more.
        let hosts = format!("UserKnownHostsFile=\"{}\"", hosts.display()).replace('\'', r"'\''");
        format!(
            "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o IdentityAgent={agent} -o StrictHostKeyChecking={policy} -o '{hosts}'"
        )
    }
}

/// What is wanted.
#[derive(Clone, Copy)]
pub struct GitRequest<'a> {
    /// http, https, ssh, git or `user@host:path`; without fragment and query, `https` when it has no scheme. May hold
    /// credentials, which are never shown.
    pub remote: &'a str,
    /// Branch, tag, full ref name or commit; the default branch when None.
    pub reference: Option<&'a str>,
    /// A directory of the repository, to use alone.
    pub subdirectory: Option<&'a str>,
    /// The commit that the ref must be at, or its beginning.
    pub checksum: Option<&'a str>,
    /// Keep a working `.git`.
    pub keep_git_dir: bool,
    /// Fetch submodules, and theirs.
    pub submodules: bool,
    /// Files have the time of their checkout instead of the commit's.
    pub keep_checkout_times: bool,
    /// `GIT_AUTH_TOKEN[.<host>]` and `GIT_AUTH_HEADER[.<host>]`.
    pub secrets: Secrets<'a>,
}

impl<'a> GitRequest<'a> {
    /// What a reference asks for.
    pub fn new(reference: &'a GitReference, secrets: Secrets<'a>) -> Self {
        let checksum = reference.checksum.as_deref();
        let trusted = checksum.filter(|checksum| reference.fetch_by_commit && is_commit(checksum));
        Self {
            remote: &reference.remote,
            reference: trusted.or(reference.reference.as_deref()),
            subdirectory: reference.subdirectory.as_deref(),
            checksum,
            keep_git_dir: reference.keep_git_dir.unwrap_or(false),
            submodules: reference.submodules.unwrap_or(true),
            keep_checkout_times: reference.mtime == Some(MtimePolicy::Checkout),
            secrets,
        }
    }
}

/// A commit's files on disk; removed when dropped.
#[derive(Debug)]
pub struct GitCheckout {
    /// The files asked for: the repository or its subdirectory.
    pub root: RootDir,
    /// Where they are.
    pub path: PathBuf,
    /// The whole name of the commit.
    pub commit: String,
    /// The full name of the ref it was found by, if it was not given by its own name.
    pub reference: Option<String>,
    /// Committer's time, seconds since 1970; every file has it as its time, unless asked otherwise.
    pub commit_time: i64,
    /// Closed to others; what is in it is as open as its modes say.
    _tree: TemporaryTree,
}

/// git and its cache.
#[derive(Debug)]
pub struct GitSource {
    options: GitOptions,
}

impl GitSource {
    /// Prepares; nothing is run.
    pub fn new(options: GitOptions) -> Self {
        Self { options }
    }

    /// The commit a version is at now, without fetching it: what a cache key is made of.
    pub async fn resolve(&self, request: GitRequest<'_>) -> Result<String, ContextError> {
        let (remote, home) = self.prepare(request)?;
        let git = Git { options: &self.options, remote: &remote, home: home.path() };
        let resolved = self.resolved(&git, request).await?;
        Ok(resolved.commit.unwrap_or(resolved.object))
    }

    /// Fetches what is not there yet and checks it out.
    pub async fn checkout(&self, request: GitRequest<'_>) -> Result<GitCheckout, ContextError> {
        let (remote, home) = self.prepare(request)?;
        let git = Git { options: &self.options, remote: &remote, home: home.path() };
        let resolved = self.resolved(&git, request).await?;
        let (cache, lock) = self.locked_repository(&git, &resolved).await?;
        self.fetch(&git, &cache, &resolved, request).await?;
        // Others may look, and check out, from now on; nobody may change or remove it before we are done.
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(GitError::io("lock", &cache))?;
        let commit = format!("{}^{{commit}}", resolved.object);
        let commit = git.run(Call::bare(&cache), &["rev-parse", "--verify", "--end-of-options", &commit]).await?.trim().to_owned();
        let time = git.run(Call::bare(&cache), &["show", "-s", "--no-show-signature", "--format=%ct", &commit, "--"]).await?;
        let commit_time = time.trim().parse().unwrap_or(0);
        let tree = TemporaryTree::create(&self.options.work_dir, "git-")?;
        let path = tree.path().join("checkout");
        fs::create_dir(&path).map_err(GitError::io("create", &path))?;
        check_out(&git, &cache, &resolved, &commit, &path, request).await?;
        let root = RootDir::open(&path).map_err(GitError::io("open", &path))?;
        if !request.keep_git_dir {
            finish::remove_git(&root).map_err(GitError::io("clean", &path))?;
        }
        let time = if request.keep_checkout_times { now_ns() / 1_000_000_000 } else { commit_time };
        finish::settle(&root, time).map_err(GitError::io("settle", &path))?;
        let inside = Path::new(request.subdirectory.unwrap_or("").trim_start_matches('/'));
        let root = finish::subdirectory(&root, inside).map_err(|source| GitError::Subdirectory {
            subdirectory: request.subdirectory.unwrap_or("").into(),
            commit: commit.clone(),
            source,
        })?;
        Ok(GitCheckout { root, path: path.join(inside), commit, reference: resolved.name, commit_time, _tree: tree })
    }

    /// Judges all that comes from outside before anything runs.
    fn prepare(&self, request: GitRequest<'_>) -> Result<(Remote, TemporaryTree), ContextError> {
        let remote = Remote::parse(request.remote, request.secrets)?;
        request.reference.map_or(Ok(()), remote::check_reference)?;
        request.checksum.map_or(Ok(()), remote::check_checksum)?;
        fs::create_dir_all(&self.options.cache_dir).map_err(GitError::io("create", &self.options.cache_dir))?;
        Ok((remote, TemporaryTree::create(&self.options.work_dir, "home-")?))
    }

    async fn resolved(&self, git: &Git<'_>, request: GitRequest<'_>) -> Result<Resolved, GitError> {
        let resolved = match Resolved::of_commit(request.reference) {
            Some(resolved) => resolved,
            None if self.options.offline => self.remembered(git, request.reference).await?,
            None => resolve::ask(git, request.reference).await?,
        };
        match request.checksum {
            Some(expected) if !resolved.matches(expected) => {
                Err(GitError::Mismatch { expected: expected.to_owned(), found: resolved.commit.unwrap_or(resolved.object) })
            }
            _ => Ok(resolved),
        }
    }

    /// What the remote said when it was last asked.
    async fn remembered(&self, git: &Git<'_>, reference: Option<&str>) -> Result<Resolved, GitError> {
        for format in ["sha1", "sha256"] {
            let cache = self.repository_path(git, format);
            let name = memory_of(reference);
            if !cache.join("HEAD").exists() {
                continue;
            }
            let found = git.run(Call::bare(&cache), &["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).await;
            let peeled = format!("{name}^{{commit}}");
            let commit = git.run(Call::bare(&cache), &["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled]).await;
            if let (Ok(object), Ok(commit)) = (found, commit) {
                return Ok(Resolved { name: None, object: object.trim().to_owned(), commit: Some(commit.trim().to_owned()) });
            }
        }
        let (remote, reference) = (git.remote.shown.clone(), reference.unwrap_or("HEAD").to_owned());
        Err(GitError::Offline { remote, reference })
    }

    fn repository_path(&self, git: &Git<'_>, format: &str) -> PathBuf {
        let name = blake3::hash(git.remote.url.as_bytes()).to_hex();
        self.options.cache_dir.join(format!("{}-{format}", &name.as_str()[..32]))
    }

    /// The bare repository of a remote. It appears by rename, whole.
    async fn repository(&self, git: &Git<'_>, resolved: &Resolved) -> Result<PathBuf, ContextError> {
        let path = self.repository_path(git, resolved.object_format());
        if path.join("HEAD").exists() {
            return Ok(path);
        }
        let draft = TemporaryTree::create(&self.options.cache_dir, "draft-")?;
        let format = format!("--object-format={}", resolved.object_format());
        git.run(Call::bare(draft.path()), &["init", "--quiet", "--bare", &format]).await?;
        // Checkouts fetch by commit from here.
        git.run(Call::bare(draft.path()), &["config", "uploadpack.allowAnySHA1InWant", "true"]).await?;
        match fs::rename(draft.path(), &path) {
            Ok(()) => Ok(path),
            // Another build was faster.
            Err(_) if path.join("HEAD").exists() => Ok(path),
            Err(error) => Err(GitError::io("create", &path)(error).into()),
        }
    }

    /// The same, held alone; another build's clean-up may come in between.
    async fn locked_repository(&self, git: &Git<'_>, resolved: &Resolved) -> Result<(PathBuf, File), ContextError> {
        loop {
            let cache = self.repository(git, resolved).await?;
            if let Some(lock) = lock(&cache).await? {
                return Ok((cache, lock));
            }
        }
    }

    /// Fetches an object unless it is there: alone if the server gives it alone, else with all branches and tags.
    async fn fetch(&self, git: &Git<'_>, cache: &Path, resolved: &Resolved, request: GitRequest<'_>) -> Result<(), GitError> {
        let object = resolved.object.as_str();
        let kept = format!("refs/kept/{object}");
        // A ref is written last: whatever it names is complete.
        let is_there = git.run(Call::bare(cache), &["rev-parse", "--verify", "--quiet", "--end-of-options", &kept]).await.is_ok();
        if !is_there {
            if self.options.offline {
                return Err(GitError::Offline { remote: git.remote.shown.clone(), reference: object.to_owned() });
            }
            self.fetch_object(git, cache, object).await?;
            git.run(Call::bare(cache), &["update-ref", &kept, object]).await?;
        }
        if resolved.name.is_some() {
            git.run(Call::bare(cache), &["update-ref", &memory_of(request.reference), object]).await?;
        }
        Ok(())
    }

    async fn fetch_object(&self, git: &Git<'_>, cache: &Path, object: &str) -> Result<(), GitError> {
        let url = git.remote.url.as_str();
        let alone = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--", url, object];
        let Err(error) = git.run(Call::bare(cache), &alone).await else { return Ok(()) };
        let all = "+refs/*:refs/remote/*";
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"];
        if cache.join("shallow").exists() {
            arguments.push("--unshallow");
        }
        arguments.extend(["--", url, all]);
        if git.run(Call::bare(cache), &arguments).await.is_err() {
            return Err(error);
        }
        let found = git.run(Call::bare(cache), &["cat-file", "-e", object]).await;
        found.map(|_| ()).map_err(|_| GitError::NoReference { reference: object.to_owned() })
    }
}

/// Where the object that a ref was last seen at is remembered.
fn memory_of(reference: Option<&str>) -> String {
    match reference {
        None => "refs/seen-default/HEAD".to_owned(),
        Some(reference) => format!("refs/seen/{reference}"),
    }
}

/// Makes a repository of its own at `path`, with one commit and its files.
async fn check_out(
    git: &Git<'_>,
    cache: &Path,
    resolved: &Resolved,
    commit: &str,
    path: &Path,
    request: GitRequest<'_>,
) -> Result<(), GitError> {
    let inside = || Call { git_dir: None, work_tree: Some(path), from_disk: false };
    let format = format!("--object-format={}", resolved.object_format());
    git.run(inside(), &["init", "--quiet", &format, "."]).await?;
    let from_disk = Call { git_dir: None, work_tree: Some(path), from_disk: true };
    // A tag stays a tag, so that `git describe` works in a kept repository.
    let name = resolved.name.as_deref().filter(|name| name.starts_with("refs/tags/")).unwrap_or("refs/fetched");
    let refspec = format!("{}:{name}", resolved.object);
    let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--"].map(OsString::from);
    let fetch: Vec<OsString> = fetch.into_iter().chain([cache.into(), refspec.into()]).collect();
    git.run(from_disk, &fetch).await?;
    git.run(inside(), &["remote", "add", "--", "origin", &git.remote.url]).await?;
    git.run(inside(), &["checkout", "--quiet", "--force", "--detach", commit, "--"]).await?;
    if request.submodules && path.join(".gitmodules").symlink_metadata().is_ok() {
        update_submodules(git, path).await?;
    }
    if request.keep_git_dir {
        if name == "refs/fetched" {
            git.run(inside(), &["update-ref", "-d", name]).await?;
        }
        // An index without inode numbers and times: the same commit gives the same bytes.
        git.run(inside(), &["read-tree", commit]).await?;
    }
    Ok(())
}

async fn update_submodules(git: &Git<'_>, path: &Path) -> Result<(), GitError> {
    let inside = || Call { git_dir: None, work_tree: Some(path), from_disk: false };
    let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--force"];
    let shallow: Vec<&str> = update.into_iter().chain(["--depth=1"]).collect();
    match git.run(inside(), &shallow).await {
        // Some servers give no commits by name: then all of history is needed to find them.
        Err(GitError::Failed { message, .. }) if !message.contains("not allowed") => git.run(inside(), &update).await.map(|_| ()),
        result => result.map(|_| ()),
    }
}

/// Waits for other builds that use the same repository; None when it is gone by then. Given up with the process, however
/// that ends.
async fn lock(cache: &Path) -> Result<Option<File>, GitError> {
    let path = cache.join(LOCK_FILE);
    let file = match File::options().create(true).append(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(GitError::io("lock", &path))?,
    };
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let inode = |metadata: std::io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
    if inode(fs::metadata(&path)) != inode(file.metadata()) {
        return Ok(None);
    }
    // For clean-ups that begin with the least recently used.
    let _ = file.set_modified(SystemTime::now());
    // What a killed git left; nobody else can hold these now.
    for left in ["shallow.lock", "config.lock", "packed-refs.lock"] {
        let _ = fs::remove_file(cache.join(left));
    }
    Ok(Some(file))
}

/// The commit time of the work tree that a directory of the user's lies in; None outside of git. Hooks, monitors and pagers
/// that the repository's own configuration names are not run.
pub async fn work_tree_commit_time(directory: &Path, environment: &[(OsString, OsString)]) -> Option<i64> {
    let mut command = tokio::process::Command::new("git");
    command.env_clear().envs(environment.iter().filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"GIT_")).cloned());
    command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "none").env("LC_ALL", "C");
    command.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager", "-C"]).arg(directory);
    command.args(["show", "-s", "--no-show-signature", "--format=%ct", "HEAD", "--"]);
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(10), command.output()).await.ok()?.ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok()?.trim().parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
