//! Finding Calico: its DaemonSet, and whether it is set up so that its nodes can be peers of flannel's.

use serde_json::Value;

use super::check::Check;
use super::daemon_set::{self as ds, full_name};
use super::facts::ClusterFacts;
use super::flannel::Flannel;
use super::object::{find, find_in, name, namespace, text};
use super::request::Request;
use super::version::{self, Version};
use crate::cni::{CALICO_MIGRATION_LABEL, Cni, NODE_LABEL};
use crate::prepared::IPV6_OVERHEAD;

/// From this version on felix gives its pod routes a metric of their own.
const ROUTES_WITH_METRIC: Version = (3, 32, 0);

/// The first version that has VXLAN over IPv6.
const VXLAN_OVER_IPV6: Version = (3, 23, 0);

/// The metric that it gives them.
const FELIX_ROUTE_METRIC: u32 = 1024;

/// How Calico is installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Calico {
    /// Namespace of its DaemonSet.
    pub namespace: String,
    /// Its DaemonSet.
    pub daemon_set: String,
    /// Its version, empty where no tag tells it.
    pub version: String,
    /// Network name in its conflist.
    pub network_name: String,
    /// File name of its conflist.
    pub conflist: String,
    /// Prefix of its pods' host interfaces.
    pub interface_prefix: String,
    /// Metric of its pod routes, where known.
    pub route_metric: Option<u32>,
    /// ConfigMap and key that the MTU of its pods and of its overlay comes from.
    pub mtu_source: Option<(String, String)>,
}

/// Finds Calico. What stands in the way is added to the checks.
pub fn detect(
    facts: &ClusterFacts,
    request: &Request,
    flannel: Option<&Flannel>,
    checks: &mut Vec<Check>,
) -> Option<Calico> {
    checks.push(resources_check(facts));
    let daemon_set = match find_daemon_set(facts, request) {
        Ok(found) => found,
        Err(check) => {
            checks.push(check);
            return None;
        }
    };
    let container = ds::calico_container(daemon_set)?;
    checks.push(Check::passed("calico-daemonset", format!("Calico's DaemonSet is {}", full_name(daemon_set))));
    checks.push(operator_check(daemon_set));
    checks.push(node_selector_check(daemon_set));
    checks.push(upgrade_ipam_check(daemon_set));
    checks.push(backend_check(facts, daemon_set, container));
    checks.push(ipam_check(facts, daemon_set, container));
    checks.extend(flannel.filter(|f| f.network6.is_some()).map(|_| ipv6_check(facts, daemon_set, container)));
    checks.push(felix_check(facts, daemon_set, container, flannel));
    checks.push(datastore_check(facts));
    checks.push(config_dir_check(daemon_set, request, flannel));

    let tag = text(container, "/image").and_then(version::of_image);
    let told = facts.cluster_informations.iter().find_map(|c| text(c, "/spec/calicoVersion"));
    let version = tag.map(|(_, text)| text).or_else(|| told.map(str::to_owned)).unwrap_or_default();
    let prefix = felix_setting(facts, daemon_set, container, "interfacePrefix");
    Some(Calico {
        namespace: namespace(daemon_set).to_owned(),
        daemon_set: name(daemon_set).to_owned(),
        network_name: network_name(facts, daemon_set),
        conflist: ds::install_variable(facts, daemon_set, "CNI_CONF_NAME")
            .unwrap_or_else(|| "10-calico.conflist".to_owned()),
        // The plugin names interfaces by the first prefix of the list.
        interface_prefix: prefix.as_deref().and_then(|p| p.split(',').next()).unwrap_or("cali").to_owned(),
        route_metric: felix_setting(facts, daemon_set, container, "ipv4NormalRoutePriority")
            .and_then(|metric| metric.parse().ok())
            .or_else(|| Some(if version::parse(&version)? < ROUTES_WITH_METRIC { 0 } else { FELIX_ROUTE_METRIC })),
        mtu_source: mtu_source(facts, daemon_set),
        version,
    })
}

fn resources_check(facts: &ClusterFacts) -> Check {
    const NAME: &str = "calico-resources";
    if facts.missing_resources.is_empty() {
        return Check::passed(NAME, "the server knows Calico's resources");
    }
    if facts.calico_v3_resources {
        return Check::refused(
            NAME,
            "Calico keeps its data in resources of the group projectcalico.org here, and this release writes crd.projectcalico.org/v1",
            "install Calico with its v1 resources (its manifest calico.yaml does)",
        );
    }
    Check::refused(
        NAME,
        format!(
            "the server does not know {} of crd.projectcalico.org/v1",
            super::check::listed(&facts.missing_resources)
        ),
        "install Calico first, with the node selector nodectl.io/cni: calico on its DaemonSet; it then runs on no node until that node is switched",
    )
}

