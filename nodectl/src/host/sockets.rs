//! Connections of this network namespace, and the address that they begin from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use anyhow::Result;

use super::files;

/// TCP_ESTABLISHED (include/net/tcp_states.h), as /proc/net/tcp writes it.
const ESTABLISHED: &str = "01";

/// How many established TCP connections there are, by their own address.
pub fn established() -> Result<BTreeMap<IpAddr, usize>> {
    let mut found = BTreeMap::new();
    // A kernel without IPv6 has no second file.
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        for address in parse(&files::read_text_optional(Path::new(file))?.unwrap_or_default()) {
            *found.entry(address).or_default() += 1;
        }
    }
    Ok(found)
}

/// The local addresses of the established ones, from the text of proc_pid_net(5): `sl local_address rem_address st ...`.
fn parse(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        (state == ESTABLISHED).then(|| address(local.split(':').next()?)).flatten()
    })
}

/// Words of four bytes, each as this machine keeps it in memory.
fn address(hex: &str) -> Option<IpAddr> {
    let words = (0..hex.len() / 8).map(|n| u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

/// The address that this host speaks from to another, as its routes are now; `None` where none leads there.
pub fn source_towards(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // To connect a datagram socket sends nothing: the kernel looks up the route and notes the source.
    let socket = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, 9)).map(|()| socket)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn local_addresses_of_established_connections_are_found() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
            1: 0101F40A:A001 0201F40A:0050 01 00000000:00000000\n   \
            2: 0101F40A:A002 0201F40A:0050 06 00000000:00000000\n   \
            3: 0000000000000000FFFF00000101F40A:A003 0000000000000000FFFF00000201F40A:0050 01 00000000:00000000\n   \
            4: 000000FD000000000000000001000000:A004 000000FD000000000000000002000000:0050 01 00000000:00000000\n\
            torn\n   5: zz:1 0:0 01\n";
        let found: Vec<String> = parse(text).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["10.244.1.1", "10.244.1.1", "fd00::1"]);
    }

    #[test]
    fn a_source_is_what_the_routes_say() {
        let to = |text: &str| source_towards(text.parse().expect("an address"));
        assert_eq!(to("127.0.0.72").map(|ip| ip.is_loopback()), Some(true));
        assert_eq!(to("0.0.0.0").map(|ip| ip.is_ipv4()), Some(true));
        assert_eq!(to("ff0e::1").filter(IpAddr::is_ipv4), None);
    }

    #[test]
    fn a_connection_of_this_process_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.71:0").expect("a listener");
        let before = established().expect("connections").remove(&IpAddr::from([127, 0, 0, 71]));
        assert_eq!(before, None);
        let _stream = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let _other = listener.accept().expect("the other end");
        let counted = established().expect("connections").remove(&IpAddr::from([127, 0, 0, 71]));
        assert!(counted >= Some(1), "{counted:?}");
    }
}
