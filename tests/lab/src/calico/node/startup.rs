//! What calico-node does before felix starts.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation, text};
use crate::agent::family::Family;
use crate::agent::{env, links};
use crate::calico::ipam::store::{self, GROUP};

use super::log;

/// The Node annotation with the node's address.
pub fn node_address(family: Family) -> &'static str {
    match family {
        Family::V4 => "projectcalico.org/IPv4Address",
        Family::V6 => "projectcalico.org/IPv6Address",
    }
}

/// True if FELIX_IPV6SUPPORT says so.
pub fn ipv6_support() -> bool {
    env("FELIX_IPV6SUPPORT").is_some_and(|value| value == "true")
}

/// Waits for the datastore if WAIT_FOR_DATASTORE says so, instead of giving up.
pub fn run(api: &dyn Api, node: &str) -> Result<()> {
    let waits = env("WAIT_FOR_DATASTORE").is_some_and(|value| value == "true");
    loop {
        match once(api, node) {
            Err(error) if waits => log(&format!("Failed to connect to the datastore, will retry: {error:#}")),
            result => return result,
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// The Node's address, the cluster's default objects, and last the file that CNI calls wait for.
fn once(api: &dyn Api, node: &str) -> Result<()> {
    let object =
        api.get(&format!("/api/v1/nodes/{node}")).with_context(|| format!("the Node {node} could not be read"))?;
    if !super::is_policy_only() {
        set_address(api, node, &object, Family::V4)?;
        set_address(api, node, &object, Family::V6)?;
    }
    ensure_cluster_information(api)?;
    ensure_default(
        api,
        "felixconfigurations",
        "FelixConfiguration",
        &json!({"logSeverityScreen": "Info", "reportingInterval": "0s"}),
    )?;
    ensure_pools(api)?;
    write_file("/var/lib/calico/nodename", node)?;
    // A shutdown is over when the node has started again.
    let _ = std::fs::remove_file("/var/lib/calico/shutdownTS");
    Ok(())
}

/// Writes a small file below /var/lib/calico.
pub fn write_file(path: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all("/var/lib/calico").context("/var/lib/calico could not be created")?;
    std::fs::write(path, text).with_context(|| format!("{path} could not be written"))
}

/// With IP unset an annotated address is kept; otherwise it is detected anew and written over what is there. IP6 is the same for IPv6, but
/// that nothing is detected while it is unset.
fn set_address(api: &dyn Api, node: &str, object: &Value, family: Family) -> Result<()> {
    let known = annotation(object, node_address(family)).filter(|address| !address.is_empty());
    let told = match family {
        Family::V4 => env("IP"),
        Family::V6 => Some(env("IP6").unwrap_or_else(|| "none".to_owned())),
    };
    let wanted = match (told.as_deref(), known) {
        (Some("none"), _) => return Ok(()),
        (None, Some(known)) => known.to_owned(),
        (None | Some("autodetect"), _) => detect(object, family)?,
        (Some(given), _) => given.to_owned(),
    };
    if known == Some(wanted.as_str()) {
        return Ok(());
    }
    log(&format!("Node {family} changed from {known:?} to {wanted}"));
    let patch = json!({"metadata": {"annotations": {node_address(family): wanted}}});
    api.patch(&format!("/api/v1/nodes/{node}/status"), &patch)
        .with_context(|| format!("the address of Node {node} could not be written"))
        .map(|_| ())
}

/// IP_AUTODETECTION_METHOD (IP6_...): first-found, interface=NAME, kubernetes-internal-ip or cidr=NETWORK.
fn detect(node: &Value, family: Family) -> Result<String> {
    let variable = if family == Family::V4 { "IP_AUTODETECTION_METHOD" } else { "IP6_AUTODETECTION_METHOD" };
    let method = env(variable).unwrap_or_else(|| "first-found".to_owned());
    let all = links::all()?;
    let found = match method.split_once('=') {
        Some(("interface", name)) => {
            links::by_name(&all, name).and_then(|link| links::addresses(link, family).into_iter().next())
        }
        Some(("cidr", network)) => {
            let network: ipnet::IpNet = network.parse().with_context(|| format!("{network:?} is no network"))?;
            let inside = |address: &str| address.parse().is_ok_and(|ip: std::net::IpAddr| network.contains(&ip));
            first(&all, family, inside)
        }
        _ if method == "kubernetes-internal-ip" => {
            let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
            let of_family =
                |address: &&str| address.parse().is_ok_and(|address: std::net::IpAddr| Family::of(address) == family);
            let mut internal = addresses
                .iter()
                .filter(|entry| entry["type"] == "InternalIP")
                .map(|entry| text(entry, "/address"))
                .filter(of_family);
            internal.next().and_then(|address| links::holder_of(&all, address)).map(|(_, address)| address)
        }
        _ => first(&all, family, |_| true),
    };
    match found {
        Some(address) => Ok(address),
        None => bail!("Unable to auto-detect an {family} address using method {method}"),
    }
}

/// The first address of an interface that is none of the pod networks' own.
fn first(all: &[Value], family: Family, wanted: impl Fn(&str) -> bool) -> Option<String> {
    const EXCLUDED: [&str; 12] =
        ["lo", "docker", "cbr", "dummy", "virbr", "lxcbr", "veth", "cali", "tunl", "flannel", "kube-ipvs", "cni"];
    let named = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    let candidates = all.iter().filter(|link| {
        let name = named(link);
        !EXCLUDED.iter().any(|prefix| name.starts_with(prefix))
            && !["vxlan.calico", "vxlan-v6.calico"].contains(&name.as_str())
    });
    candidates
        .flat_map(|link| links::addresses(link, family))
        .find(|address| wanted(address.split('/').next().unwrap_or_default()))
}

fn ensure_cluster_information(api: &dyn Api) -> Result<()> {
    let version = env("CALICO_VERSION").unwrap_or_else(|| "v3.31.0".to_owned());
    let path = format!("{GROUP}/clusterinformations/default");
    let Some(mut object) = api.find(&path)? else {
        let spec = json!({"clusterType": "k8s,kdd", "calicoVersion": version, "datastoreReady": true, "clusterGUID": "1ab1ab1ab1ab1ab1ab1ab1ab1ab1ab1a"});
        return create(api, "clusterinformations", "ClusterInformation", "default", &spec);
    };
    if object["spec"]["calicoVersion"] == version.as_str() && object["spec"]["datastoreReady"].is_boolean() {
        return Ok(());
    }
    object["spec"]["calicoVersion"] = json!(version);
    if !object["spec"]["datastoreReady"].is_boolean() {
        object["spec"]["datastoreReady"] = json!(true);
    }
    match api.replace(&path, &object) {
        // Another node has written the same at the same moment.
        Err(error) if !error.conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

fn ensure_default(api: &dyn Api, plural: &str, kind: &str, spec: &Value) -> Result<()> {
    match api.find(&format!("{GROUP}/{plural}/default"))? {
        Some(_) => Ok(()),
        None => create(api, plural, kind, "default", spec),
    }
}

/// A default pool for each family in use that has none at all, unless NO_DEFAULT_POOLS is set.
fn ensure_pools(api: &dyn Api) -> Result<()> {
    if env("NO_DEFAULT_POOLS").is_some_and(|value| value == "true") {
        return Ok(());
    }
    let pools = store::pools(api)?;
    let missing = |family: Family| !pools.iter().any(|pool| pool.family() == family);
    if ipv6_support() && missing(Family::V6) {
        let spec = json!({
            "cidr": env("CALICO_IPV6POOL_CIDR").unwrap_or_else(|| "fd80:24e2:f998:72d6::/64".to_owned()), "blockSize": 122,
            "natOutgoing": env("CALICO_IPV6POOL_NAT_OUTGOING").is_some_and(|value| value == "true"),
            "ipipMode": "Never", "vxlanMode": env("CALICO_IPV6POOL_VXLAN").unwrap_or_else(|| "Never".to_owned()),
            "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
        });
        create(api, "ippools", "IPPool", "default-ipv6-ippool", &spec)?;
    }
    if !missing(Family::V4) {
        return Ok(());
    }
    let spec = json!({
        "cidr": env("CALICO_IPV4POOL_CIDR").unwrap_or_else(|| "192.168.0.0/16".to_owned()), "blockSize": 26, "natOutgoing": true,
        "ipipMode": "Never", "vxlanMode": env("CALICO_IPV4POOL_VXLAN").unwrap_or_else(|| "Never".to_owned()),
        "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
    });
    create(api, "ippools", "IPPool", "default-ipv4-ippool", &spec)
}

fn create(api: &dyn Api, plural: &str, kind: &str, name: &str, spec: &Value) -> Result<()> {
    let object =
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    match api.create(&format!("{GROUP}/{plural}"), &object) {
        Err(error) if !error.conflict() => {
            Err(error).with_context(|| format!("the {kind} {name} could not be created"))
        }
        _ => Ok(()),
    }
}
