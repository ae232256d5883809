//! Authorization: answers a registry's challenge with a token or a password, and remembers the answer until it expires.
//! Unaware of what the authorized request does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::Engine;
use reqwest::{
    Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use super::{
    Client, Credential, Error,
    challenge::Challenge,
    credentials::{Lookup, ask_helper},
    error::DOWNGRADE,
    exchange::{read_limited, refusal, send},
    host::Host,
    registries::{Endpoint, is_loopback},
};

/// What a request must be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Access {
    scopes: Vec<String>,
}

impl Access {
    pub(super) fn pull(endpoint: &Endpoint) -> Self {
        Self { scopes: vec![format!("repository:{}:pull", endpoint.repository)] }
    }

    pub(super) fn push(endpoint: &Endpoint) -> Self {
        Self { scopes: vec![format!("repository:{}:pull,push", endpoint.repository)] }
    }

    /// To be known, no more.
    pub(super) fn none() -> Self {
        Self { scopes: Vec::new() }
    }

    /// To push, and to read from another repository while doing so.
    pub(super) fn mount(endpoint: &Endpoint, from: &str) -> Self {
        let mut access = Self::push(endpoint);
        access.scopes.push(format!("repository:{from}:pull"));
        access
    }
}

/// The answers in use. A slot's lock is held while its answer is fetched, so that parallel requests fetch it once.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    challenges: Mutex<HashMap<String, Challenge>>,
    slots: Mutex<HashMap<(String, Access), Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

#[derive(Debug, Clone)]
struct Grant {
    header: HeaderValue,
    /// When to fetch a new one: some time before the server forgets this one.
    renew_at: Instant,
    had_credentials: bool,
}

/// What to send, and whether it stands for a user.
#[derive(Debug, Clone)]
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    pub(super) had_credentials: bool,
}

/// A password from a helper is asked for again after this time: some helpers hand out short-lived ones.
const BASIC_LIFETIME: Duration = Duration::from_secs(600);
const TOKEN_ANSWER_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Authorizations {
    fn slot(&self, host: &str, access: &Access) -> Slot {
        let key = (host.to_owned(), access.clone());
        self.slots.lock().expect("no panic while locked").entry(key).or_default().clone()
    }

    fn challenge(&self, host: &str) -> Option<Challenge> {
        self.challenges.lock().expect("no panic while locked").get(host).cloned()
    }

    fn remember(&self, host: &str, challenge: &Challenge) {
        let general = match challenge {
            Challenge::Bearer { realm, service, .. } => Challenge::Bearer { realm: realm.clone(), service: service.clone(), scope: None },
            Challenge::Basic => Challenge::Basic,
        };
        self.challenges.lock().expect("no panic while locked").insert(host.to_owned(), general);
    }
}

impl Client {
    /// What to send with a first request; None to a host that never asked.
    pub(super) async fn known_authorization(&self, endpoint: &Endpoint, access: &Access) -> Result<Option<Authorization>, Error> {
        let Some(challenge) = self.inner.authorizations.challenge(&endpoint.host) else { return Ok(None) };
        self.authorization(endpoint, access, &challenge, None).await.map(Some)
    }

    /// What to send after `challenges` came back for a request with `rejected`.
    pub(super) async fn answer(
        &self,
        endpoint: &Endpoint,
        access: &Access,
        challenges: &[Challenge],
        rejected: Option<&HeaderValue>,
    ) -> Result<Authorization, Error> {
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or_else(|| challenges.first()) else {
            return Err(Error::Malformed {
                host: endpoint.host.clone(),
                reason: "401 with neither a Bearer nor a Basic challenge".to_owned(),
            });
        };
        self.inner.authorizations.remember(&endpoint.host, challenge);
        self.authorization(endpoint, access, challenge, rejected).await
    }

    async fn authorization(
        &self,
        endpoint: &Endpoint,
        access: &Access,
        challenge: &Challenge,
        rejected: Option<&HeaderValue>,
    ) -> Result<Authorization, Error> {
        let slot = self.inner.authorizations.slot(&endpoint.host, access);
        let mut grant = slot.lock().await;
        let usable = grant.as_ref().filter(|grant| grant.renew_at > Instant::now() && Some(&grant.header) != rejected);
        let current = match usable {
            Some(grant) => grant.clone(),
            None => grant.insert(self.fetch_grant(endpoint, access, challenge).await?).clone(),
        };
        Ok(Authorization { header: current.header, had_credentials: current.had_credentials })
    }

    async fn fetch_grant(&self, endpoint: &Endpoint, access: &Access, challenge: &Challenge) -> Result<Grant, Error> {
        let (credential, trouble) = self.credential(endpoint).await;
        let result = match challenge {
            Challenge::Basic => basic_grant(endpoint, credential.as_ref()),
            Challenge::Bearer { realm, service, scope } => {
                let mut scopes = access.scopes.clone();
                scopes
                    .extend(scope.iter().flat_map(|scope| scope.split(' ')).filter(|one| !covered(&access.scopes, one)).map(str::to_owned));
                self.fetch_token(endpoint, realm, service.as_deref(), &scopes, credential.as_ref()).await
            }
        };
        match (result, trouble) {
            // Anonymous was the second choice: say what happened to the first.
            (Err(Error::Unauthorized { .. }), Some(trouble)) => Err(trouble),
            (result, _) => result,
        }
    }

