//! One operation on the kernel, on the host or in the pod, and how it is carried out.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::facts::{Address, Neighbour, Route};
use crate::fault;
use crate::host::netlink::{self, LinkChange, VethPair};
use crate::host::sockets::source_towards;
use crate::host::{netns, sysctl};

/// Where an operation takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the node's network namespace.
    Host,
    /// In the pod's.
    Pod,
}

/// An operation. Each may be repeated: what is so already is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Operation {
    /// Changes a device.
    SetLink {
        /// Its name before.
        name: String,
        /// The change.
        change: LinkChange,
    },
    /// Makes a veth pair from the host into the pod.
    AddVeth {
        /// The end on the host.
        name: String,
        /// Its MAC.
        mac: String,
        /// The end in the pod.
        peer: String,
        /// MAC of the end in the pod.
        peer_mac: String,
        /// MTU of both.
        mtu: u32,
    },
    /// Deletes a device.
    DeleteLink {
        /// Its name.
        name: String,
    },
    /// Adds an address.
    AddAddress(Address),
    /// Deletes an address.
    DeleteAddress(Address),
    /// Gives an IPv6 address its prefix's route, or takes it away.
    PrefixRoute {
        /// The address.
        address: Address,
        /// Given or taken.
        on: bool,
    },
    /// Sets a route, in the place of one with the same destination and metric.
    SetRoute(Route),
    /// Sets a route to one address, from the address that this host speaks to it from now: one of the route's own device would go
    /// with that, and every connection that was begun from it.
    DivertRoute(Route),
    /// Deletes a route.
    DeleteRoute(Route),
    /// Sets a permanent neighbour entry.
    SetNeighbour(Neighbour),
    /// Deletes a neighbour entry.
    DeleteNeighbour(Neighbour),
    /// Sets a kernel parameter, where the kernel has it.
    Sysctl {
        /// Dotted name.
        name: String,
        /// Value.
        value: String,
    },
    /// Lets packets that are underway the old way arrive.
    Settle,
}

/// How long a packet may be underway: its sender has looked up the way, and then had to wait for a processor.
const UNDERWAY: Duration = Duration::from_millis(10);

/// An operation and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Where.
    pub place: Place,
    /// What.
    #[serde(flatten)]
    pub operation: Operation,
}