fn find_daemon_set<'a>(facts: &'a ClusterFacts, request: &Request) -> Result<&'a Value, Check> {
    const NAME: &str = "calico-daemonset";
    const FIX: &str = "install Calico's manifest with the node selector nodectl.io/cni: calico, or name its DaemonSet with --calico-daemonset NAMESPACE/NAME";
    if let Some(wanted) = &request.calico_daemonset {
        let found = find_in(&facts.daemon_sets, &wanted.namespace, &wanted.name);
        return found.filter(|d| ds::calico_container(d).is_some()).ok_or_else(|| {
            Check::refused(NAME, format!("there is no DaemonSet {wanted} with a container calico-node"), FIX)
        });
    }
    let candidates = facts.daemon_sets.iter().filter(|d| ds::flannel_container(d).is_none());
    let found: Vec<&Value> = candidates.filter(|d| ds::calico_container(d).is_some()).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Check::refused(NAME, "no DaemonSet of this cluster runs calico-node", FIX)),
        many => {
            let names: Vec<String> = many.iter().map(|d| full_name(d)).collect();
            Err(Check::refused(
                NAME,
                format!("several DaemonSets run calico-node: {}", super::check::listed(&names)),
                FIX,
            ))
        }
    }
}

fn operator_check(daemon_set: &Value) -> Check {
    const NAME: &str = "calico-operator";
    let owner = ds::owner(daemon_set).filter(|owner| owner.starts_with("Installation "));
    match owner.or_else(|| ds::delivery(daemon_set).map(|m| m.what.to_owned()).filter(|w| w.contains("Tigera"))) {
        Some(owner) => Check::refused(
            NAME,
            format!(
                "DaemonSet {} belongs to the Tigera operator ({owner}), which undoes what is changed on it",
                full_name(daemon_set)
            ),
            "install Calico from its manifest; this release does not drive the operator",
        ),
        None => Check::passed(NAME, "no operator looks after calico-node"),
    }
}

fn node_selector_check(daemon_set: &Value) -> Check {
    const NAME: &str = "calico-node-selector";
    let wanted = Cni::Calico.name();
    let selector = ds::node_selector(daemon_set);
    let found = selector.get(NODE_LABEL).map(String::as_str);
    let other = selector.contains_key(CALICO_MIGRATION_LABEL);
    let finding = match found {
        Some(value) if value == wanted && !other => {
            return Check::passed(NAME, format!("calico-node runs only where {NODE_LABEL}={wanted}"));
        }
        Some(value) if value != wanted => format!("calico-node's node selector asks for {NODE_LABEL}={value}"),
        _ if other => format!(
            "calico-node's node selector asks for Calico's own label {CALICO_MIGRATION_LABEL}, which has to say flannel until the end"
        ),
        _ => "calico-node has no node selector on our label: it would run beside flannel on every node".to_owned(),
    };
    let away = if other { format!(",\"{CALICO_MIGRATION_LABEL}\":null") } else { String::new() };
    let selector = format!("{{\"nodeSelector\":{{\"{NODE_LABEL}\":\"{wanted}\"{away}}}}}");
    let patch = format!("{{\"spec\":{{\"template\":{{\"spec\":{selector}}}}}}}");
    let (namespace, name) = (namespace(daemon_set), name(daemon_set));
    Check::refused(NAME, finding, format!("kubectl -n {namespace} patch daemonset {name} -p '{patch}'"))
}

fn upgrade_ipam_check(daemon_set: &Value) -> Check {
    const NAME: &str = "calico-upgrade-ipam";
    if ds::init_containers(daemon_set).iter().any(|c| text(c, "/name") == Some("upgrade-ipam")) {
        return Check::refused(
            NAME,
            "calico-node has the init container upgrade-ipam, which can stop pod creation in the whole cluster and deletes host-local from the nodes",
            format!("take it out: kubectl -n {} edit daemonset {}", namespace(daemon_set), name(daemon_set)),
        );
    }
    Check::passed(NAME, "calico-node has no init container upgrade-ipam")
}

fn backend_check(facts: &ClusterFacts, daemon_set: &Value, container: &Value) -> Check {
    const NAME: &str = "calico-backend";
    // Without the variable calico-node starts BIRD.
    let backend = ds::variable(daemon_set, container, &facts.config_maps, "CALICO_NETWORKING_BACKEND");
    match backend.as_deref().unwrap_or("bird") {
        "vxlan" => Check::passed(NAME, "Calico's backend is vxlan"),
        other => Check::refused(
            NAME,
            format!(
                "Calico's backend is {other} (CALICO_NETWORKING_BACKEND); flannel's nodes can be reached through vxlan alone"
            ),
            "set calico_backend: vxlan in ConfigMap calico-config (or the variable itself)",
        ),
    }
}

