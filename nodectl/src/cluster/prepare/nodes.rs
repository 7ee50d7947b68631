//! The Nodes: what has to be known of each, its labels and its annotations.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::prepared_annotation;
use crate::cluster::calico::Calico;
use crate::cluster::change::Change;
use crate::cluster::check::Check;
use crate::cluster::decision::Survey;
use crate::cluster::flannel::Flannel;
use crate::cluster::node::{NodeView, OverlayEnd};
use crate::cluster::object::{Kind, ObjectRef, annotation, label, set};
use crate::cluster::pace;
use crate::cni::{CALICO_MIGRATION_LABEL, Cni, NODE_LABEL, PACE_ANNOTATION, PREPARED_ANNOTATION};

/// Calico's annotations that tell of a node's overlay in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayAnnotations {
    /// The node's outer address.
    pub address: &'static str,
    /// The address of the overlay device.
    pub vtep_address: &'static str,
    /// The MAC of the overlay device.
    pub vtep_mac: &'static str,
}

/// Those of IPv4 and of IPv6 (libcalico-go/lib/backend/k8s/resources/node.go).
pub const OVERLAY_ANNOTATIONS: [OverlayAnnotations; 2] = [
    OverlayAnnotations {
        address: "projectcalico.org/IPv4Address",
        vtep_address: "projectcalico.org/IPv4VXLANTunnelAddr",
        vtep_mac: "projectcalico.org/VXLANTunnelMACAddr",
    },
    OverlayAnnotations {
        address: "projectcalico.org/IPv6Address",
        vtep_address: "projectcalico.org/IPv6VXLANTunnelAddr",
        vtep_mac: "projectcalico.org/VXLANTunnelMACAddrV6",
    },
];

/// Those of an address's family.
fn overlay_annotations(address: IpAddr) -> OverlayAnnotations {
    OVERLAY_ANNOTATIONS[usize::from(address.is_ipv6())]
}

/// The checks of every node.
pub fn checks(survey: &Survey, flannel: &Flannel) -> Vec<Check> {
    vec![
        summary(
            "node-system",
            "every node runs Linux",
            survey.nodes.iter().filter(|n| n.is_foreign()).map(|n| (n.name, format!("{} does not run Linux", n.name))),
            "this release prepares clusters of Linux nodes only",
        ),
        summary(
            "node-label",
            format!("every node's label {NODE_LABEL} has a value that is known"),
            survey.nodes.iter().filter_map(|n| Some((n.name, unknown_label(n)?))),
            format!(
                "set it to flannel, none or calico: whichever agent runs there (kubectl label node NAME --overwrite {NODE_LABEL}=flannel)"
            ),
        ),
        summary(
            "node-pod-cidr",
            "every node has a pod CIDR inside flannel's network",
            survey
                .nodes
                .iter()
                .filter(|n| !is_joining(n, flannel))
                .flat_map(|n| pod_cidr_problems(survey, flannel, n).into_iter().map(|problem| (n.name, problem))),
            "let kube-controller-manager run with --allocate-node-cidrs=true and the same --cluster-cidr as flannel's network",
        ),
        summary(
            "node-flannel",
            "every node carries flannel's annotations, and they fit its configuration",
            survey
                .nodes
                .iter()
                .filter(|n| !is_joining(n, flannel))
                .filter_map(|n| Some((n.name, flannel_problem(flannel, n)?))),
            "see why flannel does not run there or was configured otherwise (kubectl logs of its pod); a node that never ran flannel has to begin with the label nodectl.io/cni=flannel; one that is gone for good: kubectl delete node NAME",
        ),
        summary(
            "node-address",
            "Calico's address of every switched node is flannel's",
            survey.nodes.iter().flat_map(|n| address_problems(survey, n).into_iter().map(|problem| (n.name, problem))),
            "let calico-node detect the address that flannel uses (IP_AUTODETECTION_METHOD, for example kubernetes-internal-ip)",
        ),
    ]
}

/// One check over many nodes; each problem with the name of its node.
pub fn summary<'a>(
    name: &'static str,
    passed: impl Into<String>,
    problems: impl Iterator<Item = (&'a str, String)>,
    fix: impl Into<String>,
) -> Check {
    let (nodes, problems): (Vec<String>, Vec<String>) = problems.map(|(node, text)| (node.to_owned(), text)).unzip();
    Check { nodes, ..Check::refused_for_any(name, passed, "", &problems, fix) }
}

