//! The files that are generated for a step: /etc/hosts and /etc/resolv.conf.
//! Unaware of where they are mounted.

use std::fmt::Write;

/// /etc/hosts with loopback, the host name and what `--add-host` gave.
pub fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// /etc/resolv.conf from the host's. In a private network the host's loopback is out of reach: name servers there (as
/// systemd-resolved's) are replaced by `forward`, which passes questions on to them.
pub fn resolv_conf(host: &str, forward: Option<&str>) -> String {
    let Some(forward) = forward else { return host.to_owned() };
    let is_local = |line: &&str| name_server(line).is_some_and(is_loopback);
    let mut text: String = host.lines().filter(|line| !is_local(line)).map(|line| format!("{line}\n")).collect();
    // Without any entry the C library asks the loopback.
    if host.lines().any(|line| is_local(&line)) || !host.lines().any(|line| name_server(line).is_some()) {
        let _ = writeln!(text, "nameserver {forward}");
    }
    text
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
        assert_eq!(resolv_conf(stub, None), stub);
        assert_eq!(resolv_conf(stub, Some("1.2.3.4")), "search corp.example\noptions edns0\nnameserver 1.2.3.4\n");
        assert_eq!(resolv_conf("nameserver 10.0.0.2\n", Some("1.2.3.4")), "nameserver 10.0.0.2\n");
        assert_eq!(resolv_conf("", Some("1.2.3.4")), "nameserver 1.2.3.4\n");
    }
}
