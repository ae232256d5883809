//! The files that are generated for a step: /etc/hosts and /etc/resolv.conf.
//! Unaware of where they are mounted.

use std::fmt::Write;

/// Used when the host names no name server that can be reached from a private network.
const PUBLIC_NAME_SERVERS: &str =
    "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

/// /etc/hosts with loopback, the host name and what `--add-host` gave.
pub fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// /etc/resolv.conf from the host's, without name servers on a loopback that the step does not have.
///
/// `upstream` is what systemd-resolved says it asks itself (/run/systemd/resolve/resolv.conf).
pub fn resolv_conf(host: &str, upstream: Option<&str>, loopback_is_ours: bool) -> String {
    if loopback_is_ours {
        return host.to_owned();
    }
    let without_loopback = |text: &str| -> String {
        let keep = |line: &&str| name_server(line).is_none_or(|address| !is_loopback(address));
        text.lines().filter(keep).map(|line| format!("{line}\n")).collect()
    };
    let has_server = |text: &str| text.lines().any(|line| name_server(line).is_some());
    let text = without_loopback(host);
    if has_server(&text) {
        return text;
    }
    match upstream.map(without_loopback) {
        Some(upstream) if has_server(&upstream) => upstream,
        _ => text + PUBLIC_NAME_SERVERS,
    }
}

fn name_server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

fn is_loopback(address: &str) -> bool {
    let address = address.split('%').next().unwrap_or(address);
    address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_knows_loopback_itself_and_the_extra_ones() {
        let text = hosts("box", &[("db".into(), "10.0.0.7".into())]);
        assert_eq!(text, "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n");
    }

    #[test]
    fn a_loopback_resolver_is_replaced_only_where_it_cannot_be_reached() {
        let stub = "search corp.example\nnameserver 127.0.0.53\noptions edns0\n";
        assert_eq!(resolv_conf(stub, None, true), stub);
        assert_eq!(resolv_conf(stub, Some("nameserver 10.1.1.1\n"), false), "nameserver 10.1.1.1\n");
        assert!(resolv_conf(stub, None, false).starts_with("search corp.example\noptions edns0\nnameserver 8.8.8.8\n"));
        let mixed = "nameserver 127.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(resolv_conf(mixed, None, false), "nameserver 10.0.0.2\n");
    }
}
