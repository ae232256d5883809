//! EXPOSE: `80`, `80/udp`, `8000-8010`, and the discouraged `ip:host:container`.
//! Unaware of networks.

use super::quote::go_quote;
use std::net::IpAddr;

/// What lint has to say about one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStyle {
    /// The protocol isn't in lower case.
    pub mixed_case: bool,
    /// An address or a host's port is named.
    pub maps_host: bool,
}

/// One word -> `port/protocol`, as many as it names.
pub fn parse_port(text: &str) -> Result<Vec<String>, String> {
    let parts = split(text)?;
    check_ip(&parts.ip)?;
    let (start, end) = parse_range(parts.container).ok_or_else(|| format!("invalid containerPort: {}", parts.container))?;
    if !parts.host.is_empty() {
        let (host_start, host_end) = parse_range(parts.host).ok_or_else(|| format!("invalid hostPort: {}", parts.host))?;
        if end - start != host_end - host_start && end != start {
            return Err(format!("invalid ranges specified for container and host Ports: {} and {}", parts.container, parts.host));
        }
    }
    let protocol = parts.protocol.to_lowercase();
    Ok((start..=end).map(|port| format!("{port}/{protocol}")).collect())
}

/// How a port is written; the default where it can't be read.
pub fn style(text: &str) -> PortStyle {
    split(text).map_or_else(
        |_| PortStyle::default(),
        |parts| PortStyle {
            mixed_case: parts.protocol != parts.protocol.to_lowercase(),
            maps_host: !parts.ip.is_empty() || !parts.host.is_empty(),
        },
    )
}

struct Parts<'a> {
    ip: String,
    host: &'a str,
    container: &'a str,
    protocol: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, String> {
    let pieces: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match pieces.as_slice() {
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        _ => (String::new(), "", text),
    };
    let invalid = |reason: String| format!("invalid port: {}: {reason}", go_quote(text));
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(invalid("no port specified".to_owned()));
    }
    match protocol.to_lowercase().as_str() {
        "" => Ok(Parts { ip, host, container, protocol: "tcp" }),
        "tcp" | "udp" | "sctp" => Ok(Parts { ip, host, container, protocol }),
        _ => Err(invalid(format!("invalid proto: {protocol}"))),
    }
}

fn check_ip(ip: &str) -> Result<(), String> {
    let bare = match ip.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| format!("invalid IP address {ip}: address {ip}: missing ']' in address"))?,
        None => ip,
    };
    if ip.is_empty() || bare.parse::<IpAddr>().is_ok() { Ok(()) } else { Err(format!("invalid IP address: {bare}")) }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let range = (start.parse().ok()?, end.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_out_ranges() {
        for (text, expected) in [
            ("80", &["80/tcp"][..]),
            ("80/TcP", &["80/tcp"]),
            ("53/udp", &["53/udp"]),
            ("1-3/sctp", &["1/sctp", "2/sctp", "3/sctp"]),
            ("5-5", &["5/tcp"]),
            ("0", &["0/tcp"]),
            ("127.0.0.1:80:8080", &["8080/tcp"]),
            ("[::1]:80:8080/udp", &["8080/udp"]),
            ("8000-8001:80", &["80/tcp"]),
            ("5000:5000", &["5000/tcp"]),
        ] {
            assert_eq!(parse_port(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn errors_name_the_part() {
        for (text, error) in [
            ("", "invalid port: \"\": no port specified"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            ("x", "invalid containerPort: x"),
            ("65536", "invalid containerPort: 65536"),
            ("5-3", "invalid containerPort: 5-3"),
            ("-5", "invalid containerPort: -5"),
            ("x:80", "invalid hostPort: x"),
            ("1-3:1-2", "invalid ranges specified for container and host Ports: 1-2 and 1-3"),
            ("nohost:1:2", "invalid IP address: nohost"),
        ] {
            assert_eq!(parse_port(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn style_is_told_from_the_text() {
        assert_eq!(style("80/TcP"), PortStyle { mixed_case: true, maps_host: false });
        assert_eq!(style("5000:5000"), PortStyle { mixed_case: false, maps_host: true });
        assert_eq!(style("80/"), PortStyle::default());
    }
}
