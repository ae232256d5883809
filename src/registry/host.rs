//! One registry host: its HTTP client, TLS trust and scheme. Unaware of authorization and repositories.

use std::time::Duration;

use reqwest::{StatusCode, Url, redirect};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    ClientOptions, Configuration, Error,
    error::{DOWNGRADE, TOO_MANY},
    registries::is_loopback,
};

/// A host that was talked to, or will be.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) client: reqwest::Client,
    insecure: bool,
    base: OnceCell<Url>,
}

impl Host {
    pub(super) fn new(name: &str, insecure: bool, configuration: &Configuration, options: &ClientOptions) -> Result<Self, Error> {
        let authorities = configuration.authorities()?;
        let client = http_client(name, insecure, configuration, &authorities, options).map_err(|source| Error::of_request(name, source))?;
        Ok(Self { name: name.to_owned(), client, insecure, base: OnceCell::new() })
    }

    /// `https://host/`, or `http://host/` where that is allowed and https doesn't answer.
    pub(super) async fn base(&self, patience: Duration) -> Result<&Url, Error> {
        self.base.get_or_try_init(|| self.find_base(patience)).await
    }

    async fn find_base(&self, patience: Duration) -> Result<Url, Error> {
        let https = self.url("https")?;
        if !self.insecure {
            return Ok(https);
        }
        if self.answers(&https, patience).await.is_ok() {
            return Ok(https);
        }
        let http = self.url("http")?;
        self.answers(&http, patience).await?;
        Ok(http)
    }

    fn url(&self, scheme: &str) -> Result<Url, Error> {
        let malformed = |_| Error::Malformed { host: self.name.clone(), reason: "not a host name".to_owned() };
        format!("{scheme}://{}/", self.name).parse().map_err(malformed)
    }

    /// Whether a registry speaks this scheme; any answer will do but "this is an https port".
    async fn answers(&self, base: &Url, patience: Duration) -> Result<(), Error> {
        let url = base.join("v2/").expect("a constant path");
        let answer = timeout(patience, self.client.get(url).send());
        let answer = answer.await.map_err(|_| Error::Stalled { host: self.name.clone(), after: patience })?;
        let status = answer.map_err(|source| Error::of_request(&self.name, source))?.status();
        if status == StatusCode::BAD_REQUEST && base.scheme() == "http" {
            return Err(Error::Server {
                host: self.name.clone(),
                status: 400,
                code: String::new(),
                message: "no registry speaks plain http here".to_owned(),
                retry_after: None,
            });
        }
        Ok(())
    }
}

fn http_client(
    name: &str,
    insecure: bool,
    configuration: &Configuration,
    bundles: &[Vec<u8>],
    options: &ClientOptions,
) -> reqwest::Result<reqwest::Client> {
    let mut authorities = Vec::new();
    let own = configuration.certificates(name);
    for pem in bundles.iter().chain(own.into_iter().flat_map(|own| &own.authorities)) {
        authorities.extend(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .connect_timeout(options.timeouts.connect)
        .redirect(redirect_policy())
        // Retries are ours, so that they are counted and waited for.
        .retry(reqwest::retry::never())
        .http2_adaptive_window(true)
        .tcp_keepalive(Duration::from_secs(30))
        .tls_danger_accept_invalid_certs(insecure);
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    if let Some(pem) = own.and_then(|own| own.identity.as_ref()) {
        builder = builder.identity(reqwest::Identity::from_pem(pem)?);
    }
    if is_loopback(name) {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// Follows redirects, but never from https to http. `reqwest` drops Authorization when host or port change.
fn redirect_policy() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let downgrade = attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https");
        if downgrade {
            return attempt.error(DOWNGRADE);
        }
        if attempt.previous().len() > 10 { attempt.error(TOO_MANY) } else { attempt.follow() }
    })
}
