//! `cluster manifest`: the user's own manifest of Calico or flannel, made safe to apply to the live cluster. Pure.
//!
//! As Calico delivers it, its manifest starts calico-node beside flannel on every node at once, with BIRD and IPIP, with an
//! address that it finds by itself, and with an init container that locks the datastore and deletes plugins.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde_json::{Value, json};

use super::daemon_set::{self as ds, full_name};
use super::decision::Survey;
use super::flannel::Flannel;
use super::node::NodeView;
use super::object::{items, name, set, text, unset};
use super::prepare::canal_beside_calico;
use crate::cni::{CALICO_MIGRATION_LABEL, Cni};

/// Where the pod template's specification stands.
const POD: [&str; 3] = ["spec", "template", "spec"];

/// A manifest that is safe to apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Safe {
    /// Its objects.
    pub objects: Vec<Value>,
    /// What was changed, as sentences.
    pub notes: Vec<String>,
}

/// Makes a manifest safe; an error says why that cannot be done.
pub fn safe(survey: &Survey, flannel: &Flannel, objects: Vec<Value>) -> Result<Safe, String> {
    let mut safe = Safe { objects: objects.into_iter().flat_map(flat).collect(), notes: Vec::new() };
    if let Some(why) = safe.objects.iter().find_map(refusal) {
        return Err(why);
    }
    let methods = autodetection(&survey.nodes, false).and_then(|v4| {
        let v6 = flannel.network6.map(|_| autodetection(&survey.nodes, true)).transpose()?;
        Ok((v4, v6))
    });
    let mut agents = 0;
    for object in &mut safe.objects {
        match text(object, "/kind") {
            Some("DaemonSet") if ds::is_canal(object) => {
                agents += 1;
                canal(object, flannel, &mut safe.notes)?;
            }
            Some("DaemonSet") if ds::calico_container(object).is_some() => {
                agents += 1;
                let (v4, v6) = methods.clone()?;
                calico(object, flannel, &v4, v6.as_deref(), &mut safe.notes);
            }
            Some("DaemonSet") if ds::flannel_container(object).is_some() => {
                agents += 1;
                *object = ds::with_our_selector(object, Cni::Flannel);
                safe.notes.push(format!("{} runs only where nodectl.io/cni=flannel", full_name(object)));
            }
            Some("ConfigMap") => config_map(object, survey, flannel, &mut safe.notes)?,
            _ => {}
        }
    }
    if agents == 0 {
        return Err("it holds no DaemonSet that runs calico-node or flanneld".to_owned());
    }
    Ok(safe)
}

/// The objects of a List, or the object itself; nothing for an empty document.
fn flat(object: Value) -> Vec<Value> {
    match object {
        Value::Null => Vec::new(),
        object if text(&object, "/kind") == Some("List") => items(&object, "/items").to_vec(),
        object => vec![object],
    }
}

/// What cannot be made safe.
fn refusal(object: &Value) -> Option<String> {
    let kind = text(object, "/kind").unwrap_or_default();
    let group = text(object, "/apiVersion").unwrap_or_default();
    let shown = format!("{kind} {}", name(object));
    if group.starts_with("operator.tigera.io/") || (kind == "Deployment" && name(object) == "tigera-operator") {
        return Some(format!(
            "{shown} belongs to the Tigera operator, which writes calico-node's DaemonSet itself. To fix it: take Calico's own manifest (calico.yaml)"
        ));
    }
    if kind == "Job" && object.to_string().contains("flannelmigration") {
        return Some(format!(
            "{shown} runs Calico's own migration, which would drain and relabel the same nodes. To fix it: leave it out"
        ));
    }
    None
}

/// Canal's own manifest, as prepare leaves its DaemonSet.
fn canal(object: &mut Value, flannel: &Flannel, notes: &mut Vec<String>) -> Result<(), String> {
    let shown = full_name(object);
    if !flannel.canal {
        return Err(format!(
            "{shown} runs flannel and calico-node in one pod (Canal), and this cluster is on flannel alone. To fix it: leave it out"
        ));
    }
    *object = canal_beside_calico(object);
    notes.push(format!(
        "{shown} runs only where nodectl.io/cni=flannel, and its felix leaves VXLAN to Calico's own nodes"
    ));
    Ok(())
}

