//! Canal: flanneld and a calico-node for policy alone in one pod. Calico's plugin makes the pods' network, with host-local's addresses.

use serde_json::Value;

use crate::cluster::check::Check;
use crate::cluster::daemon_set as ds;
use crate::cluster::facts::ClusterFacts;
use crate::cluster::object::{items, text};
use crate::cluster::version::{self, Version};

const NAME: &str = "canal";

/// The oldest Canal that is taken over: earlier manifests let flannel's plugin or another one make the pods' network in ways of
/// their own.
const OLDEST: Version = (3, 7, 0);

/// Its calico-node is not too old.
pub fn version_check(daemon_set: &Value) -> Check {
    const NAME: &str = "canal-version";
    let image = ds::calico_container(daemon_set).and_then(|c| text(c, "/image")).unwrap_or("(no image)");
    match version::of_image(image) {
        Some((found, tag)) if found < OLDEST => Check::refused(
            NAME,
            format!("Canal's calico-node {tag} is older than 3.7.0, the oldest that can be taken over"),
            "upgrade Canal first",
        ),
        Some((_, tag)) => Check::passed(NAME, format!("Canal's calico-node is {tag}")),
        None => Check::passed(NAME, format!("the tag of image {image} tells no version")),
    }
}

/// Whether it is the Canal that is taken over: of Calico's plugin with host-local's addresses, with the Kubernetes datastore.
pub fn check(facts: &ClusterFacts, daemon_set: &Value) -> Check {
    let shown = ds::full_name(daemon_set);
    let Some(container) = ds::calico_container(daemon_set) else {
        return Check::passed(NAME, format!("{shown} runs no calico-node"));
    };
    let variable = |wanted: &str| ds::variable(daemon_set, container, &facts.config_maps, wanted);
    let refused = |finding: String, fix: &str| Check::refused(NAME, finding, fix);
    if variable("ETCD_ENDPOINTS").is_some() || variable("DATASTORE_TYPE").is_some_and(|kind| kind.starts_with("etcd")) {
        return refused(
            format!("{shown} keeps Calico's data in an etcd of its own (canal-etcd)"),
            "this release takes over Canal with the Kubernetes datastore alone; leave the cluster on Canal",
        );
    }
    // Without the variable calico-node is no bystander: it starts BIRD.
    let backend = variable("CALICO_NETWORKING_BACKEND");
    if backend.as_deref() != Some("none") {
        return refused(
            format!(
                "calico-node in {shown} does more than policy: CALICO_NETWORKING_BACKEND is {}",
                backend.as_deref().unwrap_or("not set")
            ),
            "set it to none, as Canal's manifest has it",
        );
    }
    // Without it calico-node takes a tunnel address of its own as soon as there is a pool for VXLAN, whatever its backend is
    // (allocateip.go), and that would be one of flannel's.
    if variable("USE_POD_CIDR").as_deref() != Some("true") {
        return refused(
            format!("calico-node in {shown} would take addresses of Calico's pools: USE_POD_CIDR is not true"),
            "set it to true, as Canal's manifest has it",
        );
    }
    let Some(template) = template(facts, daemon_set) else {
        return refused(
            format!("the CNI configuration that {shown} installs (CNI_NETWORK_CONFIG) cannot be read"),
            "correct it in the ConfigMap canal-config",
        );
    };
    let plugin = items(&template, "/plugins").first().cloned().unwrap_or_default();
    let (kind, ipam) = (text(&plugin, "/type").unwrap_or("?"), text(&plugin, "/ipam/type").unwrap_or("none"));
    if (kind, ipam) != ("calico", "host-local") {
        return refused(
            format!("{shown} lets the plugin {kind} make the pods' network (ipam: {ipam}), not calico with host-local"),
            "this release takes over Canal as Calico's manifest canal.yaml installs it; leave the cluster on Canal",
        );
    }
    Check::passed(NAME, format!("{shown} is Canal: flannel's overlay, Calico's plugin and policy"))
}

/// No Canal carries both families as far as its manifest goes.
pub fn two_families() -> Check {
    Check::refused(
        NAME,
        "Canal carries IPv4 and IPv6 here",
        "this release takes over Canal with IPv4 alone; leave the cluster on Canal",
    )
}

/// Network name in its conflist.
pub fn network_name(facts: &ClusterFacts, daemon_set: &Value) -> String {
    let template = template(facts, daemon_set);
    template.as_ref().and_then(|t| text(t, "/name")).unwrap_or("k8s-pod-network").to_owned()
}

/// File name of its conflist.
pub fn conflist(facts: &ClusterFacts, daemon_set: &Value) -> String {
    ds::install_variable(facts, daemon_set, "CNI_CONF_NAME").unwrap_or_else(|| "10-canal.conflist".to_owned())
}

/// The configuration as its installer will write it, as far as it is JSON before anything is filled in.
fn template(facts: &ClusterFacts, daemon_set: &Value) -> Option<Value> {
    let text = ds::install_variable(facts, daemon_set, "CNI_NETWORK_CONFIG")?;
    // The one place-holder that stands where JSON wants a number.
    serde_json::from_str(&text.replace("__CNI_MTU__", "0")).ok()
}
