//! The build context and the Dockerfile, wherever they come from: a directory, a git URL, an archive or a Dockerfile by URL
//! or on standard input. What is local is read at once; the rest is fetched when there is a store to keep it in.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    build::{ContextSource, Request, Services, chain},
    cli::{args::BuildArgs, failure::Failure, words},
    context::{
        ContextError, LocalContext, StreamContext, UnpackedContext,
        git::{GitCheckout, GitRequest},
        http::{HttpRequest, file_name},
        is_archive, newest_entry, read_dockerfile_in, read_stream,
    },
    dockerfile::{
        git_reference::{self, GitReference},
        nearest, parse_bool,
    },
    oci::{Checksum, tar::Limits},
    plan::{EpochSource, epoch_source},
    sys::root::RootDir,
};

/// Dockerfiles are written by people.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

/// What the shell calls standard input.
const STDIN: &str = "-";

/// Where the main context is.
enum Place {
    Directory,
    Stdin,
    Git(GitReference),
    Web,
}

/// Fetched trees; they go when the build is over.
#[derive(Default)]
pub struct Fetched {
    checkouts: Vec<GitCheckout>,
    archives: Vec<UnpackedContext>,
    /// `SOURCE_DATE_EPOCH=context`.
    epoch: Option<i64>,
    /// The main context's URL without credentials, algorithm and digest.
    pub source: Option<(String, (String, String))>,
}

/// The text of a Dockerfile and its name for messages.
pub struct Dockerfile {
    /// What to parse.
    pub text: String,
    /// As the user knows it.
    pub name: String,
}

/// A context and Dockerfile that need no fetching; empty where [`fetch`] has to fill in.
pub fn read_local(args: &BuildArgs) -> Result<(ContextSource, Dockerfile), Failure> {
    if args.context == STDIN && args.file.as_deref() == Some(STDIN) {
        return Err(Failure::usage("invalid argument: can't use stdin for both build context and dockerfile"));
    }
    let later = || Dockerfile { text: String::new(), name: String::new() };
    let Place::Directory = place(args)? else { return Ok((ContextSource::Empty, later())) };
    let local = LocalContext::open(Path::new(&args.context)).map_err(|error| failed(&error))?;
    let (dockerfile, own_ignore) = match args.file.as_deref() {
        Some(file) if file == STDIN || is_url(file) => (later(), None),
        file => {
            let source = local.read_dockerfile(file.map(Path::new)).map_err(|error| no_dockerfile(&error, &local))?;
            let path = source.dockerfile.path.strip_prefix(".").unwrap_or(&source.dockerfile.path);
            let name = path.display().to_string();
            (Dockerfile { text: source.dockerfile.text, name }, source.ignore)
        }
    };
    let ignore = match own_ignore {
        Some(own) => Some(own),
        None => local.read_ignore_file().map_err(|error| failed(&error))?,
    };
    let ignore = ignore.map(|file| (file.path.strip_prefix(".").unwrap_or(&file.path).display().to_string(), file.text));
    Ok((ContextSource::Directory { path: local.path().to_owned(), ignore }, dockerfile))
}

/// A named context that has to be fetched.
pub fn is_remote(value: &str) -> bool {
    is_url(value) || (!Path::new(value).is_dir() && matches!(git_reference::parse(value), Ok(Some(_))))
}

/// Whether the main context is fetched by ssh, for which the user's agent may be asked unless another is named.
pub fn is_by_ssh(args: &BuildArgs) -> bool {
    matches!(place(args), Ok(Place::Git(reference)) if !reference.remote.contains("://") || reference.remote.starts_with("ssh://"))
}

