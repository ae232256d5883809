//! The client and single requests: headers, credentials, redirects. Unaware of bodies and caches.

use std::{sync::Arc, time::Duration};

use reqwest::{RequestBuilder, Response, Url, header, redirect};

use super::{HttpError, HttpOptions, Secrets, policy, redact_url};

/// What servers know BuildKit's downloads by, and our own name.
const USER_AGENT: &str = concat!("buildkit/v0 rbuild/", env!("CARGO_PKG_VERSION"));

/// Bytes arrive as they lie on the server: nothing decodes them on the way.
pub(super) fn client(options: &HttpOptions) -> Result<reqwest::Client, HttpError> {
    let allow_link_local = options.allow_link_local;
    let redirects = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > policy::MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        match policy::judge(attempt.url(), allow_link_local) {
            Ok(()) => attempt.follow(),
            Err(refusal) => attempt.error(refusal),
        }
    });
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirects)
        .referer(false)
        .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
        .read_timeout(Duration::from_millis(options.read_timeout_ms))
        .dns_resolver(Arc::new(policy::Resolver { allow_link_local }))
        .no_proxy();
    for proxy in &options.proxies {
        builder = builder.proxy(proxy.clone());
    }
    if !options.certificates.is_empty() {
        builder = builder.tls_certs_merge(options.certificates.clone());
    }
    builder.build().map_err(HttpError::Client)
}

/// Sends a request with the credentials its host is owed. The client drops them when a redirect leaves the host.
pub(super) async fn send(request: RequestBuilder, url: &Url, secrets: Secrets<'_>) -> Result<Response, HttpError> {
    let request = match authorization(url, secrets)? {
        Some(value) => request.header(header::AUTHORIZATION, value),
        None => request,
    };
    request.send().await.map_err(|error| failed(url, error))
}

/// An error without the URL that `reqwest` would show with its credentials.
pub(super) fn failed(url: &Url, error: reqwest::Error) -> HttpError {
    HttpError::Request { url: redact_url(url.as_str()).into_owned(), source: error.without_url() }
}

/// Secrets are found by host and port, then by host.
fn authorization(url: &Url, secrets: Secrets<'_>) -> Result<Option<header::HeaderValue>, HttpError> {
    let host = url.host_str().unwrap_or_default();
    let with_port = url.port().map(|port| format!("{host}:{port}"));
    for host in with_port.as_deref().into_iter().chain([host]) {
        for (id, scheme) in [(format!("HTTP_AUTH_HEADER_{host}"), ""), (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer ")] {
            if let Some(secret) = secrets(&id) {
                let text = format!("{scheme}{}", secret.trim_end_matches(['\r', '\n']));
                let mut value = header::HeaderValue::try_from(text).map_err(|_| HttpError::Secret { id })?;
                value.set_sensitive(true);
                return Ok(Some(value));
            }
        }
    }
    Ok(None)
}
