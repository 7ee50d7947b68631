//! What is probed, as it is written on the command line. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::facts::{Facts, RouteKind};
use crate::host::line::Kind;

/// One target, before it is known where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The tunnel addresses of this node's peers, read from its own routes.
    Peers,
    /// This host's default gateway.
    Gateway,
    /// An address; port 0 for ICMP.
    Address(Kind, SocketAddr),
    /// A pod of this node, as `namespace/name`. UDP and TCP without a port: the probe itself answers in the pod.
    Pod(Kind, String, Option<u16>),
}

impl Target {
    /// Reads `peers`, `gateway`, `icmp:ADDRESS`, `udp|tcp|connect:ADDRESS:PORT`, or a pod in the address's place.
    pub fn parse(text: &str) -> Result<Target, String> {
        let wrong = || {
            format!(
                "{text:?} is no target. To fix it: write peers, gateway, icmp:ADDRESS, udp:ADDRESS:PORT, tcp:ADDRESS:PORT \
                 or connect:ADDRESS:PORT; NAMESPACE/POD may stand for the address"
            )
        };
        match text {
            "peers" => return Ok(Target::Peers),
            "gateway" => return Ok(Target::Gateway),
            _ => {}
        }
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let kind = match kind {
            "icmp" => Kind::Icmp,
            "udp" => Kind::Udp,
            "tcp" => Kind::Tcp,
            "connect" => Kind::Connect,
            _ => return Err(wrong()),
        };
        let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
        match (kind, rest.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Kind::Icmp, _, Ok(ip)) => Ok(Target::Address(kind, SocketAddr::new(ip, 0))),
            (Kind::Udp | Kind::Tcp | Kind::Connect, Ok(address), _) if address.port() > 0 => {
                Ok(Target::Address(kind, address))
            }
            (_, Err(_), Err(_)) if rest.contains('/') => pod(kind, rest).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// Reads `[SOURCE=]TARGET`.
pub fn with_source(text: &str) -> Result<(Option<&str>, Target), String> {
    match text.split_once('=') {
        Some(("", _)) => {
            Err(format!("{text:?} names no source before its =. To fix it: write host, NAMESPACE/POD or all"))
        }
        Some((source, target)) => Ok((Some(source), Target::parse(target)?)),
        None => Ok((None, Target::parse(text)?)),
    }
}

/// The text, where it is `[SOURCE=]TARGET`: for command lines and configuration files.
pub fn checked(text: &str) -> Result<String, String> {
    with_source(text).map(|_| text.to_owned())
}

fn pod(kind: Kind, text: &str) -> Option<Target> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port > 0)?)),
        None => (text, None),
    };
    let whole = name.split('/').filter(|part| !part.is_empty()).count() == 2 && name.matches('/').count() == 1;
    // What listens for new connections is the pod's own business: the probe's echo would prove nothing about it.
    let answerable = match kind {
        Kind::Icmp => port.is_none(),
        Kind::Connect => port.is_some(),
        Kind::Udp | Kind::Tcp => true,
    };
    (whole && answerable).then(|| Target::Pod(kind, name.to_owned(), port))
}

/// Tunnel addresses of this node's peers: the gateways of the routes over its VXLAN devices, without those of its own subnet.
pub fn peers(facts: &Facts) -> Vec<IpAddr> {
    let network = &facts.network;
    let overlays: Vec<&str> = network.links.iter().filter(|l| l.vxlan.is_some()).map(|l| l.name.as_str()).collect();
    let over = |dev: &Option<String>| dev.as_deref().is_some_and(|dev| overlays.contains(&dev));
    let mut peers: Vec<IpAddr> = network.routes.iter().filter(|r| over(&r.dev)).filter_map(|r| r.via).collect();
    peers.sort_unstable();
    peers.dedup();
    peers
}

/// This host's default gateways, one a family.
pub fn gateways(facts: &Facts) -> Vec<IpAddr> {
    let main = facts.network.routes.iter().filter(|r| r.table == 254 && r.kind == RouteKind::Unicast);
    let mut defaults: Vec<_> = main.filter(|r| r.dst.prefix_len() == 0 && r.via.is_some()).collect();
    defaults.sort_by_key(|r| (r.dst.addr().is_ipv6(), r.metric));
    defaults.dedup_by_key(|r| r.dst.addr().is_ipv6());
    defaults.into_iter().filter_map(|r| r.via).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let address = |kind, text: &str| Target::Address(kind, text.parse().unwrap());
        for (text, wanted) in [
            ("peers", Target::Peers),
            ("gateway", Target::Gateway),
            ("icmp:10.1.0.2", address(Kind::Icmp, "10.1.0.2:0")),
            ("icmp:fd00::2", address(Kind::Icmp, "[fd00::2]:0")),
            ("icmp:[fd00::2]", address(Kind::Icmp, "[fd00::2]:0")),
            ("udp:10.1.0.2:7777", address(Kind::Udp, "10.1.0.2:7777")),
            ("connect:[fd00::2]:443", address(Kind::Connect, "[fd00::2]:443")),
            ("tcp:default/web-0:80", Target::Pod(Kind::Tcp, "default/web-0".into(), Some(80))),
            ("udp:default/web-0", Target::Pod(Kind::Udp, "default/web-0".into(), None)),
            ("icmp:default/web-0", Target::Pod(Kind::Icmp, "default/web-0".into(), None)),
        ] {
            assert_eq!(Target::parse(text), Ok(wanted), "{text}");
        }
        for wrong in [
            "",
            "10.1.0.2",
            "icmp",
            "icmp:",
            "icmp:10.1.0.2:80",
            "udp:10.1.0.2",
            "udp:10.1.0.2:0",
            "sctp:10.1.0.2:1",
            "connect:default/web-0",
            "icmp:default/web-0:80",
            "udp:default/web-0:x",
            "udp:/web",
            "udp:a/b/c",
            "tcp:fd00::2",
        ] {
            assert!(Target::parse(wrong).unwrap_err().contains("To fix it: "), "{wrong}");
        }
        let to = Target::parse("icmp:10.1.0.2").unwrap();
        assert_eq!(with_source("default/a=icmp:10.1.0.2"), Ok((Some("default/a"), to.clone())));
        assert_eq!(with_source("icmp:10.1.0.2"), Ok((None, to)));
        assert!(checked("=icmp:10.1.0.2").is_err() && checked("a=b=icmp:10.1.0.2").is_err());
    }
}
