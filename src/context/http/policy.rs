//! Which URLs may be asked: http and https only, and no link-local address, be it written out, behind a name or behind a
//! redirect. Unaware of requests.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::{HttpError, redact_url};

/// Amazon's and Alibaba's credential servers outside the link-local ranges.
const CREDENTIAL_SERVERS: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), IpAddr::V4(std::net::Ipv4Addr::new(100, 100, 100, 200))];

/// Redirects followed.
pub(super) const MAX_REDIRECTS: usize = 10;

/// Reads a URL and judges it.
pub(super) fn parse(text: &str, allow_link_local: bool) -> Result<Url, HttpError> {
    let refused = |problem: String| HttpError::Url { url: redact_url(text).into_owned(), problem };
    let url = Url::parse(text).map_err(|error| refused(error.to_string()))?;
    match judge(&url, allow_link_local) {
        Ok(()) => Ok(url),
        Err(Refusal::Scheme) => Err(refused(format!("unsupported scheme {}", url.scheme()))),
        Err(Refusal::LinkLocal) => Err(HttpError::LinkLocal { url: redact_url(text).into_owned() }),
    }
}

/// Why a URL is refused; the words appear as the cause of a failed redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::context) enum Refusal {
    #[error("redirect to something else than http or https")]
    Scheme,
    #[error("redirect to a link-local address, where clouds keep the credentials of their machines")]
    LinkLocal,
}

/// Judges a URL by what is written in it.
pub(in crate::context) fn judge(url: &Url, allow_link_local: bool) -> Result<(), Refusal> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::Scheme);
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) if !allow_link_local && is_link_local(address) => Err(Refusal::LinkLocal),
        _ => Ok(()),
    }
}

/// Whether clouds keep credentials there.
fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        address if CREDENTIAL_SERVERS.contains(&address) => true,
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The system's resolver without link-local answers.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) allow_link_local: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_link_local = self.allow_link_local;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|address| allow_link_local || !is_link_local(address.ip())).collect();
            match allowed.is_empty() {
                true => Err("the name has link-local addresses only".into()),
                false => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged_by_scheme_and_address() {
        let cases = [
            ("http://example.com/x", Ok(())),
            ("https://127.0.0.1:8080/x", Ok(())),
            ("ftp://example.com/x", Err(Refusal::Scheme)),
            ("file:///etc/passwd", Err(Refusal::Scheme)),
            ("http://169.254.169.254/latest", Err(Refusal::LinkLocal)),
            // The same address in the spellings that URL parsers take.
            ("http://2852039166/", Err(Refusal::LinkLocal)),
            ("http://0xa9.0xfe.0xa9.0xfe/", Err(Refusal::LinkLocal)),
            ("http://[::ffff:169.254.169.254]/", Err(Refusal::LinkLocal)),
            ("http://[fe80::1]/", Err(Refusal::LinkLocal)),
            ("http://[fd00:ec2::254]/", Err(Refusal::LinkLocal)),
            ("http://100.100.100.200/", Err(Refusal::LinkLocal)),
        ];
        for (url, expected) in cases {
            assert_eq!(judge(&Url::parse(url).unwrap(), false), expected, "{url}");
        }
        assert_eq!(judge(&Url::parse("http://169.254.169.254/").unwrap(), true), Ok(()));
    }
}
