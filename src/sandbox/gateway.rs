//! `--add-host NAME:host-gateway`: the address at which a step reaches this machine. In the private network that is the
//! gateway's: pasta, when told so, leads what goes there to the machine itself, its loopback included. In the host's own
//! network it is the loopback. Unaware of how the network came to be.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
    thread,
};

use rustix::thread::LinkNameSpaceType;

use super::network::Attachment;

/// Stands for the address.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Whether some host is this machine.
pub(super) fn is_wanted(hosts: &[(String, String)]) -> bool {
    hosts.iter().any(|(_, address)| address == HOST_GATEWAY)
}

/// Puts the address in for the word.
pub(super) fn resolve(hosts: &mut [(String, String)], network: &Attachment) -> io::Result<()> {
    if !is_wanted(hosts) {
        return Ok(());
    }
    let address = match network {
        Attachment::Host | Attachment::Empty => IpAddr::from(Ipv4Addr::LOCALHOST),
        Attachment::Join(namespace) => {
            gateway_in(namespace)?.ok_or_else(|| io::Error::other(format!("{HOST_GATEWAY}: this machine's network has no gateway")))?
        }
    };
    for (_, word) in hosts.iter_mut().filter(|(_, word)| word == HOST_GATEWAY) {
        *word = address.to_string();
    }
    Ok(())
}

/// The gateway of the default route in a network namespace, read from a thread that joins it and ends.
fn gateway_in(namespace: &Path) -> io::Result<Option<IpAddr>> {
    let namespace = File::open(namespace)?;
    let read = || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let text = |name: &str| std::fs::read_to_string(Path::new("/proc/thread-self/net").join(name)).unwrap_or_default();
        Ok(gateway(&text("route")).or_else(|| gateway_6(&text("ipv6_route"))))
    };
    thread::scope(|scope| scope.spawn(read).join()).unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
}

/// From `/proc/net/route`: interface, destination, gateway; addresses are in the machine's byte order.
fn gateway(routes: &str) -> Option<IpAddr> {
    let gateway = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let bytes = u32::from_str_radix(gateway, 16).ok().filter(|gateway| destination == "00000000" && *gateway != 0)?;
        Some(IpAddr::from(Ipv4Addr::from(bytes.to_ne_bytes())))
    };
    routes.lines().skip(1).find_map(gateway)
}

/// From `/proc/net/ipv6_route`: destination and its length, source and its length, gateway.
fn gateway_6(routes: &str) -> Option<IpAddr> {
    let gateway = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = *fields.get(1)? == "00" && fields[0].bytes().all(|digit| digit == b'0');
        let bytes = u128::from_str_radix(fields.get(4)?, 16).ok().filter(|gateway| is_default && *gateway != 0)?;
        Some(IpAddr::from(Ipv6Addr::from_bits(bytes)))
    };
    routes.lines().find_map(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_that_of_the_default_route() {
        let routes = "Iface\tDestination\tGateway \tFlags\neth0\t000200C0\t00000000\t0001\neth0\t00000000\t010200C0\t0003\n";
        #[cfg(target_endian = "little")]
        assert_eq!(gateway(routes), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(gateway("Iface\tDestination\tGateway\n"), None);
        let six = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 0 0 1 eth0\n\
                   00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 0 0 3 eth0\n";
        assert_eq!(gateway_6(six), Some("fd00::1".parse().unwrap()));
        assert_eq!(gateway_6("00000000000000000000000000000000 00 0 00 00000000000000000000000000000000 ffffffff 1 0 200200 lo\n"), None);
    }

    #[test]
    fn on_the_hosts_network_it_is_the_loopback() {
        let mut hosts = [("me".to_owned(), HOST_GATEWAY.to_owned()), ("db".to_owned(), "10.0.0.1".to_owned())];
        resolve(&mut hosts, &Attachment::Host).unwrap();
        assert_eq!(hosts.map(|(_, address)| address), ["127.0.0.1", "10.0.0.1"]);
    }
}
