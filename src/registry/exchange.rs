//! One request: authorized, answered in time, its refusal turned into an error. Unaware of what it is for.

use std::time::Duration;

use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    Client, Error,
    auth::{Access, Authorization},
    challenge::{self, Challenge},
    host::Host,
    registries::Endpoint,
    retry::retry_after,
    upload::Sent,
};

/// Error texts are cut here.
const MESSAGE_LIMIT: u64 = 64 << 10;

/// How long to wait for the head of an answer.
#[derive(Clone, Copy)]
pub(super) enum Patience<'a> {
    Fixed(Duration),
    /// As long as bytes are leaving.
    WhileSending(&'a Sent),
}

/// What a request is about.
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) access: Access,
    /// What is missing when the answer is 404.
    pub(super) what: String,
}

impl Client {
    /// Sends what `request` makes to a path below `/v2/<repository>/`.
    pub(super) async fn exchange(
        &self,
        target: &Target<'_>,
        path: &str,
        request: impl Fn(&reqwest::Client, Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let host = self.host(target.endpoint)?;
        let base = host.base(self.inner.options.timeouts.response).await?;
        let path = format!("v2/{}/{path}", target.endpoint.repository);
        let url = base.join(&path).map_err(|_| Error::Malformed { host: host.name.clone(), reason: format!("path {path}") })?;
        self.exchange_at(&host, target, url, Patience::Fixed(self.inner.options.timeouts.response), request).await
    }

    /// The same at any address; an address elsewhere gets no authorization.
    pub(super) async fn exchange_at(
        &self,
        host: &Host,
        target: &Target<'_>,
        url: Url,
        patience: Patience<'_>,
        request: impl Fn(&reqwest::Client, Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let base = host.base(self.inner.options.timeouts.response).await?;
        let ours = url.origin() == base.origin();
        let mut authorization = if ours { self.known_authorization(target.endpoint, &target.access).await? } else { None };
        // A remembered answer may have been revoked; a fresh one that is refused is final.
        for _ in 0..2 {
            let prepared = authorized(request(&host.client, url.clone()), authorization.as_ref());
            let response = self.wait(&host.name, prepared, patience).await?;
            let challenges = challenges(&response);
            if !ours || response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != base.origin() || challenges.is_empty() {
                return accepted(response, target, authorization.as_ref()).await;
            }
            let rejected = authorization.as_ref().map(|authorization| &authorization.header);
            authorization = Some(self.answer(target.endpoint, &target.access, &challenges, rejected).await?);
        }
        let prepared = authorized(request(&host.client, url), authorization.as_ref());
        accepted(self.wait(&host.name, prepared, patience).await?, target, authorization.as_ref()).await
    }
}

impl Client {
    async fn wait(&self, host: &str, request: RequestBuilder, patience: Patience<'_>) -> Result<Response, Error> {
        match patience {
            Patience::Fixed(limit) => send(host, request, limit).await,
            Patience::WhileSending(sent) => sent.wait(host, request, &self.inner.options.timeouts).await,
        }
    }
}

fn authorized(request: RequestBuilder, authorization: Option<&Authorization>) -> RequestBuilder {
    match authorization {
        Some(authorization) => request.header(AUTHORIZATION, authorization.header.clone()),
        None => request,
    }
}

fn challenges(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    headers.filter_map(|value: &HeaderValue| value.to_str().ok()).flat_map(challenge::parse).collect()
}

async fn accepted(response: Response, target: &Target<'_>, authorization: Option<&Authorization>) -> Result<Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    let had_credentials = authorization.is_some_and(|authorization| authorization.had_credentials);
    Err(refusal(response, &target.endpoint.host, &target.endpoint.repository, &target.what, had_credentials).await)
}

/// Sends and waits for the head of the answer.
pub(super) async fn send(host: &str, request: RequestBuilder, patience: Duration) -> Result<Response, Error> {
    match timeout(patience, request.send()).await {
        Ok(answer) => answer.map_err(|source| Error::of_request(host, source)),
        Err(_) => Err(Error::Stalled { host: host.to_owned(), after: patience }),
    }
}

/// The next piece of a body; None at its end.
pub(super) async fn next_chunk(response: &mut Response, host: &str, stall: Duration) -> Result<Option<impl AsRef<[u8]> + use<>>, Error> {
    match timeout(stall, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|source| Error::of_request(host, source)),
        Err(_) => Err(Error::Stalled { host: host.to_owned(), after: stall }),
    }
}

/// The whole of a small body.
pub(super) async fn read_limited(mut response: Response, host: &str, what: &str, limit: u64, stall: Duration) -> Result<Vec<u8>, Error> {
    let too_large = || Error::TooLarge { what: what.to_owned(), host: host.to_owned(), limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, host, stall).await? {
        body.extend_from_slice(chunk.as_ref());
        if body.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(body)
}

/// The error that an unsuccessful answer stands for.
pub(super) async fn refusal(response: Response, host: &str, repository: &str, what: &str, had_credentials: bool) -> Error {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let body = read_limited(response, host, "an error message", MESSAGE_LIMIT, Duration::from_secs(5)).await.unwrap_or_default();
    let (code, message) = message(&body);
    let host = host.to_owned();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Unauthorized { host, repository: repository.to_owned(), had_credentials, message }
        }
        StatusCode::NOT_FOUND => Error::NotFound { reference: what.to_owned(), host, message },
        StatusCode::TOO_MANY_REQUESTS => Error::TooManyRequests { host, message, retry_after },
        _ => Error::Server { host, status: status.as_u16(), code, message, retry_after },
    }
}

#[derive(Deserialize)]
struct Messages {
    #[serde(default)]
    errors: Vec<Message>,
    #[serde(default, alias = "error_description", alias = "message")]
    details: String,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The first error's code, and what the server says as one line; nothing of what isn't an error document.
fn message(body: &[u8]) -> (String, String) {
    let Ok(messages) = serde_json::from_slice::<Messages>(body) else { return Default::default() };
    let code = messages.errors.first().map(|error| error.code.clone()).unwrap_or_default();
    let texts = messages.errors.into_iter().map(|error| if error.message.is_empty() { error.code } else { error.message });
    let text = texts.chain([messages.details]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    let harmless = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    (code, harmless.take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_and_made_harmless() {
        for (body, code, text) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#, "DENIED", "no; X"),
            (r#"{"details":"bad password"}"#, "", "bad password"),
            ("{\"errors\":[{\"message\":\"a\\u001b[2Jb\"}]}", "", "a [2Jb"),
            ("<html>", "", ""),
            ("", "", ""),
        ] {
            assert_eq!(message(body.as_bytes()), (code.to_owned(), text.to_owned()));
        }
    }
}