fn calico(object: &mut Value, flannel: &Flannel, method: &str, method6: Option<&str>, notes: &mut Vec<String>) {
    let shown = full_name(object);
    *object = ds::with_our_selector(object, Cni::Calico);
    unset(object, &["spec", "template", "spec", "nodeSelector", CALICO_MIGRATION_LABEL]);
    notes.push(format!(
        "{shown} runs only where nodectl.io/cni=calico: after nodectl cluster finish this is not to be applied again"
    ));
    let mut settings = vec![
        ("CALICO_NETWORKING_BACKEND", "vxlan".to_owned()),
        ("IP", "autodetect".to_owned()),
        ("IP_AUTODETECTION_METHOD", method.to_owned()),
        ("CALICO_IPV4POOL_CIDR", flannel.network.to_string()),
        ("CALICO_IPV4POOL_IPIP", "Never".to_owned()),
        ("CALICO_IPV4POOL_VXLAN", "Always".to_owned()),
    ];
    if let (Some(network), Some(method)) = (flannel.network6, method6) {
        settings.extend([
            ("FELIX_IPV6SUPPORT", "true".to_owned()),
            ("IP6", "autodetect".to_owned()),
            ("IP6_AUTODETECTION_METHOD", method.to_owned()),
            ("CALICO_IPV6POOL_CIDR", network.to_string()),
            ("CALICO_IPV6POOL_VXLAN", "Always".to_owned()),
        ]);
        notes.push(format!("{shown} carries IPv6 too, and takes the node's IPv6 address by {method}"));
    }
    let Some(pod) = object.pointer_mut(&format!("/{}", POD.join("/"))) else { return };
    if let Some(containers) = pod.get_mut("initContainers").and_then(Value::as_array_mut) {
        let before = containers.len();
        containers.retain(|c| text(c, "/name") != Some("upgrade-ipam"));
        if containers.len() < before {
            notes.push(format!(
                "{shown} has no init container upgrade-ipam: it would lock Calico's datastore and delete host-local"
            ));
        }
    }
    let containers = pod.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
    for container in containers.filter(|c| text(c, "/name") == Some("calico-node")) {
        for (variable, value) in &settings {
            set_variable(container, variable, value);
        }
        // prepare gives felix flannel's VNI and port; a variable would win over it.
        remove_variables(container, &["FELIX_VXLANVNI", "FELIX_VXLANPORT", "FELIX_VXLANENABLED"]);
        without_bird(container);
    }
    notes.push(format!("{shown} takes the node's address by {method}, uses VXLAN for all traffic, and runs no BIRD"));
}

/// Sets a variable; one that comes from a ConfigMap is set there.
fn set_variable(container: &mut Value, variable: &str, value: &str) {
    let env = container.as_object_mut().map(|c| c.entry("env").or_insert_with(|| json!([])));
    let Some(env) = env.and_then(Value::as_array_mut) else { return };
    match env.iter_mut().find(|v| text(v, "/name") == Some(variable)) {
        Some(known) if known.get("valueFrom").is_some() => {}
        Some(known) => set(known, &["value"], json!(value)),
        None => env.push(json!({"name": variable, "value": value})),
    }
}

fn remove_variables(container: &mut Value, variables: &[&str]) {
    if let Some(env) = container.get_mut("env").and_then(Value::as_array_mut) {
        env.retain(|v| text(v, "/name").is_none_or(|name| !variables.contains(&name)));
    }
}

/// The probes would wait for a BIRD that VXLAN does not start.
fn without_bird(container: &mut Value) {
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let command = container.pointer_mut(&format!("/{probe}/exec/command")).and_then(Value::as_array_mut);
        if let Some(command) = command {
            command.retain(|word| !word.as_str().is_some_and(|w| w.trim_start_matches('-').starts_with("bird")));
        }
    }
}

/// Calico's settings, and a net-conf.json that must not differ from the one that the cluster runs on.
fn config_map(object: &mut Value, survey: &Survey, flannel: &Flannel, notes: &mut Vec<String>) -> Result<(), String> {
    let shown = full_name(object);
    // Canal's has both keys; its plugin and MTU stay.
    let canals = object.pointer("/data/net-conf.json").is_some();
    if object.pointer("/data/cni_network_config").is_some() && !canals {
        set(object, &["data", "calico_backend"], json!("vxlan"));
        set(object, &["data", "veth_mtu"], json!(flannel.mtu.to_string()));
        notes.push(format!("ConfigMap {shown}: backend vxlan, and flannel's MTU {}", flannel.mtu));
    }
    if flannel.network6.is_some()
        && let Some(template) = text(object, "/data/cni_network_config").map(with_ipv6)
    {
        let template = template.ok_or_else(|| {
            format!(
                "the cni_network_config of its ConfigMap {shown} gives pods no IPv6 address, and has no place for it that is known. \
                 To fix it: write \"assign_ipv6\": \"true\" into its ipam part"
            )
        })?;
        set(object, &["data", "cni_network_config"], json!(template));
        notes.push(format!("ConfigMap {shown}: pods get an IPv6 address too"));
    }
    let Some(new) = text(object, "/data/net-conf.json") else { return Ok(()) };
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let live = survey.facts.config_maps.iter().find(|m| full_name(m) == shown);
    let live = live.and_then(|m| text(m, "/data/net-conf.json"));
    match live {
        Some(live) if parse(live) != parse(new) => Err(format!(
            "its ConfigMap {shown} has another net-conf.json than the cluster runs on, and flannel's pods would take it up. To fix it: put the cluster's own there (kubectl -n {} get configmap {} -o yaml)",
            flannel.namespace,
            name(object)
        )),
        _ => Ok(()),
    }
}