/// A node that came after flannel's DaemonSet was given the node selector: flannel starts on it only once it is
/// labelled, so it cannot carry flannel's annotations yet.
fn is_joining(node: &NodeView, flannel: &Flannel) -> bool {
    let flannel_is_wanted = node.wanted.is_none_or(|w| w == Cni::Flannel.name());
    flannel.selects_our_label && flannel_is_wanted && node.flannel.is_none()
}

/// Nodes that flannel still has to start on.
pub fn pending(survey: &Survey, flannel: &Flannel) -> Vec<String> {
    let joining = survey.nodes.iter().filter(|n| is_joining(n, flannel));
    let waits = |n: &NodeView| {
        let cidr = if n.pod_cidr.is_none() { " (it has no pod CIDR yet either)" } else { "" };
        format!("node {} has joined: flannel has to start there and to annotate it{cidr}", n.name)
    };
    joining.map(waits).collect()
}

fn unknown_label(node: &NodeView) -> Option<String> {
    let value = node.wanted?;
    let known = ["none", Cni::Flannel.name(), Cni::Calico.name()].contains(&value);
    (!known).then(|| format!("{} has {NODE_LABEL}={value}", node.name))
}

fn pod_cidr_problems(survey: &Survey, flannel: &Flannel, node: &NodeView) -> Vec<String> {
    let cidrs = survey.pod_cidrs(node);
    let problem = |network: IpNet| {
        let family = if network.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let Some(cidr) = cidrs.iter().find(|c| c.addr().is_ipv4() == network.addr().is_ipv4()) else {
            return Some(format!("{} has no {family} pod CIDR", node.name));
        };
        if !network.contains(cidr) {
            return Some(format!("{}'s pod CIDR {cidr} is not in flannel's network {network}", node.name));
        }
        let size = survey.block_size_of(network);
        if cidr.prefix_len() > size {
            return Some(format!("{}'s pod CIDR {cidr} is smaller than a block of Calico's pool (/{size})", node.name));
        }
        // Calico would give such a node further blocks, outside its pod CIDR, where flannel's nodes do not find them.
        let hosts = |cidr: &IpNet| cidr.max_prefix_len() - cidr.prefix_len();
        let ipv4 = cidrs.iter().find(|c| c.addr().is_ipv4()).filter(|ipv4| hosts(ipv4) > hosts(cidr))?;
        Some(format!(
            "{}'s pod CIDR {cidr} has fewer addresses than its {ipv4}, and a pod takes one of each",
            node.name
        ))
    };
    flannel.networks().filter_map(problem).collect()
}

fn flannel_problem(flannel: &Flannel, node: &NodeView) -> Option<String> {
    let prefix = &flannel.annotation_prefix;
    let Some(found) = &node.flannel else {
        return Some(format!("{} has no annotations {prefix}backend-data and {prefix}public-ip", node.name));
    };
    if found.backend != "vxlan" {
        return Some(format!("flannel runs on {} with the backend '{}', not vxlan", node.name, found.backend));
    }
    if flannel.network6.is_none() && found.v6.is_some() {
        return Some(format!(
            "flannel carried IPv6 on {} too ({prefix}backend-v6-data), and its net-conf.json does not say so: give --flannel-ipv6-network, or take the annotation off where that is over",
            node.name
        ));
    }
    let mut overlays = vec![(found.vni, &found.mac)];
    if flannel.network6.is_some() {
        let Some(v6) = &found.v6 else {
            return Some(format!("{} has no annotations {prefix}backend-v6-data and {prefix}public-ipv6", node.name));
        };
        overlays.push((v6.vni, &v6.mac));
    }
    overlays.into_iter().find_map(|(vni, mac)| overlay_problem(flannel, node, vni, mac))
}

