//! Which objects on a node belong to a CNI, and by what evidence. Pure.
//!
//! Nothing is flushed: an object is named here or it stays. One file a kind: [`links`] by name and kind, [`routes`] by protocol
//! and destination, [`firewall`] by prefix, comment hash and exact shape, [`plugins`] by network and container, [`kernel`]
//! (eBPF, IPsec, sysctls, modules), [`files`] by path and content. [`known`] is what is known of the CNI's network,
//! [`attachments`] which pods hang on it, [`stays`] what names its devices and is somebody else's.
//!
//! The steps of a switch and `nodectl cleanup` ask the same table. A switch leaves pods' devices and notes to the pods' own ends.

pub mod attachments;
pub mod files;
pub mod firewall;
pub mod kernel;
pub mod known;
pub mod links;
pub mod plugins;
pub mod routes;
pub mod stays;

use serde::{Deserialize, Serialize};

use crate::cni::Cni;
use crate::facts::Facts;
use crate::step::{CleanScope, RemovedImage};

pub use known::Known;

/// Kinds of objects, in the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Programs and qdiscs at devices' hooks.
    Hooks,
    /// Pinned eBPF objects.
    Pins,
    /// iptables chains.
    Chains,
    /// iptables rules in others' chains.
    Rules,
    /// Rules of nftables, by handle.
    NftRules,
    /// nftables tables.
    NftTables,
    /// ipsets.
    Sets,
    /// Policy rules.
    PolicyRules,
    /// Routes.
    Routes,
    /// IPsec policies and states.
    Ipsec,
    /// Addresses.
    Addresses,
    /// Permanent neighbours.
    Neighbours,
    /// Forwarding entries.
    Forwarding,
    /// Network devices.
    Links,
    /// Sysctls that are put back.
    Sysctls,
    /// Kernel modules.
    Modules,
    /// Files and directories.
    Files,
}

impl Group {
    /// What the objects are, for people.
    pub fn title(self) -> &'static str {
        match self {
            Group::Hooks => "programs at devices' hooks",
            Group::Pins => "pinned eBPF objects",
            Group::Chains => "chains",
            Group::Rules => "rules in others' chains",
            Group::NftRules => "nftables rules",
            Group::NftTables => "nftables tables",
            Group::Sets => "ipsets",
            Group::PolicyRules => "policy rules",
            Group::Routes => "routes",
            Group::Ipsec => "IPsec policies and states",
            Group::Addresses => "addresses",
            Group::Neighbours => "neighbour entries",
            Group::Forwarding => "forwarding entries",
            Group::Links => "network devices",
            Group::Sysctls => "sysctls put back",
            Group::Modules => "kernel modules",
            Group::Files => "files and folders",
        }
    }

    /// What one of them is.
    pub fn singular(self) -> &'static str {
        match self {
            Group::Hooks => "program",
            Group::Pins => "pin",
            Group::Chains => "chain",
            Group::Rules => "rule",
            Group::NftRules => "nft rule",
            Group::NftTables => "nft table",
            Group::Sets => "ipset",
            Group::PolicyRules => "policy rule",
            Group::Routes => "route",
            Group::Ipsec => "IPsec",
            Group::Addresses => "address",
            Group::Neighbours => "neighbour",
            Group::Forwarding => "forwarding entry",
            Group::Links => "link",
            Group::Sysctls => "sysctl",
            Group::Modules => "module",
            Group::Files => "file",
        }
    }
}

/// An object that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its kind.
    pub group: Group,
    /// The object, in the words of the tool that shows it.
    pub object: String,
    /// Why it is the CNI's.
    pub evidence: String,
    /// The device, or the folder, that it goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
}

/// Something that is not touched, and why it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// What.
    pub object: String,
    /// Why.
    pub why: String,
}

/// What a CNI has on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// In the form in which it can be removed, and put back where that makes sense.
    pub image: RemovedImage,
    /// Object by object, with the evidence.
    pub claims: Vec<Claim>,
    /// What looks like the CNI's, without evidence enough: it stays.
    pub undecided: Vec<Remark>,
    /// What stays and should be known of.
    pub stays: Vec<Remark>,
}

impl Inventory {
    pub(crate) fn claim(&mut self, group: Group, object: String, evidence: &str) {
        self.claims.push(Claim { group, object, evidence: evidence.into(), with: None });
    }

    pub(crate) fn claim_with(&mut self, group: Group, object: String, with: &str) {
        let evidence = if group == Group::Files { "unmounted before its folder goes" } else { "goes with its device" };
        self.claims.push(Claim { group, object, evidence: evidence.into(), with: Some(with.to_owned()) });
    }

    pub(crate) fn undecided(&mut self, object: String, why: &str) {
        self.undecided.push(Remark { object, why: why.into() });
    }

    pub(crate) fn stays(&mut self, object: &str, why: &str) {
        self.stays.push(Remark { object: object.into(), why: why.into() });
    }

    /// The objects that go by themselves, not with a device.
    pub fn own(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(|c| c.with.is_none())
    }
}

/// Everything that a CNI has on a node, its pods' devices and notes included.
pub fn inventory(facts: &Facts, cni: Cni, known: &Known) -> Inventory {
    let mut inventory = Inventory::default();
    links::claim(facts, cni, known, true, &mut inventory);
    kernel::claim_ebpf(facts, cni, known, &mut inventory);
    firewall::claim(facts, cni, known, &mut inventory);
    routes::claim(facts, cni, known, &mut inventory);
    kernel::claim_ipsec(facts, cni, known, &mut inventory);
    kernel::claim_sysctls(facts, cni, known, &mut inventory);
    kernel::claim_modules(facts, cni, known, &mut inventory);
    files::claim(facts, cni, known, &mut inventory);
    stays::tell(facts, cni, &mut inventory);
    inventory.claims.sort_by_key(|c| c.group);
    inventory
}

/// What a switch takes away of a CNI, in the form in which it can be removed and put back. Device names that the other CNI has
/// taken over (a renamed overlay) are its own by then and not found here.
pub fn owned(facts: &Facts, cni: Cni, scope: &CleanScope) -> RemovedImage {
    of_switch(facts, cni, scope).image
}

/// What is left of a CNI after a switch, a line each; empty where the node is clean of it.
pub fn leftovers(facts: &Facts, cni: Cni, scope: &CleanScope) -> Vec<String> {
    of_switch(facts, cni, scope).own().map(|c| format!("{} {}", c.group.singular(), c.object)).collect()
}

fn of_switch(facts: &Facts, cni: Cni, scope: &CleanScope) -> Inventory {
    let known = Known::of_scope(scope);
    let mut inventory = Inventory::default();
    links::claim(facts, cni, &known, false, &mut inventory);
    if scope.keep_bridge {
        links::keep_bridge(&mut inventory);
    }
    // Canal's felix goes on with Calico's chains and sets, and the other way round; what only one of them wants it takes away itself.
    if !(scope.canal && cni == Cni::Calico) {
        firewall::claim(facts, cni, &known, &mut inventory);
    }
    routes::claim(facts, cni, &known, &mut inventory);
    files::claim_of_switch(facts, cni, scope, &mut inventory);
    inventory
}
