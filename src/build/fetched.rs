//! What ADD takes from the web or from git: fetched once per build, and told apart by what it holds.
//! Unaware of where it goes.

use crate::{
    build::{BuildError, Kind, error::chain, request::Request, sources::Sources},
    context::{
        git::{GitCheckout, GitRequest},
        http::{Download, HttpRequest},
    },
    dockerfile::git_reference::{self, GitReference},
    oci::Checksum,
    plan::SourceFrom,
    snapshot::{Timestamp, copy::SourceRoot, layered::LayeredRoot},
};

/// Mode of a file from the web.
const DOWNLOAD_MODE: u32 = 0o600;

/// Something that was fetched for ADD.
pub enum Fetched {
    /// A file from the web.
    File {
        /// In a directory destination.
        name: String,
        /// Its bytes.
        download: Download,
    },
    /// A tree from git.
    Tree {
        /// Its files.
        tree: LayeredRoot,
        /// Goes with its guard.
        _checkout: GitCheckout,
    },
}

impl Fetched {
    /// As COPY's engine takes it.
    pub fn source_root(&self) -> SourceRoot<'_> {
        match self {
            Self::File { name, download } => {
                let modified = Timestamp { seconds: download.last_modified.unwrap_or(0), nanoseconds: 0 };
                SourceRoot::File { name, file: &download.file, mode: DOWNLOAD_MODE, modified }
            }
            Self::Tree { tree, .. } => SourceRoot::Checkout(tree),
        }
    }
}

/// Fetches a source.
pub async fn fetch(from: &SourceFrom, request: &Request, sources: &Sources) -> Result<Fetched, BuildError> {
    match from {
        SourceFrom::Url { url, file_name, checksum } => {
            let checksum = checksum.as_deref().map(str::parse::<Checksum>).transpose().map_err(|error| fail(&error))?;
            let secrets = |id: &str| secret_text(request, id);
            let wanted = HttpRequest { url, checksum: checksum.as_ref(), secrets: &secrets };
            let download = sources.http().await?.fetch(wanted).await.map_err(|error| fail(&error))?;
            Ok(Fetched::File { name: file_name.clone(), download })
        }
        SourceFrom::Git { .. } => {
            let reference = git_reference(from)?;
            let secrets = |id: &str| secret_text(request, id);
            let checkout = sources.git().await?.checkout(GitRequest::new(&reference, &secrets)).await.map_err(|error| fail(&error))?;
            let tree = LayeredRoot::plain(&checkout.root).map_err(|error| fail(&error))?;
            Ok(Fetched::Tree { tree, _checkout: checkout })
        }
        SourceFrom::Input(_) | SourceFrom::Inline { .. } => Err(BuildError::new(Kind::Step, "nothing to fetch")),
    }
}

/// What a repository's tree is known by without fetching it: the commit, and how it is checked out.
pub async fn git_identity(from: &SourceFrom, request: &Request, sources: &Sources) -> Result<String, BuildError> {
    let reference = git_reference(from)?;
    let secrets = |id: &str| secret_text(request, id);
    let commit = sources.git().await?.resolve(GitRequest::new(&reference, &secrets)).await.map_err(|error| fail(&error))?;
    // A kept .git names its remote, submodules may be relative to it.
    let how = (&reference.remote, &reference.subdirectory, reference.keep_git_dir, reference.submodules, reference.mtime);
    Ok(format!("git:{commit} {how:?}"))
}

/// The reference with what ADD's flags say.
fn git_reference(from: &SourceFrom) -> Result<GitReference, BuildError> {
    let SourceFrom::Git { reference, keep_git_dir, checksum } = from else {
        return Err(BuildError::new(Kind::Step, "no git source"));
    };
    let wrong = |message: String| BuildError::new(Kind::Step, message);
    let mut parsed = git_reference::parse(reference).map_err(wrong)?.ok_or_else(|| wrong(format!("{reference} is no git source")))?;
    if let (Some(asked), Some(flag)) = (parsed.keep_git_dir, keep_git_dir)
        && asked != *flag
    {
        return Err(wrong(format!("inconsistent keep-git-dir configuration: {asked} in {reference}, {flag} in the flag")));
    }
    parsed.keep_git_dir = parsed.keep_git_dir.or(*keep_git_dir);
    if let Some(checksum) = checksum {
        if let Some(asked) = parsed.checksum.as_ref().filter(|asked| *asked != checksum) {
            return Err(wrong(format!("checksum mismatch \"{checksum}\" != \"{asked}\"")));
        }
        parsed.checksum = Some(checksum.clone());
    }
    Ok(parsed)
}

/// A secret as a header needs it.
pub fn secret_text(request: &Request, id: &str) -> Option<String> {
    let bytes = request.secrets.get(id)?;
    Some(String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r']).to_owned())
}

fn fail(error: &dyn std::error::Error) -> BuildError {
    BuildError::new(Kind::Step, chain(error))
}
