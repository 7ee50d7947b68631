//! How this felix is to behave.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::agent::family::Family;
use crate::agent::{env, env_number, is_unhurried};
use crate::calico::node::startup;

/// Settings from the environment.
#[derive(Debug, Clone)]
pub struct Options {
    /// The release to behave like: (major, minor).
    pub like: (u64, u64),
    /// Between two full looks (90 s upstream, a second here).
    pub resync: Duration,
    /// Between two looks at the pods; the real one watches them.
    pub poll: Duration,
    /// How long an unwanted route on a cali interface is left alone.
    pub route_grace: Duration,
    /// The iptables command whose `-save` and `-restore` are used.
    pub iptables: String,
    /// FELIX_IPV6SUPPORT.
    pub ipv6: bool,
    /// FELIX_VXLANENABLED: it wins over what the FelixConfiguration says and what follows from the pools.
    pub vxlan_enabled: Option<bool>,
    /// FELIX_DEFAULTENDPOINTTOHOSTACTION; Calico's manifests say ACCEPT.
    pub endpoint_to_host: Option<String>,
}

impl Options {
    /// Reads FELIX_LIKE, LAB_RESYNC_MS, LAB_POLL_MS, LAB_ROUTE_GRACE_MS, LAB_IPTABLES, FELIX_IPV6SUPPORT, FELIX_VXLANENABLED, FELIX_DEFAULTENDPOINTTOHOSTACTION.
    pub fn from_env() -> Result<Options> {
        let text = env("FELIX_LIKE").unwrap_or_else(|| "3.31".to_owned());
        let mut numbers = text.trim_start_matches('v').split('.').map(str::parse::<u64>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            bail!("FELIX_LIKE is {text:?}. To fix it: give a release such as 3.31");
        };
        let pace = if is_unhurried() { 3 } else { 1 };
        Ok(Options {
            like: (major, minor),
            resync: Duration::from_millis(env_number("LAB_RESYNC_MS", 1000 * pace)?),
            poll: Duration::from_millis(env_number("LAB_POLL_MS", 250 * pace)?),
            route_grace: Duration::from_millis(env_number("LAB_ROUTE_GRACE_MS", 10_000)?),
            iptables: env("LAB_IPTABLES").unwrap_or_else(|| "iptables-nft".to_owned()),
            ipv6: startup::ipv6_support(),
            vxlan_enabled: env("FELIX_VXLANENABLED").map(|value| value.eq_ignore_ascii_case("true")),
            endpoint_to_host: env("FELIX_DEFAULTENDPOINTTOHOSTACTION").map(|action| action.to_uppercase()),
        })
    }

    /// The metric of a pod's route; the kernel gives an IPv6 route no lower one of itself.
    pub fn route_metric(&self, family: Family) -> u64 {
        if family == Family::V6 || self.like >= (3, 32) { 1024 } else { 0 }
    }

    /// The families that felix looks after.
    pub fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let ipv6 = self.ipv6;
        Family::BOTH.into_iter().filter(move |family| *family == Family::V4 || ipv6)
    }

    /// From 3.32 there is an ARP table too.
    pub fn has_arp_table(&self) -> bool {
        self.like >= (3, 32)
    }
}