/// Calico's CNI template with IPv6 addresses for pods; none where it has no place for them that is known. The template's placeholders
/// are no JSON, so it is changed as text.
fn with_ipv6(template: &str) -> Option<String> {
    const ASKED: &str = "\"assign_ipv6\": \"true\"";
    let asks = |text: &str| text.split_whitespace().collect::<String>().contains("\"assign_ipv6\":\"true\"");
    if asks(template) {
        return Some(template.to_owned());
    }
    let changed = if template.contains("\"assign_ipv6\"") {
        template.replace("\"assign_ipv6\": \"false\"", ASKED).replace("\"assign_ipv6\":\"false\"", ASKED)
    } else {
        template.replacen("\"calico-ipam\"", &format!("\"calico-ipam\", \"assign_ipv4\": \"true\", {ASKED}"), 1)
    };
    Some(changed).filter(|changed| asks(changed))
}

/// How calico-node finds the address that flannel uses, on every node by the same rule.
fn autodetection(nodes: &[NodeView], ipv6: bool) -> Result<String, String> {
    let address = |n: &NodeView| -> Option<IpAddr> {
        let flannel = n.flannel.as_ref()?;
        if ipv6 { flannel.v6.as_ref().map(|v6| v6.public_ip.into()) } else { Some(flannel.public_ip.into()) }
    };
    let internal = |n: &NodeView| n.internal_ips().into_iter().filter(|ip| ip.is_ipv6() == ipv6).collect();
    let known = nodes.iter().filter_map(|n| Some((n.name, address(n)?, internal(n))));
    let known: Vec<(&str, IpAddr, Vec<IpAddr>)> = known.collect();
    if known.is_empty() {
        return Err(
            "no node carries flannel's annotations, so nobody knows which address calico-node has to use".to_owned()
        );
    }
    if known.iter().all(|(_, public, internal)| internal.first() == Some(public)) {
        return Ok("kubernetes-internal-ip".to_owned());
    }
    let network = covering(known.iter().map(|(_, public, _)| *public));
    let ambiguous = |(_, public, internal): &&(&str, IpAddr, Vec<IpAddr>)| {
        internal.iter().any(|ip| ip != public && network.contains(ip))
    };
    let variable = if ipv6 { "IP6_AUTODETECTION_METHOD" } else { "IP_AUTODETECTION_METHOD" };
    match known.iter().find(ambiguous) {
        None => Ok(format!("cidr={network}")),
        Some((node, public, _)) => Err(format!(
            "flannel uses {public} on {node}, which is not the node's first InternalIP, and no one rule finds flannel's address on every node. To fix it: set {variable} in the manifest by hand (interface=..., cidr=...) and its node selector nodectl.io/cni: calico"
        )),
    }
}

/// The smallest network with all of these addresses, of one family, in it.
fn covering(addresses: impl Iterator<Item = IpAddr>) -> IpNet {
    let (mut low, mut high, mut mapped) = (u128::MAX, 0, false);
    for address in addresses {
        // An IPv4 address counts as the end of an IPv6 one, so that there is one way to compare.
        mapped |= address.is_ipv4();
        let number = match address {
            IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => u128::from(v6),
        };
        (low, high) = (low.min(number), high.max(number));
    }
    let length = u8::try_from((low ^ high).leading_zeros()).unwrap_or(128).min(128);
    let first = Ipv6Addr::from(low);
    let network = match first.to_ipv4_mapped().filter(|_| mapped) {
        Some(first) => IpNet::new(first.into(), length.saturating_sub(96)),
        None => Ipv6Net::new(first, length).map(IpNet::V6),
    };
    network.map(|n| n.trunc()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_network_covers_all_and_no_more() {
        let of = |addresses: &[&str]| covering(addresses.iter().map(|a| a.parse().expect(a))).to_string();
        assert_eq!(of(&["10.1.2.3"]), "10.1.2.3/32");
        assert_eq!(of(&["10.1.2.4", "10.1.2.7"]), "10.1.2.4/30");
        assert_eq!(of(&["10.1.2.3", "10.1.3.4", "10.1.2.200"]), "10.1.2.0/23");
        assert_eq!(of(&["1.1.1.1", "200.1.1.1"]), "0.0.0.0/0");
    }
}