fn overlay_problem(flannel: &Flannel, node: &NodeView, vni: Option<u64>, mac: &str) -> Option<String> {
    if let Some(vni) = vni.filter(|vni| *vni != u64::from(flannel.vni)) {
        return Some(format!("flannel runs on {} with VNI {vni}, not {}", node.name, flannel.vni));
    }
    let octets: Vec<&str> = mac.split(':').collect();
    let is_mac = octets.len() == 6 && octets.iter().all(|o| o.len() == 2 && u8::from_str_radix(o, 16).is_ok());
    (!is_mac).then(|| format!("the VtepMAC '{mac}' of {} is no MAC", node.name))
}

/// calico-node rewrites its addresses as long as it runs, so on a switched node only a report helps.
fn address_problems(survey: &Survey, node: &NodeView) -> Vec<String> {
    let switched = node.wanted == Some(Cni::Calico.name());
    let problem = |end: &OverlayEnd| {
        let found = address_without_mask(annotation(node.object, overlay_annotations(end.public_ip).address)?)?;
        (switched && found != end.public_ip)
            .then(|| format!("Calico found {found} on {}, flannel {}", node.name, end.public_ip))
    };
    survey.ends(node).iter().flatten().filter_map(problem).collect()
}

fn address_without_mask(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// The labels.
pub fn labels(survey: &Survey) -> Vec<Change> {
    let change = |node: &NodeView| {
        let reason = "the label says which agent runs on the node; Calico's own label keeps its garbage collector from giving the node's blocks away";
        Change::update(ObjectRef::cluster(Kind::Node, node.name), node.object, labelled(node), reason)
    };
    survey.nodes.iter().filter_map(change).collect()
}

/// The node with its labels.
fn labelled(node: &NodeView) -> Value {
    let mut wanted = node.object.clone();
    if node.wanted.is_none() {
        set(&mut wanted, &["metadata", "labels", NODE_LABEL], json!(Cni::Flannel.name()));
    }
    // Calico's garbage collector gives the empty blocks of a node away unless this label has another value than calico;
    // while flannel's nodes route whole pod CIDRs, that would cut pods off.
    if label(node.object, CALICO_MIGRATION_LABEL) != Some(Cni::Flannel.name()) {
        set(&mut wanted, &["metadata", "labels", CALICO_MIGRATION_LABEL], json!(Cni::Flannel.name()));
    }
    wanted
}

/// The annotations: the node's end of the overlay, for Calico's nodes; and what the node itself must know.
///
/// A Node is written twice, so this write starts from the Node as it was read plus its labels.
pub fn annotations(survey: &Survey, flannel: &Flannel, calico: &Calico) -> Vec<Change> {
    let paced = pace::is_kept(survey);
    let change = |node: &NodeView| {
        let ends = survey.ends(node)?;
        let target = ObjectRef::cluster(Kind::Node, node.name);
        let before = labelled(node);
        let mut wanted = before.clone();
        ends.iter().for_each(|end| annotate_overlay(&mut wanted, end));
        let prepared = prepared_annotation::new(survey, flannel, calico, node, &ends)?;
        let existing = annotation(node.object, PREPARED_ANNOTATION).unwrap_or_default();
        annotate(&mut wanted, PREPARED_ANNOTATION, &prepared_annotation::value(&prepared, existing));
        if let Some(word) = pace::initial(node).filter(|_| paced) {
            annotate(&mut wanted, PACE_ANNOTATION, word);
        }
        let reason = "Calico's nodes reach this one by its end of flannel's overlay, and the node learns of the cluster what its own credentials cannot read";
        Change::update(target, &before, wanted, reason)
    };
    survey.nodes.iter().filter_map(change).collect()
}

/// What Calico's nodes know this one's end of the overlay by.
fn annotate_overlay(node: &mut Value, end: &OverlayEnd) {
    let keys = overlay_annotations(end.public_ip);
    let address = annotation(node, keys.address).and_then(address_without_mask);
    // calico-node writes the address with the mask that it found; that one is kept.
    if address != Some(end.public_ip) {
        annotate(node, keys.address, &IpNet::from(end.public_ip).to_string());
    }
    annotate(node, keys.vtep_address, &end.pod_cidr.network().to_string());
    if !annotation(node, keys.vtep_mac).unwrap_or_default().eq_ignore_ascii_case(&end.mac) {
        annotate(node, keys.vtep_mac, &end.mac);
    }
}

fn annotate(node: &mut Value, key: &str, value: &str) {
    set(node, &["metadata", "annotations", key], json!(value));
}