/// Fetches what [`read_local`] left open, and the named contexts in `remote` (name and URL).
pub async fn fetch(args: &BuildArgs, remote: &[(String, String)], request: &mut Request, services: &Services) -> Result<Fetched, Failure> {
    let mut fetched = Fetched::default();
    let fetcher = Fetcher { args, services };
    match place(args)? {
        Place::Directory => {}
        Place::Stdin => fetcher.stdin_context(request, &mut fetched)?,
        Place::Git(reference) => fetcher.git_context(reference, request, &mut fetched).await?,
        Place::Web => fetcher.web_context(request, &mut fetched).await?,
    }
    if request.dockerfile_name.is_empty() {
        let dockerfile = fetcher.dockerfile(request).await?;
        (request.dockerfile, request.dockerfile_name) = (dockerfile.text, dockerfile.name);
    }
    let dockerfile = crate::dockerfile::parse(&request.dockerfile).ok();
    let asked = dockerfile.zip(request.plans.first()).and_then(|(dockerfile, plan)| epoch_source(&dockerfile, plan).ok().flatten());
    // Directories and images have no time of their own.
    let mut source_epoch = None;
    for (name, url) in remote {
        let (source, epoch) = fetcher.named(url, request, &mut fetched).await?;
        if matches!(&asked, Some(EpochSource::Context(wanted)) if wanted == name) {
            source_epoch = epoch;
        }
        request.named_contexts.insert(name.clone(), source);
    }
    if let Some(asked) = &asked {
        source_epoch = source_epoch.or(fetcher.time_of(asked, request).await?);
    }
    for plan in &mut request.plans {
        plan.context_epoch = fetched.epoch;
        plan.source_epoch = source_epoch;
    }
    Ok(fetched)
}

fn place(args: &BuildArgs) -> Result<Place, Failure> {
    if args.context == STDIN {
        return Ok(Place::Stdin);
    }
    // What is there as a directory is one, whatever it looks like.
    if Path::new(&args.context).exists() {
        return Ok(Place::Directory);
    }
    match git_reference::parse(&args.context) {
        Ok(Some(reference)) => Ok(Place::Git(reference)),
        Err(message) => Err(Failure::usage(format!("the build context {}: {message}", crate::context::redact_url(&args.context)))),
        Ok(None) if is_url(&args.context) => Ok(Place::Web),
        // What may not be looked at is said when it is opened.
        Ok(None) if matches!(Path::new(&args.context).try_exists(), Ok(false)) => Err(no_context(&args.context)),
        Ok(None) => Ok(Place::Directory),
    }
}