fn ipam_check(facts: &ClusterFacts, daemon_set: &Value, container: &Value) -> Check {
    const NAME: &str = "calico-ipam";
    const FIX: &str = "let Calico's CNI configuration use calico-ipam";
    if ds::variable(daemon_set, container, &facts.config_maps, "USE_POD_CIDR").as_deref() == Some("true") {
        return Check::refused(
            NAME,
            "calico-node runs with USE_POD_CIDR: Calico would take addresses from host-local",
            FIX,
        );
    }
    match cni_plugin(facts, daemon_set).and_then(|p| p.pointer("/ipam/type")?.as_str().map(str::to_owned)) {
        Some(kind) if kind != "calico-ipam" => {
            Check::refused(NAME, format!("Calico's CNI configuration takes addresses from {kind}"), FIX)
        }
        _ => Check::passed(NAME, "Calico takes addresses from its own IPAM"),
    }
}

/// Where flannel carries both families, Calico has to: its manifest leaves IPv6 out in three places.
fn ipv6_check(facts: &ClusterFacts, daemon_set: &Value, container: &Value) -> Check {
    const NAME: &str = "calico-ipv6";
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    if let Some((_, tag)) = version::of_image(image).filter(|(found, _)| *found < VXLAN_OVER_IPV6) {
        return Check::refused(
            NAME,
            format!("flannel carries IPv4 and IPv6, and Calico {tag} has no VXLAN over IPv6, which came with 3.23"),
            "upgrade Calico first",
        );
    }
    let mut lacks = Vec::new();
    if felix_setting(facts, daemon_set, container, "ipv6Support").as_deref() == Some("false") {
        lacks.push("felix' IPv6 is off (set FELIX_IPV6SUPPORT to true)");
    }
    // Without the variable calico-node takes the node's IPv6 address for unwanted, and takes it off the Node.
    if ds::variable(daemon_set, container, &facts.config_maps, "IP6").is_none_or(|ip6| ip6 == "none") {
        lacks.push("calico-node does not look for the node's IPv6 address (set IP6 to autodetect)");
    }
    let plugin = cni_plugin(facts, daemon_set);
    let assigns = plugin.as_ref().and_then(|p| text(p, "/ipam/assign_ipv6"));
    if plugin.is_some() && assigns != Some("true") {
        lacks.push("pods get no IPv6 address (set \"assign_ipv6\": \"true\" in the ipam part of cni_network_config)");
    }
    if lacks.is_empty() {
        return Check::passed(NAME, "Calico carries IPv6 too");
    }
    Check::refused(
        NAME,
        format!("flannel carries IPv4 and IPv6, Calico would carry IPv4 alone: {}", lacks.join("; ")),
        format!(
            "change it in Calico's manifest and apply it (kubectl -n {} edit daemonset {}, and its ConfigMap)",
            namespace(daemon_set),
            name(daemon_set)
        ),
    )
}

/// A setting of felix: its own variable wins over the FelixConfiguration of the cluster.
fn felix_setting(facts: &ClusterFacts, daemon_set: &Value, container: &Value, field: &str) -> Option<String> {
    let variable = format!("FELIX_{}", field.to_ascii_uppercase());
    ds::variable(daemon_set, container, &facts.config_maps, &variable).or_else(|| {
        let value = find(&facts.felix_configurations, "default")?.pointer("/spec")?.get(field)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    })
}

fn felix_check(facts: &ClusterFacts, daemon_set: &Value, container: &Value, flannel: Option<&Flannel>) -> Check {
    const NAME: &str = "calico-felix";
    let mut wrong = Vec::new();
    if felix_setting(facts, daemon_set, container, "bpfEnabled").as_deref() == Some("true") {
        wrong.push("bpfEnabled is on, and the eBPF dataplane does not take over flannel's device".to_owned());
    }
    // A variable of the container cannot be corrected by the FelixConfiguration that prepare writes.
    let expected = flannel.map(|f| [("FELIX_VXLANVNI", f.vni.to_string()), ("FELIX_VXLANPORT", f.port.to_string())]);
    let enabled = ("FELIX_VXLANENABLED", "true".to_owned());
    if let Some(found) = flannel.and_then(|flannel| other_mtu(facts, daemon_set, flannel)) {
        wrong.push(found);
    }
    for (variable, wanted) in expected.into_iter().flatten().chain([enabled]) {
        let found = ds::variable(daemon_set, container, &facts.config_maps, variable);
        if let Some(found) = found.filter(|found| *found != wanted) {
            wrong.push(format!("the variable {variable} is {found} and has to be {wanted}"));
        }
    }
    for config in facts.felix_configurations.iter().filter(|c| name(c).starts_with("node.")) {
        for field in ["vxlanEnabled", "vxlanVNI", "vxlanPort"] {
            if config.pointer("/spec").is_some_and(|spec| spec.get(field).is_some_and(|v| !v.is_null())) {
                wrong.push(format!("FelixConfiguration {} sets {field} for one node alone", name(config)));
            }
        }
    }
    if wrong.is_empty() {
        return Check::passed(NAME, "nothing overrides felix' overlay settings");
    }
    Check::refused(
        NAME,
        format!("felix cannot be a peer of flannel's nodes: {}", wrong.join("; ")),
        format!(
            "take these settings out (kubectl -n {} edit daemonset {}, or kubectl edit felixconfigurations)",
            namespace(daemon_set),
            name(daemon_set)
        ),
    )
}

