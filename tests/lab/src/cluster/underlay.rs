//! The network that the nodes' eth0 hang on: a bridge in a namespace of its own, with the API server's address on it.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::command;

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

/// Makes the namespace and the bridge.
pub fn set_up(namespace: &str) -> Result<()> {
    command::run(&["ip", "netns", "add", namespace])?;
    let script = format!(
        "link set lo up\nlink add ul0 type bridge forward_delay 0\naddress add {}/24 brd + dev ul0\nlink set ul0 up\n",
        gateway()
    );
    command::run_with_input(&["ip", "-n", namespace, "-batch", "-"], &script).map(drop)
}
