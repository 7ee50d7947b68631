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

/// The bridge's own address. Without one it has the lowest of its ports', another one when that node's power is cut, and the other
/// nodes do not reach the API server until they ask for its address again.
const MAC: &str = "02:00:c0:a8:4d:fe";

/// Makes the namespace and the bridge.
pub fn set_up(namespace: &str, dual_stack: bool) -> Result<()> {
    command::run(&["ip", "netns", "add", namespace])?;
    let mut script = format!(
        "link set lo up\nlink add ul0 address {MAC} type bridge forward_delay 0\naddress add {}/24 brd + dev ul0\nlink set ul0 up\n",
        gateway()
    );
    if dual_stack {
        script.push_str(&format!("address add {}/64 dev ul0 nodad\n", gateway_v6()));
    }
    command::run_with_input(&["ip", "-n", namespace, "-batch", "-"], &script).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_bridge_keeps_its_address_whoever_is_plugged_in() {
        let namespace = format!("nodectl-underlay-{}", std::process::id());
        set_up(&namespace, false).unwrap();
        let ip = |args: &str| {
            let argv: Vec<&str> = ["ip", "-n", &namespace].into_iter().chain(args.split(' ')).collect();
            command::run(&argv)
        };
        let plugged = ip("link add port address 02:00:00:00:00:01 up master ul0 type veth");
        let shown = ip("-o link show ul0");
        command::run(&["ip", "netns", "delete", &namespace]).unwrap();
        plugged.unwrap();
        let shown = shown.unwrap();
        assert!(shown.contains(MAC), "{shown}");
    }
}