/// An MTU that the DaemonSet sets by itself. 0 lets Calico find it out; one from a ConfigMap is corrected there, except that of
/// IPv6, which is another.
fn other_mtu(facts: &ClusterFacts, daemon_set: &Value, flannel: &Flannel) -> Option<String> {
    let v6 = flannel.network6.map(|_| ("FELIX_VXLANMTUV6", flannel.mtu.saturating_sub(IPV6_OVERHEAD)));
    [("CNI_MTU", flannel.mtu), ("FELIX_VXLANMTU", flannel.mtu)].into_iter().chain(v6).find_map(|(variable, mtu)| {
        let found = ds::install_variable(facts, daemon_set, variable)?;
        let corrected = mtu == flannel.mtu && ds::variable_source(daemon_set, variable).is_some();
        let fits = found == "0" || found == mtu.to_string() || corrected;
        (!fits).then(|| format!("the variable {variable} is {found}, and flannel's MTU there is {mtu}"))
    })
}

fn datastore_check(facts: &ClusterFacts) -> Check {
    const NAME: &str = "calico-datastore";
    let ready = facts.cluster_informations.iter().find_map(|c| c.pointer("/spec/datastoreReady")?.as_bool());
    match ready {
        Some(false) => Check::refused(
            NAME,
            "ClusterInformation default says datastoreReady: false: an upgrade of Calico's IPAM is under way, or was broken off, and no pod can be created through Calico",
            "find out which; if nothing is under way: kubectl patch clusterinformations default --type merge -p '{\"spec\":{\"datastoreReady\":true}}'",
        ),
        _ => Check::passed(NAME, "Calico's datastore is not locked"),
    }
}

fn config_dir_check(daemon_set: &Value, request: &Request, flannel: Option<&Flannel>) -> Check {
    const NAME: &str = "cni-config-dir";
    let calico = ds::cni_config_dir(daemon_set);
    let flannel = flannel.and_then(|f| f.cni_config_dir.clone());
    let wanted =
        request.cni_config_dir.as_deref().map(|d| d.trim_end_matches('/').to_owned()).or_else(|| flannel.clone());
    let Some(wanted) = wanted else {
        return Check::passed(NAME, "flannel's DaemonSet does not show which directory it writes its configuration to");
    };
    for (who, found) in [("flannel", flannel), ("Calico", calico)] {
        if let Some(found) = found.filter(|found| *found != wanted) {
            return Check::refused(
                NAME,
                format!("{who} writes its CNI configuration to {found} on the nodes, not to {wanted}"),
                "let both agents mount the directory that the container runtime reads",
            );
        }
    }
    Check::passed(NAME, format!("both agents write their CNI configuration to {wanted}"))
}

/// Calico's CNI configuration as its installer will write it, as far as it is JSON before anything is filled in.
fn cni_template(facts: &ClusterFacts, daemon_set: &Value) -> Option<Value> {
    let text = ds::install_variable(facts, daemon_set, "CNI_NETWORK_CONFIG")?;
    // The one place-holder that stands where JSON wants a number.
    serde_json::from_str(&text.replace("__CNI_MTU__", "0")).ok()
}

fn cni_plugin(facts: &ClusterFacts, daemon_set: &Value) -> Option<Value> {
    let template = cni_template(facts, daemon_set)?;
    let plugins = template.get("plugins")?.as_array()?;
    plugins.iter().find(|p| text(p, "/type") == Some("calico")).cloned()
}

fn network_name(facts: &ClusterFacts, daemon_set: &Value) -> String {
    let template = cni_template(facts, daemon_set);
    let name = template.as_ref().and_then(|t| text(t, "/name"));
    name.unwrap_or("k8s-pod-network").to_owned()
}

/// The ConfigMap that felix' and the plugin's MTU comes from, as in Calico's own manifests. Its value wins over the
/// FelixConfiguration, so it has to be right too.
fn mtu_source(facts: &ClusterFacts, daemon_set: &Value) -> Option<(String, String)> {
    let (map, key) =
        ds::variable_source(daemon_set, "CNI_MTU").or_else(|| ds::variable_source(daemon_set, "FELIX_VXLANMTU"))?;
    find_in(&facts.config_maps, namespace(daemon_set), map)?;
    Some((map.to_owned(), key.to_owned()))
}
