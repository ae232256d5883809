//! `--publish [[ADDRESS:]HOST:]PORT[/tcp|/udp]` -> ports of the sandbox's network.

use std::net::{IpAddr, TcpListener, UdpSocket};

use crate::{cli::failure::Failure, sandbox::Published};

/// Reads one `-p`; a host port that is left out is any free one.
pub fn parse(text: &str) -> Result<Published, Failure> {
    let wrong = || Failure::usage(format!("--publish {text}: expected [[ADDRESS:]HOST:]PORT[/udp]"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_udp = match protocol {
        "tcp" => false,
        "udp" => true,
        other => return Err(Failure::usage(format!("--publish {text}: unknown protocol `{other}`")).with_hint("tcp or udp")),
    };
    let (rest, port) = ports.rsplit_once(':').map_or(("", ports), |(rest, port)| (rest, port));
    let (address, host_port) = rest.rsplit_once(':').map_or(("", rest), |(address, host)| (address, host));
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0).ok_or_else(wrong);
    let address: Option<IpAddr> = match address.trim_start_matches('[').trim_end_matches(']') {
        "" => None,
        address => Some(address.parse().map_err(|_| wrong())?),
    };
    let host_port = if host_port.is_empty() { free_port(is_udp).ok_or_else(wrong)? } else { number(host_port)? };
    Ok(Published { address, host_port, port: number(port)?, is_udp })
}

/// A port that nobody has at the moment.
fn free_port(is_udp: bool) -> Option<u16> {
    let address = match is_udp {
        true => UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()),
        false => TcpListener::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()),
    };
    address.ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_publish_are_dockers() {
        let read =
            |text: &str| parse(text).map(|port| (port.address.map(|ip| ip.to_string()), port.host_port, port.port, port.is_udp)).ok();
        assert_eq!(read("8080:80"), Some((None, 8080, 80, false)));
        assert_eq!(read("127.0.0.1:8080:80"), Some((Some("127.0.0.1".into()), 8080, 80, false)));
        assert_eq!(read("[::1]:8080:80/tcp"), Some((Some("::1".into()), 8080, 80, false)));
        assert_eq!(read("53:53/udp"), Some((None, 53, 53, true)));
        assert!(read("80").is_some_and(|port| port.1 > 0 && port.2 == 80));
        assert!(read("127.0.0.1::80").is_some_and(|port| port.1 > 0));
        for wrong in ["", "x:80", "80:x", "0:80", "70000:80", "80/sctp", "nowhere:1:2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
