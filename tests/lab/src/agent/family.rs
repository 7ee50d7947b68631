//! The two families of addresses, and the words in which the tools tell them apart.

use std::net::IpAddr;

use ipnet::IpNet;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// An address' family.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// True for a network of this family.
    pub fn holds(self, network: &IpNet) -> bool {
        Family::of(network.addr()) == self
    }

    /// "4" or "6": how results, labels and sets call it.
    pub fn digit(self) -> &'static str {
        match self {
            Family::V4 => "4",
            Family::V6 => "6",
        }
    }

    /// ip's option.
    pub fn option(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }

    /// The bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The kernel's name, as ip and ipset write it.
    pub fn kernel(self) -> &'static str {
        match self {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        }
    }

    /// The family's own command, given the one for IPv4: iptables-nft, ip6tables-nft.
    pub fn iptables(self, command: &str) -> String {
        match self {
            Family::V4 => command.to_owned(),
            Family::V6 => command.replacen("iptables", "ip6tables", 1),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "IPv{}", self.digit())
    }
}