/// A first word that is no verb is the context of a build: one that nearly is a verb was likely meant as that.
fn no_context(path: &str) -> Failure {
    let failure = Failure::usage(format!("the build context {path} does not exist"));
    match nearest(path, words::VERBS.iter().copied()) {
        Some(verb) => failure.with_hint(format!("did you mean `rbuild {verb}`?")),
        None => failure,
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

struct Fetcher<'a> {
    args: &'a BuildArgs,
    services: &'a Services,
}

impl Fetcher<'_> {
    fn stdin_context(&self, request: &mut Request, fetched: &mut Fetched) -> Result<(), Failure> {
        let parent = self.work_directory()?;
        let stream = read_stream(std::io::stdin().lock(), STDIN, &parent, Limits::default()).map_err(|error| failed(&error))?;
        if let (StreamContext::Dockerfile(_), Some(_)) = (&stream, &self.args.file) {
            return Err(Failure::usage("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"));
        }
        self.take_stream(stream, STDIN, None, request, fetched)
    }

    async fn web_context(&self, request: &mut Request, fetched: &mut Fetched) -> Result<(), Failure> {
        let url = &self.args.context;
        let secrets = secrets_of(request);
        let wanted = HttpRequest { url, checksum: None, secrets: &secrets };
        let sources = self.services.sources.http().await.map_err(Failure::from)?;
        let download = sources.fetch(wanted).await.map_err(|error| failed(&error))?;
        let parent = self.work_directory()?;
        let shown = crate::context::redact_url(url).into_owned();
        fetched.source = Some((shown.clone(), ("sha256".to_owned(), download.digest.hex().to_owned())));
        let stream = read_stream(download.file, &shown, &parent, Limits::default()).map_err(|error| failed(&error))?;
        self.take_stream(stream, &shown, download.last_modified, request, fetched)
    }

    /// An archive with its Dockerfile, or a Dockerfile alone. The server's time goes before the archive's own.
    fn take_stream(
        &self,
        stream: StreamContext,
        name: &str,
        modified: Option<i64>,
        request: &mut Request,
        fetched: &mut Fetched,
    ) -> Result<(), Failure> {
        match stream {
            StreamContext::Dockerfile(text) => {
                let name = if name == STDIN { "<stdin>" } else { name };
                (request.dockerfile, request.dockerfile_name) = (text, name.to_owned());
                request.context = ContextSource::Empty;
                fetched.epoch = modified;
            }
            StreamContext::Archive(archive) => {
                for path in &archive.skipped {
                    let _ = writeln!(std::io::stderr(), "note: the context's device {} is left out", path.display());
                }
                let root = RootDir::open(archive.tree.path()).map_err(|error| failed(&error))?;
                self.read_inside(&root, request)?;
                request.context = ContextSource::Fetched { path: archive.tree.path().to_owned() };
                fetched.epoch = modified.or(archive.newest_entry);
                fetched.archives.push(archive);
            }
        }
        Ok(())
    }

    async fn git_context(&self, reference: GitReference, request: &mut Request, fetched: &mut Fetched) -> Result<(), Failure> {
        let checkout = self.checkout(reference, request).await?;
        self.read_inside(&checkout.root, request)?;
        request.context = ContextSource::Fetched { path: checkout.path.clone() };
        fetched.epoch = Some(checkout.commit_time);
        let algorithm = if checkout.commit.len() == 64 { "sha256" } else { "sha1" };
        let url = crate::context::redact_url(&self.args.context).into_owned();
        fetched.source = Some((url, (algorithm.to_owned(), checkout.commit.clone())));
        fetched.checkouts.push(checkout);
        Ok(())
    }

    async fn checkout(&self, mut reference: GitReference, request: &Request) -> Result<GitCheckout, Failure> {
        let build_args = request.plans.first().map(|plan| &plan.build_args);
        let keep = build_args.and_then(|given| given.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR"));
        let keep = keep.and_then(|value| parse_bool(value)).unwrap_or(false);
        reference.keep_git_dir = reference.keep_git_dir.or(Some(keep));
        let secrets = secrets_of(request);
        let sources = self.services.sources.git().await.map_err(Failure::from)?;
        sources.checkout(GitRequest::new(&reference, &secrets)).await.map_err(|error| failed(&error))
    }

    /// The Dockerfile of a fetched tree, unless `-f` names one of ours: by absolute path, on standard input or by URL.
    fn read_inside(&self, root: &RootDir, request: &mut Request) -> Result<(), Failure> {
        let file = self.args.file.as_deref();
        if file.is_some_and(|file| file == STDIN || is_url(file) || Path::new(file).is_absolute()) {
            return Ok(());
        }
        let source = read_dockerfile_in(root, file.map(Path::new)).map_err(|error| failed(&error))?;
        (request.dockerfile, request.dockerfile_name) = (source.text, source.path.display().to_string());
        Ok(())
    }

    /// The Dockerfile that `-f` names outside of any fetched tree.
    async fn dockerfile(&self, request: &Request) -> Result<Dockerfile, Failure> {
        let file = self.args.file.as_deref().unwrap_or(STDIN);
        if file == STDIN {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(TEXT_LIMIT_BYTES).read_to_string(&mut text);
            read.map_err(|error| Failure::new(format!("failed to read dockerfile: standard input: {error}")))?;
            return Ok(Dockerfile { text, name: "<stdin>".to_owned() });
        }
        if is_url(file) {
            let secrets = secrets_of(request);
            let wanted = HttpRequest { url: file, checksum: None, secrets: &secrets };
            let sources = self.services.sources.http().await.map_err(Failure::from)?;
            let text = sources.fetch_text(wanted, TEXT_LIMIT_BYTES).await.map_err(|error| failed(&error))?;
            return Ok(Dockerfile { text, name: crate::context::redact_url(file).into_owned() });
        }
        let path = Path::new(file);
        let folder = LocalContext::open(path.parent().unwrap_or(Path::new("/"))).map_err(|error| failed(&error))?;
        let source = folder.read_dockerfile(Some(path)).map_err(|error| failed(&error))?;
        Ok(Dockerfile { text: source.dockerfile.text, name: source.dockerfile.path.display().to_string() })
    }

    /// When the file or the commit that a stage ADDs is from: what its server says, else the newest file of an archive.
    async fn time_of(&self, source: &EpochSource, request: &Request) -> Result<Option<i64>, Failure> {
        match source {
            EpochSource::Context(_) => Ok(None),
            EpochSource::Url { url, checksum } => {
                let checksum = checksum.as_deref().map(str::parse::<Checksum>).transpose().map_err(|error| failed(&error))?;
                let secrets = secrets_of(request);
                let sources = self.services.sources.http().await.map_err(Failure::from)?;
                let wanted = HttpRequest { url, checksum: checksum.as_ref(), secrets: &secrets };
                let download = sources.fetch(wanted).await.map_err(|error| failed(&error))?;
                match download.last_modified {
                    Some(time) => Ok(Some(time)),
                    // What begins like an archive and is none has no time either.
                    None => Ok(newest_entry(download.file, Limits::default()).unwrap_or(None)),
                }
            }
            EpochSource::Git { reference, checksum } => {
                let parsed = git_reference::parse(reference).map_err(Failure::usage)?;
                let Some(mut parsed) = parsed else { return Ok(None) };
                parsed.checksum = checksum.clone().or(parsed.checksum);
                Ok(Some(self.checkout(parsed, request).await?.commit_time))
            }
        }
    }

    /// A named context and its time.
    async fn named(&self, url: &str, request: &Request, fetched: &mut Fetched) -> Result<(ContextSource, Option<i64>), Failure> {
        let shown = crate::context::redact_url(url).into_owned();
        match git_reference::parse(url).map_err(|message| Failure::usage(format!("--build-context {shown}: {message}")))? {
            Some(reference) => {
                let checkout = self.checkout(reference, request).await?;
                let (path, time) = (checkout.path.clone(), checkout.commit_time);
                fetched.checkouts.push(checkout);
                Ok((ContextSource::Fetched { path }, Some(time)))
            }
            None => self.named_file(url, request, fetched).await,
        }
    }

    /// An archive is unpacked; any other file is the one file of its context.
    async fn named_file(&self, url: &str, request: &Request, fetched: &mut Fetched) -> Result<(ContextSource, Option<i64>), Failure> {
        let secrets = secrets_of(request);
        let sources = self.services.sources.http().await.map_err(Failure::from)?;
        let wanted = HttpRequest { url, checksum: None, secrets: &secrets };
        let mut download = sources.fetch(wanted).await.map_err(|error| failed(&error))?;
        let mut start = Vec::new();
        Read::by_ref(&mut download.file).take(512).read_to_end(&mut start).map_err(|error| failed(&error))?;
        std::io::Seek::rewind(&mut download.file).map_err(|error| failed(&error))?;
        let parent = self.work_directory()?;
        if is_archive(&start) {
            let archive = crate::context::unpack(download.file, &parent, Limits::default()).map_err(|error| failed(&error))?;
            let time = download.last_modified.or(archive.newest_entry);
            let path = archive.tree.path().to_owned();
            fetched.archives.push(archive);
            return Ok((ContextSource::Fetched { path }, time));
        }
        let tree = crate::context::TemporaryTree::create(&parent, "file-").map_err(|error| failed(&error))?;
        let path = tree.path().to_owned();
        write_file(&mut download.file, &path.join(file_name(url)), download.last_modified.unwrap_or(0))
            .map_err(|error| Failure::new(format!("cannot keep {}: {error}", crate::context::redact_url(url))))?;
        fetched.archives.push(UnpackedContext { tree, newest_entry: None, skipped: Vec::new() });
        Ok((ContextSource::Fetched { path }, download.last_modified))
    }

    fn work_directory(&self) -> Result<PathBuf, Failure> {
        self.services.sources.work_directory().map_err(Failure::from)
    }
}

/// With the mode and time that a file from the web has.
fn write_file(from: &mut std::fs::File, path: &Path, modified: i64) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut to = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::copy(from, &mut to)?;
    let since = std::time::Duration::from_secs(modified.max(0) as u64);
    to.set_modified(std::time::UNIX_EPOCH + since)
}

fn secrets_of(request: &Request) -> impl Fn(&str) -> Option<String> + Send + Sync + use<> {
    let secrets = request.secrets.clone();
    move |id: &str| {
        let text = String::from_utf8_lossy(secrets.get(id)?);
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(chain(error))
}

/// A Dockerfile of another name may be what was meant.
fn no_dockerfile(error: &ContextError, local: &LocalContext) -> Failure {
    let failure = failed(error);
    let ContextError::NoDockerfile { path } = error else { return failure };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(local.path());
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |name: &String| {
        let lower = name.to_lowercase();
        (lower.contains("dockerfile") || lower.contains("containerfile")) && !lower.ends_with(".dockerignore")
    };
    let mut near: Vec<String> = names.filter(is_one).take(4).collect();
    near.sort();
    match near.is_empty() {
        true => failure.with_hint("name it with -f PATH, or give it on standard input with -f -"),
        false => failure.with_hint(format!("there is {}: name it with -f", near.join(", "))),
    }
}