    /// The first credential that the user's files have for the host, and what went wrong while looking.
    async fn credential(&self, endpoint: &Endpoint) -> (Option<Credential>, Option<Error>) {
        let mut trouble = None;
        for file in self.inner.configuration.credentials() {
            for lookup in file.lookups(&endpoint.host, &endpoint.repository) {
                match lookup {
                    Lookup::Known(credential) => return (Some(credential), None),
                    Lookup::Helper(name) => match ask_helper(&name, &endpoint.host, self.inner.options.helper_path.as_deref()).await {
                        Ok(Some(credential)) => return (Some(credential), None),
                        Ok(None) => {}
                        Err(error) => trouble = trouble.or(Some(error)),
                    },
                }
            }
        }
        (None, trouble)
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Grant, Error> {
        let malformed = |reason: String| Error::Malformed { host: endpoint.host.clone(), reason };
        let url: Url = realm.parse().map_err(|_| malformed(format!("token realm `{realm}` is no address")))?;
        let host = self.realm_host(endpoint, &url).await?;
        let patience = self.inner.options.timeouts.response;
        let response = send(&host.name, token_request(&host, url, service, scopes, credential), patience).await?;
        if !response.status().is_success() {
            return Err(refusal(response, &host.name, &endpoint.repository, &endpoint.repository, credential.is_some()).await);
        }
        let body = read_limited(response, &host.name, "a token", TOKEN_ANSWER_LIMIT, self.inner.options.timeouts.stall).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| malformed("a token answer that is not JSON".to_owned()))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        let header = (!token.is_empty()).then(|| secret_header(&format!("Bearer {token}"))).flatten();
        let lifetime = Duration::from_secs(answer.expires_in.filter(|seconds| *seconds > 0).unwrap_or(60).min(86_400));
        let renew_at = Instant::now() + lifetime - (lifetime / 4).min(Duration::from_secs(30));
        let header = header.ok_or_else(|| malformed("a token answer without a token".to_owned()))?;
        Ok(Grant { header, renew_at, had_credentials: credential.is_some() })
    }

    /// The host that hands out tokens; never one on plain http for a registry on https.
    async fn realm_host(&self, endpoint: &Endpoint, realm: &Url) -> Result<Arc<Host>, Error> {
        let registry = self.host(endpoint)?;
        let base = registry.base(self.inner.options.timeouts.response).await?;
        if base.scheme() == "https" && realm.scheme() != "https" {
            return Err(Error::Redirect { host: endpoint.host.clone(), target: realm.to_string(), reason: DOWNGRADE });
        }
        let name = host_of(realm);
        let insecure = is_loopback(&name) || (endpoint.insecure && name == endpoint.host);
        self.host(&Endpoint { host: name, insecure, ..endpoint.clone() })
    }
}

/// `host:port` of an address.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn basic_grant(endpoint: &Endpoint, credential: Option<&Credential>) -> Result<Grant, Error> {
    let header = match credential {
        Some(Credential::Password { user, password }) => basic_header(user, password),
        _ => None,
    };
    let header = header.ok_or_else(|| Error::Unauthorized {
        host: endpoint.host.clone(),
        repository: endpoint.repository.clone(),
        had_credentials: credential.is_some(),
        message: "it asks for a user and a password".to_owned(),
    })?;
    Ok(Grant { header, renew_at: Instant::now() + BASIC_LIFETIME, had_credentials: true })
}

fn basic_header(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret_header(&format!("Basic {encoded}"))
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Whether `scopes` already allow what `asked` names.
fn covered(scopes: &[String], asked: &str) -> bool {
    let Some((resource, actions)) = asked.rsplit_once(':') else { return true };
    scopes
        .iter()
        .filter_map(|scope| scope.rsplit_once(':'))
        .any(|(own, allowed)| own == resource && actions.split(',').all(|action| allowed.split(',').any(|one| one == action)))
}

/// GET with a password or nothing, POST with a refresh token, as docker does it.
fn token_request(
    host: &Host,
    mut url: Url,
    service: Option<&str>,
    scopes: &[String],
    credential: Option<&Credential>,
) -> reqwest::RequestBuilder {
    if let Some(Credential::IdentityToken(token)) = credential {
        let mut form: Url = "http://form/".parse().expect("a constant address");
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("client_id", "rbuild")
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", token);
        let body = form.query().unwrap_or_default().to_owned();
        return host.client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    }
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(service.map(|service| ("service", service)));
        query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
        if let Some(Credential::Password { user, .. }) = credential {
            query.append_pair("account", user);
        }
    }
    match credential {
        Some(Credential::Password { user, password }) => host.client.get(url).basic_auth(user, Some(password)),
        _ => host.client.get(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_realms() {
        for (realm, expected) in [
            ("https://auth.example/token", "auth.example"),
            ("http://127.0.0.1:5001/token?x=/y", "127.0.0.1:5001"),
            ("https://user:pw@auth.example:444", "auth.example:444"),
        ] {
            let url: Url = realm.parse().unwrap();
            assert_eq!(host_of(&url), expected);
        }
    }

    #[test]
    fn scopes_that_are_held_are_not_asked_for_twice() {
        let held = ["repository:a:pull,push".to_owned()];
        assert!(covered(&held, "repository:a:pull"));
        assert!(covered(&held, "repository:a:push,pull"));
        assert!(!covered(&held, "repository:a:delete"));
        assert!(!covered(&held, "repository:b:pull"));
    }
}