impl At {
    /// The name of the kernel parameter that it sets.
    pub fn sysctl(&self) -> Option<&str> {
        match &self.operation {
            Operation::Sysctl { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// On the host.
pub(super) fn on_host(operation: Operation) -> At {
    At { place: Place::Host, operation }
}

/// In the pod.
pub(super) fn in_pod(operation: Operation) -> At {
    At { place: Place::Pod, operation }
}

/// Carries operations out in order; `netns` is the path of the pod's network namespace. After each, `then` is called.
///
/// May be called again with the same list after a crash: a device that has its new name already is found under that.
pub fn carry_out(operations: &[At], netns: &Path, then: &mut dyn FnMut(&At)) -> Result<()> {
    let there: BTreeSet<String> = netlink::links()?.into_iter().map(|link| link.name).collect();
    for at in operations {
        let now = under_new_names(at, operations, &there);
        fault::point("adopt.operation");
        match now.place {
            Place::Host => apply(&now.operation, netns)?,
            Place::Pod => {
                let (operation, path) = (now.operation.clone(), netns.to_owned());
                netns::enter(netns, move || apply(&operation, &path))??;
            }
        }
        then(at);
    }
    Ok(())
}

/// The operation with the names that the host's devices have by now, where a crash came after they were renamed.
fn under_new_names(at: &At, all: &[At], there: &BTreeSet<String>) -> At {
    let mut at = at.clone();
    if at.place == Place::Pod {
        return at;
    }
    for other in all {
        if let (Place::Host, Operation::SetLink { name, change: LinkChange { rename: Some(to), .. } }) =
            (other.place, &other.operation)
            && !there.contains(name)
            && there.contains(to)
        {
            at.operation.rename(name, to);
        }
    }
    at
}

impl Operation {
    fn rename(&mut self, from: &str, to: &str) {
        let new = |name: &mut String| {
            if name == from {
                to.clone_into(name);
            }
        };
        match self {
            Operation::SetLink { name, .. } | Operation::AddVeth { name, .. } | Operation::DeleteLink { name } => {
                new(name)
            }
            Operation::AddAddress(a) | Operation::DeleteAddress(a) | Operation::PrefixRoute { address: a, .. } => {
                new(&mut a.link);
            }
            Operation::SetRoute(route) | Operation::DivertRoute(route) | Operation::DeleteRoute(route) => {
                route.dev.iter_mut().for_each(new);
            }
            Operation::SetNeighbour(n) | Operation::DeleteNeighbour(n) => new(&mut n.link),
            Operation::Settle => {}
            // An interface's parameters have its name as a part of theirs.
            Operation::Sysctl { name, .. } => *name = name.replace(&format!(".{from}."), &format!(".{to}.")),
        }
    }
}

fn apply(operation: &Operation, netns: &Path) -> Result<()> {
    match operation {
        Operation::SetLink { name, change } => {
            // The kernel refuses a device its own name while it is up, before 6.2.
            let rename = change.rename.clone().filter(|to| to != name);
            netlink::set_link(name, &LinkChange { rename, ..change.clone() })
        }
        Operation::AddVeth { name, mac, peer, peer_mac, mtu } => {
            if netlink::links()?.iter().any(|link| link.name == *name) {
                return Ok(());
            }
            let (mac, peer_mac) = (Some(mac.as_str()), Some(peer_mac.as_str()));
            netlink::add_veth(&VethPair { name, mac, peer, peer_mac, peer_netns: Some(netns), mtu: Some(*mtu) })
        }
        Operation::DeleteLink { name } => netlink::delete_link(name).map(drop),
        Operation::AddAddress(address) => netlink::add_address(address),
        Operation::DeleteAddress(address) => netlink::delete_address(address),
        Operation::PrefixRoute { address, on } => netlink::set_prefix_route(address, *on),
        Operation::SetRoute(route) => netlink::replace_route(route),
        Operation::DivertRoute(route) => {
            netlink::replace_route(&Route { src: source_towards(route.dst.addr()), ..route.clone() })
        }
        Operation::DeleteRoute(route) => netlink::delete_route(route),
        Operation::SetNeighbour(neighbour) => netlink::replace_neighbour(neighbour),
        Operation::DeleteNeighbour(neighbour) => netlink::delete_neighbour(neighbour),
        Operation::Settle => {
            std::thread::sleep(UNDERWAY);
            Ok(())
        }
        Operation::Sysctl { name, value } => match sysctl::read(name)? {
            None => Ok(()),
            Some(now) if now == *value => Ok(()),
            Some(_) => sysctl::write(name, value).context("a kernel parameter is not as it must be"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_crash_devices_are_found_under_their_new_names() {
        let rename = LinkChange { rename: Some("cali0".into()), ..LinkChange::default() };
        let sysctl =
            |name: &str| Operation::Sysctl { name: format!("net.ipv4.conf.{name}.proxy_arp"), value: "1".into() };
        let list = [
            on_host(sysctl("veth0")),
            in_pod(sysctl("veth0")),
            on_host(Operation::SetLink { name: "veth0".into(), change: rename }),
            on_host(Operation::DeleteLink { name: "veth1".into() }),
        ];
        let there = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<String>>();
        let now =
            |names: &[&str]| -> Vec<At> { list.iter().map(|at| under_new_names(at, &list, &there(names))).collect() };
        assert_eq!(now(&["veth0"]), list, "not renamed yet");
        assert_eq!(now(&["veth0", "cali0"]), list, "somebody else's");
        let after = now(&["cali0"]);
        assert_eq!(after[0].operation, sysctl("cali0"));
        assert_eq!(after[1].operation, sysctl("veth0"), "in the pod it is another device");
        assert!(matches!(&after[2].operation, Operation::SetLink { name, .. } if name == "cali0"));
        assert_eq!(after[3], list[3]);
    }
}
