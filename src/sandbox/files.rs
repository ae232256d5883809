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

/// /etc/resolv.conf from the host's. In a private network `forward` stands for every name server: the host's loopback is
/// out of reach there, and pasta sends the answers of the host's own resolver from `forward`, whomever the step asked.
pub fn resolv_conf(host: &str, forward: Option<&str>) -> String {
    let Some(forward) = forward else { return host.to_owned() };
    let kept = host.lines().filter(|line| line.split_whitespace().next() != Some("nameserver"));
    let mut text: String = kept.map(|line| format!("{line}\n")).collect();
    let _ = writeln!(text, "nameserver {forward}");
    text
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
    fn name_servers_are_replaced_in_a_private_network_only() {
        let stub = "search corp.example\nnameserver 127.0.0.53\noptions edns0\n";
        assert_eq!(resolv_conf(stub, None), stub);
        assert_eq!(resolv_conf(stub, Some("1.2.3.4")), "search corp.example\noptions edns0\nnameserver 1.2.3.4\n");
        assert_eq!(resolv_conf("nameserver 10.0.0.2\nnameserver 10.0.0.3\n", Some("1.2.3.4")), "nameserver 1.2.3.4\n");
        assert_eq!(resolv_conf("", Some("1.2.3.4")), "nameserver 1.2.3.4\n");
    }
}
