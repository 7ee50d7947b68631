//! Whether flannel is installed and configured so that it can be taken over.

use serde_json::Value;

use super::{Backend, NetConf, OLDEST, argument};
use crate::cluster::check::Check;
use crate::cluster::daemon_set::{self as ds, full_name};
use crate::cluster::object::{name, namespace};
use crate::cluster::request::Request;
use crate::cluster::version;
use crate::cni::NODE_LABEL;

/// flannel is not too old.
pub fn version_check(daemon_sets: &[&Value]) -> Check {
    let images: Vec<&str> =
        daemon_sets.iter().filter_map(|d| ds::flannel_container(d)?.get("image")?.as_str()).collect();
    let image = images.first().copied().unwrap_or("(no image)");
    let old = images.iter().filter_map(|i| version::of_image(i)).find(|(found, _)| *found < OLDEST);
    match (old, version::of_image(image)) {
        (Some((_, tag)), _) => Check::refused(
            "flannel-version",
            format!("flannel {tag} is older than 0.9.1, the oldest that can be taken over"),
            "upgrade flannel first",
        ),
        (None, Some((_, tag))) => Check::passed("flannel-version", format!("flannel is {tag}")),
        (None, None) => Check::passed("flannel-version", format!("the tag of image {image} tells no version")),
    }
}

/// No add-on manager puts back what is changed.
pub fn manager_check(daemon_sets: &[&Value]) -> Check {
    const NAME: &str = "flannel-manager";
    let Some((daemon_set, manager)) = daemon_sets.iter().find_map(|d| Some((d, ds::addon_manager(d)?))) else {
        return Check::passed(NAME, "no add-on manager looks after flannel's DaemonSet");
    };
    let label = manager.mark.split('=').next().unwrap_or_default();
    Check::refused(
        NAME,
        format!(
            "{} manages DaemonSet {} (label {}) and would put back what is changed on it",
            manager.what,
            full_name(daemon_set),
            manager.mark
        ),
        format!(
            "take flannel's manifest out of the add-on directory of every control-plane node, then: kubectl -n {} label daemonset {} {label}-",
            namespace(daemon_set),
            name(daemon_set)
        ),
    )
}

/// No delivery tool takes the node selector off again.
pub fn owner_check(daemon_sets: &[&Value]) -> Check {
    for daemon_set in daemon_sets {
        if ds::node_selector(daemon_set).contains_key(NODE_LABEL) {
            continue;
        }
        if let Some(manager) = ds::delivery(daemon_set) {
            return Check::refused(
                "flannel-owner",
                format!(
                    "{} manages DaemonSet {} ({}) and would take the node selector off it again",
                    manager.what,
                    full_name(daemon_set),
                    manager.mark
                ),
                format!(
                    "add the node selector {NODE_LABEL}: flannel to what {} delivers, label every node {NODE_LABEL}=flannel before that (kubectl label nodes --all {NODE_LABEL}=flannel), then run prepare again",
                    manager.what
                ),
            );
        }
    }
    Check::passed(
        "flannel-owner",
        "nobody else delivers flannel's DaemonSet, or the node selector is delivered with it",
    )
}

/// flannel keeps its subnets where the API server sees them.
pub fn subnet_manager_check(argv: &[String]) -> Check {
    match argument(argv, "kube-subnet-mgr").as_deref() {
        Some("" | "true") => Check::passed("flannel-subnet-manager", "flannel keeps its subnets in Kubernetes"),
        _ => Check::refused(
            "flannel-subnet-manager",
            "flannel does not run with --kube-subnet-mgr: it keeps its subnets in etcd, out of the API server's sight",
            "move flannel to its Kubernetes subnet manager first",
        ),
    }
}

/// The backend is one that Calico can be a peer of.
pub fn backend_check(backend: Option<&Backend>, configured: bool) -> Check {
    const NAME: &str = "flannel-backend";
    // flannel's own default, from the days before VXLAN.
    let kind = backend.and_then(|b| b.kind.as_deref()).unwrap_or(if configured { "udp" } else { "vxlan" });
    if !kind.eq_ignore_ascii_case("vxlan") {
        return Check::refused(
            NAME,
            format!(
                "flannel's backend is {kind}; only vxlan can be taken over, for only there are Calico's nodes ordinary peers of flannel's"
            ),
            "leave the cluster on flannel, or move flannel to the vxlan backend first (that restarts the network of all nodes)",
        );
    }
    if backend.is_some_and(|b| b.direct_routing) {
        return Check::refused(
            NAME,
            "flannel's vxlan backend has DirectRouting on: its nodes reach neighbours on their link without the overlay, and Calico's would answer through it",
            "set DirectRouting to false in flannel's net-conf.json and restart flannel's pods",
        );
    }
    if backend.is_some_and(|b| b.gbp) {
        return Check::refused(
            NAME,
            "flannel's vxlan backend has GBP on, which Calico's overlay device does not speak",
            "set GBP to false in flannel's net-conf.json and restart flannel's pods",
        );
    }
    Check::passed(NAME, "flannel's backend is vxlan, without direct routing")
}

/// IPv4 alone, or with IPv6 beside it.
pub fn families_check(conf: &NetConf, request: &Request) -> Check {
    const NAME: &str = "flannel-families";
    let both = conf.enable_ipv6 || request.flannel_ipv6_network.is_some();
    if conf.enable_ipv4 == Some(false) {
        return Check::refused(
            NAME,
            "flannel carries IPv6 alone (EnableIPv4 is false in its net-conf.json)",
            "this release takes over IPv4, with or without IPv6 beside it; leave the cluster on flannel",
        );
    }
    Check::passed(NAME, if both { "flannel carries IPv4 and IPv6" } else { "flannel carries IPv4 alone" })
}
