//! What this release does not switch, each by name.

use super::Check;
use crate::facts::{ClusterView, Facts};
use crate::ownership::known::{is_canal, is_canal_etcd};
use crate::request::{Request, Strategy};

/// One refusal per thing that is out of scope; a single pass where there is none.
pub(super) fn checks(facts: &Facts, view: &ClusterView, request: &Request) -> Vec<Check> {
    let refusals: Vec<(String, &str)> = [
        strategy(facts, request),
        ipv6(facts, view),
        ipv6_in_place(view, request),
        backend(view),
        canal(facts, view, request),
        k3s(facts),
        multus(facts),
        chained(facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    if refusals.is_empty() {
        return vec![Check::pass(
            "scope",
            "flannel and Calico over VXLAN, containerd: within what this release switches",
        )];
    }
    refusals.into_iter().map(|(found, fix)| Check::fail("scope", found, fix)).collect()
}

type Refusal = Option<(String, &'static str)>;

fn strategy(facts: &Facts, request: &Request) -> Refusal {
    let runtime = facts.runtime.as_ref().map_or("", |runtime| runtime.name.as_str());
    match request.strategy {
        Strategy::Recreate => Some(("strategy recreate is not there yet".into(), "use --strategy drain or in-place")),
        // CRI-O deletes a pod by what it cached when the pod came, past the shim's record of whose the pod is now.
        Strategy::InPlace if runtime == "cri-o" => {
            Some(("strategy in-place is not there yet for CRI-O".into(), "use --strategy drain"))
        }
        Strategy::Drain | Strategy::InPlace => None,
    }
}

/// What flannel carries on this node, prepare must have told of.
fn ipv6(facts: &Facts, view: &ClusterView) -> Refusal {
    let Some(Ok(prepared)) = &view.prepared else { return None };
    let carries = facts.files.subnet_env.contains_key("FLANNEL_IPV6_SUBNET");
    (carries && prepared.ipv6.is_none()).then(|| {
        (
            "flannel carries IPv6 on this node, and the cluster was prepared for IPv4 alone".to_owned(),
            "run `nodectl cluster prepare` again",
        )
    })
}

fn ipv6_in_place(view: &ClusterView, request: &Request) -> Refusal {
    let both = matches!(&view.prepared, Some(Ok(prepared)) if prepared.ipv6.is_some());
    (both && request.strategy == Strategy::InPlace).then(|| {
        ("strategy in-place is not there yet for clusters with IPv4 and IPv6".to_owned(), "use --strategy drain")
    })
}

fn backend(view: &ClusterView) -> Refusal {
    let backend = view.annotations.get("flannel.alpha.coreos.com/backend-type")?;
    (backend != "vxlan").then(|| {
        (
            format!("flannel's backend here is {backend}, only vxlan is taken over"),
            "change flannel's backend to vxlan first",
        )
    })
}

fn canal(facts: &Facts, view: &ClusterView, request: &Request) -> Refusal {
    if facts.files.confs.values().any(is_canal_etcd) {
        return Some((
            "this is a Canal node with an etcd of its own (canal-etcd): flannel's plugin lets Calico's make the interfaces".to_owned(),
            "leave it on Canal; only Canal with the Kubernetes datastore is switched",
        ));
    }
    let Some(Ok(prepared)) = &view.prepared else { return None };
    if facts.files.confs.values().any(is_canal) && !prepared.canal {
        return Some((
            "this is a Canal node, and the cluster was not prepared as one".to_owned(),
            "run `nodectl cluster prepare` again",
        ));
    }
    (prepared.canal && request.strategy == Strategy::InPlace)
        .then(|| ("strategy in-place is not there yet for Canal".to_owned(), "use --strategy drain"))
}

fn k3s(facts: &Facts) -> Refusal {
    let embedded =
        facts.processes.iter().any(|p| ["k3s", "k3s-agent", "k3s-server", "rke2"].contains(&p.name.as_str()));
    let conf = facts.files.conf_dir.contains("rancher/k3s");
    (embedded || conf).then(|| {
        (
            "flannel is embedded in k3s here, there is no DaemonSet to steer".to_owned(),
            "wait for a release that switches k3s",
        )
    })
}

fn multus(facts: &Facts) -> Refusal {
    let multus = facts.files.confs.values().any(|conf| conf.to_string().contains("\"multus"));
    multus.then(|| ("Multus is in front of the node's CNI".to_owned(), "wait for a release that works behind Multus"))
}

/// A plugin chained into the node's own list by somebody else would be lost on the way.
fn chained(facts: &Facts) -> Refusal {
    const KNOWN: [&str; 5] = ["flannel", "calico", "portmap", "bandwidth", "cni-shim"];
    let first = facts.files.conf_names.iter().find(|n| n.as_str() != crate::plan::SHIM_CONFLIST)?;
    let plugins = facts.files.confs.get(first)?.get("plugins")?.as_array()?;
    let foreign = plugins.iter().filter_map(|p| p.get("type")?.as_str()).find(|t| !KNOWN.contains(t))?;
    Some((
        format!("{first} chains the plugin `{foreign}`, which Calico's configuration would not have"),
        "take it out of the chain, or wait for a release that carries it over",
    ))
}
