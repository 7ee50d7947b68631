//! What is known of a CNI's network on this node: its address ranges, its names. Without it, routes and rules without a name
//! of their own cannot be told from an administrator's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::Cni;
use crate::facts::{Address, Backend, ClusterView, Facts, Link};
use crate::rules;
use crate::step::CleanScope;

/// What is known of a CNI's network. A cleanup notes it before it removes the first thing, since the things are the evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The pod network, every family.
    pub networks: Vec<IpNet>,
    /// This node's part of it.
    pub subnets: Vec<IpNet>,
    /// Names of its CNI networks.
    pub names: Vec<String>,
    /// Prefixes of Calico's host interfaces.
    pub prefixes: Vec<String>,
    /// VXLAN identifiers; any where empty.
    pub vnis: Vec<u32>,
    /// Pod networks that flannel masqueraded by rules without a name, and in which variant of iptables: its rules of FORWARD
    /// there are told by those.
    pub unnamed: Vec<(Backend, IpNet)>,
    /// Routing tables that a rule of the CNI's named.
    pub tables: Vec<u32>,
    /// IPsec policies of the CNI's were seen.
    pub ipsec: bool,
    /// eBPF objects of the CNI's were seen.
    pub ebpf: bool,
    /// WireGuard devices of the CNI's were seen.
    pub wireguard: bool,
    /// flannel tunnels to nodes that are neighbours: it has no direct routes here, so one that looks so is somebody's.
    pub tunnels: bool,
    /// Calico's address, or a route of its, was seen on tunl0.
    pub ipip: bool,
    /// Containers that live on the network of another CNI: what is written down about them stays.
    pub others: BTreeSet<String>,
}

impl Known {
    /// What the node itself shows.
    pub fn of(facts: &Facts, cni: Cni) -> Known {
        let mut known = Known { prefixes: vec!["cali".into()], ..Known::default() };
        known.names = names(facts, cni);
        match cni {
            Cni::Flannel => flannel(facts, &mut known),
            Cni::Calico => calico(facts, &mut known),
        }
        // kube-proxy knows the pod network of the cluster, whichever CNI it has.
        known.networks.extend(kube_proxy(facts));
        if let Some(Ok(prepared)) = facts.cluster.as_ref().and_then(|c| c.prepared.as_ref()) {
            known.networks.extend(prepared.halves().map(|half| half.cluster_cidr));
            known.subnets.extend(prepared.halves().map(|half| half.pod_cidr));
            known.prefixes.push(prepared.calico.interface_prefix.clone());
        }
        let is_flannels = |c: &&ClusterView| c.annotations.contains_key("flannel.alpha.coreos.com/kube-subnet-manager");
        known.subnets.extend(facts.cluster.iter().filter(is_flannels).flat_map(|c| &c.pod_cidrs));
        known.others = super::attachments::others(facts, cni);
        known.tidy();
        known.note(facts, cni);
        known
    }

    /// What a switch knows from what prepare wrote.
    pub fn of_scope(scope: &CleanScope) -> Known {
        let mut known = Known {
            networks: std::iter::once(scope.cluster_cidr).chain(scope.ipv6.map(|v6| v6.cluster_cidr)).collect(),
            subnets: std::iter::once(scope.pod_cidr).chain(scope.ipv6.map(|v6| v6.pod_cidr)).collect(),
            // Rules of plugins for a pod go with the pod, which may have been handed over alive.
            names: Vec::new(),
            prefixes: vec![scope.interface_prefix.clone()],
            vnis: vec![scope.vni],
            // prepare refuses DirectRouting and every backend but VXLAN.
            tunnels: true,
            ..Known::default()
        };
        known.tidy();
        known
    }

    /// Adds what somebody else knows.
    pub fn add(&mut self, other: &Known) {
        self.networks.extend(&other.networks);
        self.subnets.extend(&other.subnets);
        self.names.extend(other.names.iter().cloned());
        self.prefixes.extend(other.prefixes.iter().cloned());
        self.unnamed.extend(&other.unnamed);
        self.tables.extend(&other.tables);
        self.ipsec |= other.ipsec;
        self.ebpf |= other.ebpf;
        self.wireguard |= other.wireguard;
        self.tunnels |= other.tunnels;
        self.ipip |= other.ipip;
        self.tidy();
    }

    /// Notes what goes and was evidence for other things, once all networks are known.
    pub fn note(&mut self, facts: &Facts, cni: Cni) {
        match cni {
            Cni::Flannel => {
                for saved in &facts.firewall.saved {
                    let seen = rules::unnamed_networks(&saved.text, &self.networks);
                    self.unnamed.extend(seen.into_iter().map(|network| (saved.backend, network)));
                }
            }
            Cni::Calico => self.ipip |= super::links::is_calicos_tunnel(facts, self),
        }
        self.tidy();
    }

