//! The prepared annotation: what a node must know of its cluster, and when it has to be written anew.

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::calico::Calico;
use crate::cluster::daemon_set::images;
use crate::cluster::decision::Survey;
use crate::cluster::flannel::Flannel;
use crate::cluster::node::{NodeView, OverlayEnd};
use crate::cluster::object::{find_in, items, label, text};
use crate::cluster::version;
use crate::prepared::{AgentInfo, Ipv6Half, PREPARED_VERSION, Prepared, ProbeTargets, Vtep};

/// A node takes an old preparation for stale; one that was checked again within this time is not rewritten, so that
/// running prepare twice changes nothing.
const REFRESH_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// What a node is to know; its ends of the overlay come IPv4 first. `None` without one.
pub fn new(
    survey: &Survey,
    flannel: &Flannel,
    calico: &Calico,
    node: &NodeView,
    ends: &[OverlayEnd],
) -> Option<Prepared> {
    let (v4, v6) = (ends.first()?, ends.get(1).zip(flannel.network6));
    let families = if v6.is_some() { vec!["ipv4".to_owned(), "ipv6".to_owned()] } else { vec!["ipv4".to_owned()] };
    Some(Prepared {
        version: PREPARED_VERSION,
        direction: "flannel-to-calico".to_owned(),
        families,
        cluster_cidr: IpNet::V4(flannel.network),
        pod_cidr: v4.pod_cidr,
        vni: flannel.vni,
        port: flannel.port,
        mtu: flannel.mtu,
        masquerade: flannel.masquerade,
        vtep: vtep(v4),
        ipv6: v6.map(|(end, network)| Ipv6Half {
            cluster_cidr: IpNet::V6(network),
            pod_cidr: end.pod_cidr,
            vtep: vtep(end),
        }),
        canal: flannel.canal,
        flannel: flannel_info(survey, flannel, node),
        calico: calico_info(survey, calico),
        probe: probe(survey),
        checks: survey.checks.iter().map(|c| c.name.to_owned()).collect(),
        prepared_by: survey.facts.user.clone(),
        prepared_at: survey.request.now.rfc3339.clone(),
    })
}

fn vtep(end: &OverlayEnd) -> Vtep {
    Vtep { address: end.pod_cidr.network(), mac: end.mac.clone(), public_ip: end.public_ip }
}

fn flannel_info(survey: &Survey, flannel: &Flannel, node: &NodeView) -> AgentInfo {
    // Manifests of 2019 and 2020 had a DaemonSet for each architecture, named after it.
    let architecture = label(node.object, "kubernetes.io/arch").unwrap_or("amd64");
    let own = flannel.daemon_sets.iter().find(|name| name.ends_with(&format!("-{architecture}")));
    let name = own.or(flannel.daemon_sets.first()).cloned().unwrap_or_default();
    let daemon_set = find_in(&survey.facts.daemon_sets, &flannel.namespace, &name);
    let images = daemon_set.map(images).unwrap_or_default();
    AgentInfo {
        namespace: flannel.namespace.clone(),
        daemonset: name,
        version: images.iter().rev().find_map(|i| version::of_image(i)).map(|(_, text)| text).unwrap_or_default(),
        images,
        network: flannel.network_name.clone(),
        conflist: flannel.conflist.clone(),
        interface_prefix: String::new(),
        route_metric: None,
    }
}

fn calico_info(survey: &Survey, calico: &Calico) -> AgentInfo {
    let daemon_set = find_in(&survey.facts.daemon_sets, &calico.namespace, &calico.daemon_set);
    AgentInfo {
        namespace: calico.namespace.clone(),
        daemonset: calico.daemon_set.clone(),
        version: calico.version.clone(),
        images: daemon_set.map(images).unwrap_or_default(),
        network: calico.network_name.clone(),
        conflist: calico.conflist.clone(),
        interface_prefix: calico.interface_prefix.clone(),
        route_metric: calico.route_metric,
    }
}

/// The API server's own Service answers in every cluster; a DNS Service in most.
fn probe(survey: &Survey) -> ProbeTargets {
    let services = &survey.facts.services;
    let target = |service: &serde_json::Value, wanted: &str| {
        let address = text(service, "/spec/clusterIP").filter(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok())?;
        let ports = items(service, "/spec/ports");
        let port = ports.iter().find(|p| text(p, "/name") == Some(wanted)).or(ports.first())?;
        Some(format!("{address}:{}", port.get("port")?.as_u64()?))
    };
    let api = find_in(services, "default", "kubernetes");
    let dns = services.iter().filter(|s| label(s, "k8s-app") == Some("kube-dns"));
    ProbeTargets {
        service: api.and_then(|s| target(s, "https")).unwrap_or_default(),
        dns: dns.filter_map(|s| target(s, "dns")).next().unwrap_or_default(),
    }
}

/// The annotation's value: what stands on the node already, as long as that is current.
pub fn value(wanted: &Prepared, existing: &str) -> String {
    if is_current(existing, wanted) {
        return existing.to_owned();
    }
    serde_json::to_string(wanted).unwrap_or_default()
}

/// What stands on the node says the same, and was checked not long ago.
fn is_current(existing: &str, wanted: &Prepared) -> bool {
    let Ok(existing) = Prepared::parse(existing) else { return false };
    let same = Prepared {
        prepared_by: wanted.prepared_by.clone(),
        prepared_at: wanted.prepared_at.clone(),
        ..existing.clone()
    };
    let (Ok(then), Ok(now)) = (existing.prepared_at.parse::<Timestamp>(), wanted.prepared_at.parse::<Timestamp>())
    else {
        return false;
    };
    same == *wanted && now.duration_since(then) < REFRESH_AFTER
}
