//! What can go wrong with a registry. Unaware of hints and exit codes, which are `cli`'s.

use std::{io, path::PathBuf, time::Duration};

use crate::oci::Digest;

/// What can go wrong with a registry.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{}: {reason}", path.display())]
    Configuration { path: PathBuf, reason: String },
    #[error("{registry} is blocked by registries.conf")]
    Blocked { registry: String },
    #[error("credential helper docker-credential-{helper} for {host}: {reason}")]
    CredentialHelper { helper: String, host: String, reason: String },
    #[error("{}", unauthorized(host, repository, *had_credentials, message))]
    Unauthorized { host: String, repository: String, had_credentials: bool, message: String },
    #[error("{reference} not found at {host}{}", detail(message))]
    NotFound { reference: String, host: String, message: String },
    #[error("{host} answers too many requests{}", detail(message))]
    TooManyRequests { host: String, message: String, retry_after: Option<Duration> },
    #[error("{host} answers {status}{}", detail(message))]
    Server { host: String, status: u16, code: String, message: String, retry_after: Option<Duration> },
    // What the HTTP client says above the root of the matter tells nobody anything: it is no source.
    #[error("cannot reach {host}: {}", root_cause(cause))]
    Unreachable { host: String, cause: reqwest::Error },
    #[error("connection to {host} broke: {}", root_cause(cause))]
    Broken { host: String, cause: reqwest::Error },
    #[error("{host} sent nothing for {} s", after.as_secs_f32())]
    Stalled { host: String, after: Duration },
    #[error("{host} sent only {received} of {expected} bytes")]
    Truncated { host: String, received: u64, expected: u64 },
    #[error("TLS with {host}: {}", tls_cause(host, cause))]
    Tls { host: String, cause: reqwest::Error },
    #[error("{host} redirects to {target}, which is refused: {reason}")]
    Redirect { host: String, target: String, reason: &'static str },
    #[error("{host} sent bytes with digest {found}, expected {expected}")]
    DigestMismatch { host: String, expected: Digest, found: Digest },
    #[error("{host} sent {found} bytes for {digest}, its descriptor says {expected}")]
    SizeMismatch { host: String, digest: Digest, expected: u64, found: u64 },
    #[error("{what} from {host} is larger than {limit} bytes")]
    TooLarge { what: String, host: String, limit: u64 },
    #[error("{reference} has media type {media_type}, which is neither an image manifest nor an index")]
    MediaType { reference: String, media_type: String },
    #[error("{host} sent what this client doesn't understand: {reason}")]
    Malformed { host: String, reason: String },
    #[error("{host} lost the upload of {digest}")]
    UploadLost {
        host: String,
        digest: Digest,
        #[source]
        source: Box<Error>,
    },
    #[error("cannot read {digest} to send it")]
    Source {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("cannot write what {host} sent")]
    Sink {
        host: String,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TooManyRequests { .. }
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. }
            | Self::UploadLost { .. } => true,
            Self::Server { status, .. } => matches!(status, 408 | 425 | 500..=599) && *status != 501,
            _ => false,
        }
    }

    /// Whether another source of the same content is worth asking.
    pub(super) fn is_of_endpoint(&self) -> bool {
        !matches!(self, Self::Sink { .. } | Self::Configuration { .. } | Self::Blocked { .. } | Self::MediaType { .. })
    }

    /// How long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The kind of a failed request.
    pub(super) fn of_request(host: &str, source: reqwest::Error) -> Self {
        let host = host.to_owned();
        // A signed URL is a secret.
        let cause = source.without_url();
        let root = root_cause(&cause);
        if cause.is_redirect() {
            return Self::Redirect { host, target: "another address".to_owned(), reason: redirect_reason(&root) };
        }
        match () {
            () if cause.is_builder() || root.contains("certificate") => Self::Tls { host, cause },
            () if cause.is_connect() => Self::Unreachable { host, cause },
            () => Self::Broken { host, cause },
        }
    }
}

/// Why `host::redirect_policy` refused.
pub(super) const DOWNGRADE: &str = "from https to http";
pub(super) const TOO_MANY: &str = "more than 10 redirects";

fn redirect_reason(cause: &str) -> &'static str {
    if cause.contains(DOWNGRADE) { DOWNGRADE } else { TOO_MANY }
}

fn unauthorized(host: &str, repository: &str, had_credentials: bool, message: &str) -> String {
    let detail = detail(message);
    if had_credentials {
        format!("{host} refuses the given credentials for {repository}{detail}")
    } else {
        format!("{host} refuses access to {repository} without credentials{detail}")
    }
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// rustls names its errors as it calls them itself.
fn tls_cause(host: &str, error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    match () {
        () if cause.contains("UnknownIssuer") => format!(
            "its certificate is signed by an unknown authority; those to trust are read from certs.d/{host}/*.crt in \
             /etc/containers and ~/.config/containers"
        ),
        () if cause.contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own (CA:TRUE); it must be a server certificate signed by one".to_owned()
        }
        () => cause,
    }
}

/// The innermost cause: what `reqwest` wraps says only "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