    /// Whether a destination lies in the pod network.
    pub fn contains(&self, inner: &IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(inner))
    }

    /// Whether an address is of this node's part.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    /// Whether a network of this name is the CNI's.
    pub fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    fn tidy(&mut self) {
        // The whole address space is nobody's pod network.
        self.networks.retain(|network| network.prefix_len() > 0);
        self.prefixes.retain(|prefix| !prefix.is_empty());
        sort(&mut self.networks);
        sort(&mut self.subnets);
        sort(&mut self.names);
        sort(&mut self.prefixes);
        sort(&mut self.unnamed);
        sort(&mut self.tables);
    }
}

fn sort<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

/// Names of networks whose plugins are the CNI's: of its configurations, and as the runtime noted them.
fn names(facts: &Facts, cni: Cni) -> Vec<String> {
    let of_confs = facts.files.confs.values().filter(|conf| main_plugin(conf) == Some(plugin(cni)));
    let mut names: Vec<String> = of_confs.filter_map(|conf| conf["name"].as_str().map(str::to_owned)).collect();
    for note in facts.traces.iter().flat_map(|t| &t.notes) {
        let first = note.plugins.first().map(String::as_str);
        if first == Some(plugin(cni)) || (cni == Cni::Flannel && note.path.starts_with("/var/lib/cni/flannel/")) {
            names.push(note.network.clone());
        }
    }
    // What the CNI's own manifests call it, where nothing says that somebody else does.
    let usual = if cni == Cni::Flannel { "cbr0" } else { "k8s-pod-network" };
    let foreign =
        facts.files.confs.values().any(|conf| {
            conf["name"] == usual && main_plugin(conf).is_some_and(|p| p != plugin(cni) && p != "cni-shim")
        });
    if !foreign {
        names.push(usual.into());
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Type of the plugin that makes the CNI's interfaces.
pub fn plugin(cni: Cni) -> &'static str {
    match cni {
        Cni::Flannel => "flannel",
        Cni::Calico => "calico",
    }
}

/// The CNI whose own plugin this is, by its file's name.
pub fn owner_of_plugin(name: &str) -> Option<Cni> {
    match name {
        "flannel" => Some(Cni::Flannel),
        "calico" | "calico-ipam" => Some(Cni::Calico),
        _ => None,
    }
}

/// Type of a configuration's first plugin; a `.conf` holds one plugin without a list.
pub fn main_plugin(conf: &Value) -> Option<&str> {
    conf["plugins"][0]["type"].as_str().or_else(|| conf["type"].as_str())
}

/// Whether a configuration is Canal's: Calico's plugin with host-local's addresses.
pub fn is_canal(conf: &Value) -> bool {
    main_plugin(conf) == Some("calico") && conf["plugins"][0]["ipam"]["type"] == "host-local"
}

/// The CNI whose configuration it is. Canal's is flannel's side's, though its plugin is Calico's.
pub fn owner_of_configuration(conf: &Value) -> Option<Cni> {
    if is_canal(conf) {
        return Some(Cni::Flannel);
    }
    [Cni::Flannel, Cni::Calico].into_iter().find(|cni| main_plugin(conf) == Some(plugin(*cni)))
}

/// Whether a configuration is that of canal-etcd: flannel's plugin, which has Calico's make the interfaces.
pub fn is_canal_etcd(conf: &Value) -> bool {
    main_plugin(conf) == Some("flannel") && conf["plugins"][0]["delegate"]["type"] == "calico"
}

/// subnet.env, what flannel's plugin saved, and the rules that name the network.
fn flannel(facts: &Facts, known: &mut Known) {
    for (name, value) in &facts.files.subnet_env {
        let list = match name.as_str() {
            "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK" => &mut known.networks,
            "FLANNEL_SUBNET" | "FLANNEL_IPV6_SUBNET" => &mut known.subnets,
            _ => continue,
        };
        // Since 0.21 a comma may part several.
        list.extend(value.split(',').filter_map(|net| net.trim().parse::<IpNet>().ok()).map(|net| net.trunc()));
    }
    for note in facts.traces.iter().flat_map(|t| &t.notes).filter(|n| n.path.starts_with("/var/lib/cni/flannel/")) {
        if let Some((own, rest)) = note.networks.split_first() {
            known.subnets.push(*own);
            known.networks.extend(rest);
        }
    }
    for saved in &facts.firewall.saved {
        known.networks.extend(rules::flannel_networks(&saved.text));
    }
    known.subnets.extend(overlay_subnets(facts));
    known.tunnels = tunnels_to_neighbours(facts);
    known.ipsec = facts.traces.iter().flat_map(|t| &t.xfrm_policies).any(|p| p.reqid == super::kernel::REQID);
    known.wireguard = facts.network.links.iter().any(|l| l.name.starts_with("flannel-wg"));
}

/// Whether flannel's VXLAN devices carry what it would route directly, were DirectRouting on: to nodes that this host reaches
/// without a gateway. As they are, or as the Node's annotation tells once they are gone.
fn tunnels_to_neighbours(facts: &Facts) -> bool {
    let network = &facts.network;
    let overlays = || network.links.iter().filter(|l| l.vxlan.is_some() && l.name.starts_with("flannel"));
    let parent = |link: &Link| link.vxlan.as_ref().and_then(|v| v.parent.clone());
    let is_near = |link: &Link, node: IpAddr| {
        network.addresses.iter().any(|a| Some(&a.link) == parent(link).as_ref() && a.address.contains(&node))
    };
    let outer = |link: &Link, gateway: IpAddr| {
        let mac = &network.neighbours.iter().find(|n| n.link == link.name && n.address == gateway)?.mac;
        network.fdb.iter().find(|f| f.link == link.name && f.mac == *mac).map(|f| f.dst)
    };
    let carries = |link: &Link| {
        let gateways = network.routes.iter().filter(|r| r.dev.as_ref() == Some(&link.name)).filter_map(|r| r.via);
        gateways.filter_map(|gateway| outer(link, gateway)).any(|node| is_near(link, node))
    };
    let told = |c: &ClusterView| {
        c.annotations.get("flannel.alpha.coreos.com/backend-type").is_some_and(|backend| backend == "vxlan")
    };
    overlays().any(carries) || overlays().next().is_none() && facts.cluster.iter().any(told)
}

/// This node's parts as flannel's VXLAN devices show them: each has the base of one as its address, and its routes lead to
/// parts of the same length. Where the host sees no subnet.env (Canal), nothing else tells.
fn overlay_subnets(facts: &Facts) -> Vec<IpNet> {
    let network = &facts.network;
    let overlays = network.links.iter().filter(|l| l.vxlan.is_some() && l.name.starts_with("flannel"));
    let subnet = |address: &Address| {
        let peers = network.routes.iter().filter(|r| r.dev.as_ref() == Some(&address.link) && r.via.is_some());
        let mut lengths: Vec<u8> = peers.map(|r| r.dst.prefix_len()).collect();
        lengths.dedup();
        let [length] = lengths.as_slice() else { return None };
        IpNet::new(address.address.addr(), *length).ok().filter(|net| net.addr() == net.network())
    };
    let mut subnets = Vec::new();
    for overlay in overlays {
        subnets.extend(network.addresses.iter().filter(|a| a.link == overlay.name).filter_map(subnet));
    }
    subnets
}

/// The sets of felix's pools, and the pools that a configuration names.
fn calico(facts: &Facts, known: &mut Known) {
    if let Some(traces) = &facts.traces {
        known.networks.extend(&traces.pools);
        known.ebpf = super::kernel::has_pins(traces);
    }
    for conf in facts.files.confs.values().filter(|conf| main_plugin(conf) == Some("calico")) {
        let ipam = &conf["plugins"][0]["ipam"];
        let pools = ["ipv4_pools", "ipv6_pools"].into_iter().flat_map(|key| ipam[key].as_array().into_iter().flatten());
        known.networks.extend(pools.filter_map(|pool| pool.as_str()?.parse::<IpNet>().ok()));
    }
    // Calico takes flannel's network over, and in Canal the two share one.
    let mut other = Known::default();
    flannel(facts, &mut other);
    known.networks.extend(other.networks);
    known.wireguard = facts.network.links.iter().any(|l| l.name == "wireguard.cali" || l.name == "wg-v6.cali");
    known.tables.extend(facts.network.rules.iter().filter(|r| super::routes::is_wireguard_shape(r)).map(|r| r.table));
}

/// The pod network as kube-proxy was told, by its arguments or by the rules that it wrote.
fn kube_proxy(facts: &Facts) -> Vec<IpNet> {
    let arguments = facts.processes.iter().filter(|p| p.name == "kube-proxy").flat_map(|p| &p.args);
    let told = arguments.filter_map(|a| a.strip_prefix("--cluster-cidr=")).flat_map(|list| list.split(','));
    let mut networks: Vec<IpNet> = told.filter_map(|net| net.parse().ok()).collect();
    for saved in &facts.firewall.saved {
        let masked =
            saved.text.lines().filter(|line| line.starts_with("-A KUBE-") && line.ends_with("-j KUBE-MARK-MASQ"));
        networks
            .extend(masked.filter_map(|line| line.split_once(" ! -s ")?.1.split(' ').next()?.parse::<IpNet>().ok()));
    }
    // A service's rule may name a single pod in the same manner.
    networks.retain(|net| net.prefix_len() < net.max_prefix_len());
    networks
}
