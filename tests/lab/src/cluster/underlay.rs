//! The network that the nodes' eth0 hang on: a bridge in a namespace of its own, with the API server's address on it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::command;
use crate::node::Second;

/// The underlay's first three bytes; node N is .N.
const NETWORK: [u8; 3] = [192, 168, 77];

/// Address of the API server, and every node's default gateway.
pub fn gateway() -> Ipv4Addr {
    host(254)
}

/// Address of node `index`.
pub fn host(index: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, index)
}

/// The IPv6 underlay, a /64; node N is ::N.
const NETWORK_V6: [u16; 4] = [0xfd00, 0x192, 0x168, 0x77];

/// Every node's IPv6 gateway.
fn gateway_v6() -> Ipv6Addr {
    host_v6(254)
}

/// Node `index` on the IPv6 underlay.
pub fn second(index: u8) -> Second {
    Second { address: host_v6(index), gateway: gateway_v6() }
}

fn host_v6(index: u8) -> Ipv6Addr {
    let [a, b, c, d] = NETWORK_V6;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, index.into())
}

/// Makes the namespace and the bridge.
pub fn set_up(namespace: &str, dual_stack: bool) -> Result<()> {
    command::run(&["ip", "netns", "add", namespace])?;
    let mut script = format!(
        "link set lo up\nlink add ul0 type bridge forward_delay 0\naddress add {}/24 brd + dev ul0\nlink set ul0 up\n",
        gateway()
    );
    if dual_stack {
        script.push_str(&format!("address add {}/64 dev ul0 nodad\n", gateway_v6()));
    }
    command::run_with_input(&["ip", "-n", namespace, "-batch", "-"], &script).map(drop)
}
