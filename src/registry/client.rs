//! The client: its options, its hosts, and the pauses between attempts. Unaware of the verbs.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    Configuration, Error, RetryPolicy,
    auth::Authorizations,
    host::Host,
    registries::{Endpoint, Purpose},
    retry::Attempts,
};
use crate::oci::Reference;

/// How the client behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// Sent with each request.
    pub user_agent: String,
    /// Blobs under way at once.
    pub max_parallel: usize,
    /// How stubborn it is.
    pub retry: RetryPolicy,
    /// How patient it is.
    pub timeouts: Timeouts,
    /// Where credential helpers are searched instead of `$PATH`.
    pub helper_path: Option<OsString>,
    /// Told what the user may want to know while waiting.
    pub listener: Listener,
}

/// Who is told, if anybody: all clients that were made of one another have the same.
#[derive(Clone, Default)]
pub struct Listener(Arc<Mutex<Option<Arc<Tell>>>>);

type Tell = dyn Fn(Notice) + Send + Sync;

impl Listener {
    /// Tells this one.
    pub fn new(tell: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Arc::new(tell)))))
    }
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub response: Duration,
    /// For the next bytes of a body.
    pub stall: Duration,
    /// For the answer to an upload whose last byte is sent: the registry is hashing.
    pub finish: Duration,
}

/// Something that delays the work but doesn't fail it.
#[derive(Debug)]
pub enum Notice {
    /// The same host is asked again.
    Retrying {
        /// Why.
        error: Error,
        /// When.
        delay: Duration,
    },
    /// The next source is asked instead.
    MirrorFailed {
        /// Why.
        error: Error,
        /// Who is asked now.
        next: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retrying { error, delay } => write!(formatter, "{error}; trying again in {:.1} s", delay.as_secs_f32()),
            Self::MirrorFailed { error, next } => write!(formatter, "{error}; asking {next}"),
        }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_parallel: 6,
            retry: RetryPolicy::default(),
            timeouts: Timeouts::default(),
            helper_path: None,
            listener: Listener::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            finish: Duration::from_secs(300),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClientOptions {{ {}, {:?}, {:?} }}", self.user_agent, self.retry, self.timeouts)
    }
}

/// Talks to registries. A clone shares connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) configuration: Configuration,
    pub(super) options: ClientOptions,
    pub(super) authorizations: Authorizations,
    pub(super) permits: Semaphore,
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
    resting: Mutex<HashMap<String, Instant>>,
}

/// A mirror that failed is left alone for this time.
const REST: Duration = Duration::from_secs(60);

impl Client {
    /// Connects nowhere yet.
    pub fn new(configuration: Configuration, options: ClientOptions) -> Self {
        let inner = Inner {
            permits: Semaphore::new(options.max_parallel.max(1)),
            configuration,
            options,
            authorizations: Authorizations::default(),
            hosts: Mutex::default(),
            resting: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A client of the same registries that behaves otherwise. It shares neither connections nor tokens with this one.
    pub fn with_options(&self, change: impl FnOnce(&mut ClientOptions)) -> Self {
        let mut options = self.inner.options.clone();
        change(&mut options);
        Self::new(self.inner.configuration.clone(), options)
    }

    /// One that takes plain http and unverified TLS from these hosts too.
    pub fn with_insecure(&self, hosts: &[String]) -> Self {
        let mut configuration = self.inner.configuration.clone();
        hosts.iter().for_each(|host| configuration.mark_insecure(host));
        Self::new(configuration, self.inner.options.clone())
    }

    /// Tells another from now on, also for the clients that were made of this one.
    pub fn listen(&self, tell: impl Fn(Notice) + Send + Sync + 'static) {
        *self.inner.options.listener.0.lock().expect("no panic while locked") = Some(Arc::new(tell));
    }

    /// The passwords and tokens of the user's credential files, by host; those of credential helpers are not asked for.
    pub fn passwords(&self) -> Vec<(String, String)> {
        self.inner.configuration.credentials().iter().flat_map(super::credentials::CredentialFile::passwords).collect()
    }

    pub(super) fn host(&self, endpoint: &Endpoint) -> Result<Arc<Host>, Error> {
        let mut hosts = self.inner.hosts.lock().expect("no panic while locked");
        let key = (endpoint.host.clone(), endpoint.insecure);
        if let Some(host) = hosts.get(&key) {
            return Ok(host.clone());
        }
        let host = Arc::new(Host::new(&endpoint.host, endpoint.insecure, &self.inner.configuration, &self.inner.options)?);
        hosts.insert(key, host.clone());
        Ok(host)
    }

    /// Whom to ask for `reference`, in order, with how much patience.
    pub(super) fn sources(&self, reference: &Reference, purpose: Purpose) -> Result<Vec<(Endpoint, RetryPolicy)>, Error> {
        let mut endpoints = self.inner.configuration.endpoints(reference, purpose)?;
        let resting = self.inner.resting.lock().expect("no panic while locked");
        endpoints.retain(|endpoint| !endpoint.mirror || resting.get(&endpoint.host).is_none_or(|until| *until < Instant::now()));
        let policy = &self.inner.options.retry;
        let patience = |endpoint: &Endpoint| if endpoint.mirror { policy.impatient() } else { policy.clone() };
        Ok(endpoints.into_iter().map(|endpoint| (patience(&endpoint), endpoint)).map(|(policy, endpoint)| (endpoint, policy)).collect())
    }

    /// A mirror failed: says so and lets it rest if it is the host's fault. Gives `error` back when nobody else can help.
    pub(super) fn turn_to(&self, failed: &Endpoint, next: Option<&Endpoint>, error: Error) -> Result<(), Error> {
        let Some(next) = next.filter(|_| error.is_of_endpoint()) else { return Err(error) };
        if error.is_transient() || matches!(error, Error::Tls { .. } | Error::DigestMismatch { .. } | Error::SizeMismatch { .. }) {
            self.rest(failed);
        }
        self.notice(Notice::MirrorFailed { error, next: next.host.clone() });
        Ok(())
    }

    /// Leaves a mirror alone for a while.
    pub(super) fn rest(&self, endpoint: &Endpoint) {
        self.inner.resting.lock().expect("no panic while locked").insert(endpoint.host.clone(), Instant::now() + REST);
    }

    /// Waits before the next attempt, or gives `error` back.
    pub(super) async fn pause(&self, attempts: &mut Attempts<'_>, error: Error) -> Result<(), Error> {
        let (delay, error) = attempts.next_delay(error)?;
        self.notice(Notice::Retrying { error, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn notice(&self, notice: Notice) {
        let told = self.inner.options.listener.0.lock().expect("no panic while locked").clone();
        if let Some(tell) = told {
            tell(notice);
        }
    }
}
