//! What flannel has in writing of a pod: host-local's lease, the note by which its plugin deletes, the shim's record. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cni_spec::chain::{DelList, PluginCall};
use cni_spec::conflist::List;
use cni_store::record::Record;
use cni_store::state::Backend;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{PodNetwork, chained};

/// Where host-local keeps its leases, by network.
const LEASES: &str = "/var/lib/cni/networks";
/// Where flannel's plugin keeps its notes, unless its conflist says otherwise.
const NOTES: &str = "/var/lib/cni/flannel";

/// flannel as it is installed on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    network: String,
    version: String,
    disable_check: bool,
    /// The plugin's entry in the conflist.
    entry: Map<String, Value>,
    /// What the plugin makes of it for the bridge plugin.
    delegate: Value,
}

impl Installed {
    /// From its conflist and the variables of subnet.env. The delegate is made as flannel's plugin makes it.
    pub fn of(list: &List, subnet: &BTreeMap<String, String>) -> Result<Installed> {
        let is_it = |entry: &&Map<String, Value>| entry.get("type").and_then(Value::as_str) == Some("flannel");
        let entry = list.plugins.iter().find(is_it).with_context(|| {
            format!("the network {} does not run the plugin flannel. To fix it: see whose conflist it is", list.name)
        })?;
        let variable = |name: &str| {
            subnet
                .get(name)
                .with_context(|| format!("subnet.env has no {name}. To fix it: see flanneld's log on this node"))
        };
        let own: IpNet = variable("FLANNEL_SUBNET")?.parse().context("FLANNEL_SUBNET is no network")?;
        let mtu: u32 = variable("FLANNEL_MTU")?.parse().context("FLANNEL_MTU is no number")?;
        let mut delegate = entry.get("delegate").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut usual = |key: &str, value: Value| {
            delegate.entry(key.to_owned()).or_insert(value);
        };
        usual("type", json!("bridge"));
        usual("ipMasq", json!(subnet.get("FLANNEL_IPMASQ").is_none_or(|masquerades| masquerades != "true")));
        usual("mtu", json!(mtu));
        usual("isGateway", json!(true));
        let mut ipam = entry.get("ipam").and_then(Value::as_object).cloned().unwrap_or_default();
        ipam.entry("type".to_owned()).or_insert(json!("host-local"));
        ipam.insert("ranges".into(), json!([[{"subnet": own.trunc().to_string()}]]));
        let mut routes = ipam.get("routes").and_then(Value::as_array).cloned().unwrap_or_default();
        routes.push(json!({"dst": variable("FLANNEL_NETWORK")?}));
        ipam.insert("routes".into(), Value::Array(routes));
        delegate.insert("name".into(), json!(list.name));
        delegate.insert("cniVersion".into(), json!(list.cni_version));
        delegate.insert("ipam".into(), Value::Object(ipam));
        Ok(Installed {
            network: list.name.clone(),
            version: list.cni_version.clone(),
            disable_check: list.disable_check,
            entry: entry.clone(),
            delegate: Value::Object(delegate),
        })
    }

    /// A port sends frames back out of the port that they came from.
    pub fn hairpin(&self) -> bool {
        self.delegate["hairpinMode"].as_bool().unwrap_or(false)
    }

    /// What its pods reach by way of the bridge: the pod network, what an admin has added to the conflist (`ipam.routes`), and with
    /// `isDefaultGateway` everything. A route with a gateway of its own is not among them.
    pub fn routes(&self) -> Vec<IpNet> {
        let everything = self.delegate["isDefaultGateway"].as_bool().unwrap_or(false);
        let given = self.delegate["ipam"]["routes"].as_array().into_iter().flatten();
        let by_bridge = given.filter(|route| route["gw"].as_str().is_none_or(str::is_empty));
        let named = by_bridge.filter_map(|route| Some(route["dst"].as_str()?.parse::<IpNet>().ok()?.trunc()));
        let mut routes: Vec<IpNet> = everything.then(IpNet::default).into_iter().collect();
        for route in named.filter(|route| route.addr().is_ipv4()) {
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        routes
    }

    /// host-local's folder for this network.
    pub fn leases(&self) -> PathBuf {
        Path::new(LEASES).join(&self.network)
    }

    /// Path and text of the note by which flannel's plugin deletes the sandbox's network.
    pub fn note(&self, container: &str) -> (PathBuf, String) {
        let folder = self.entry.get("dataDir").and_then(Value::as_str).unwrap_or(NOTES);
        (Path::new(folder).join(container), self.delegate.to_string())
    }

    fn bridge(&self) -> &str {
        self.delegate["bridge"].as_str().unwrap_or("cni0")
    }
}

/// The text of a lease.
pub fn lease(container: &str, ifname: &str) -> String {
    format!("{container}\r\n{ifname}")
}

/// The shim's record of a pod that goes to flannel: its DEL goes there, and then to those of Calico's chain, or of an earlier one
/// of flannel's, that have left something under their network's name. `to` is the pod's network as it will be.
pub fn taken_back(record: &Record, installed: &Installed, bin_dir: &Path, to: &PodNetwork) -> Record {
    let first = record.del.first();
    let flannel = DelList {
        network: installed.network.clone(),
        cni_version: installed.version.clone(),
        plugins: vec![PluginCall {
            kind: "flannel".into(),
            path: bin_dir.join("flannel"),
            config: installed.entry.clone(),
        }],
        runtime_config: Map::new(),
        args: first.map(|list| list.args.clone()).unwrap_or_default(),
        disable_check: installed.disable_check,
    };
    let rest = chained::rest(&record.del, &["calico", "flannel"]);
    Record {
        backend: Backend::Flannel,
        del: std::iter::once(flannel).chain(rest).collect(),
        result: record.result.as_ref().map(|result| as_flannels(result, installed, to)),
        flannel_scratch: Some(installed.note(&record.container_id).1),
        ..record.clone()
    }
}

/// A result as the bridge plugin would have given it.
fn as_flannels(result: &Value, installed: &Installed, to: &PodNetwork) -> Value {
    let inside = result["interfaces"].as_array().into_iter().flatten();
    let inside = inside.filter(|i| i["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()));
    let mut interfaces = vec![json!({"name": installed.bridge()}), json!({"name": to.host, "mac": to.host_mac})];
    interfaces.extend(inside.cloned());
    let gateway = |v4: bool| to.routes.iter().filter_map(|r| r.via).find(|via| via.is_ipv4() == v4);
    let ips: Vec<Value> = to
        .addresses
        .iter()
        .map(|address| {
            let mut ip = json!({"address": address.to_string(), "interface": 2});
            if let Some(gateway) = gateway(address.addr().is_ipv4()) {
                ip["gateway"] = json!(gateway.to_string());
            }
            if installed.version.starts_with("0.") {
                ip["version"] = json!(if address.addr().is_ipv4() { "4" } else { "6" });
            }
            ip
        })
        .collect();
    let routes: Vec<Value> = to
        .routes
        .iter()
        .map(|route| json!({"dst": route.dst.to_string(), "gw": route.via.map(|via: IpAddr| via.to_string())}))
        .collect();
    json!({"cniVersion": installed.version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": {}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::to_flannel::port_of;

    fn installed() -> Installed {
        let list = json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
            {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        let variables = [
            ("FLANNEL_NETWORK", "10.244.0.0/16"),
            ("FLANNEL_SUBNET", "10.244.1.1/24"),
            ("FLANNEL_MTU", "1450"),
            ("FLANNEL_IPMASQ", "true"),
        ];
        let subnet = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Installed::of(&List::parse(list.to_string().as_bytes()).unwrap(), &subnet).unwrap()
    }

    #[test]
    fn the_note_is_as_the_plugin_writes_it() {
        let (path, note) = installed().note("abc");
        assert_eq!(path, Path::new("/var/lib/cni/flannel/abc"));
        // As read from a node's disk (flannel's plugin 1.1.2).
        let wanted = json!({"cniVersion": "0.3.1", "hairpinMode": true, "ipMasq": false,
            "ipam": {"ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "10.244.0.0/16"}], "type": "host-local"},
            "isDefaultGateway": true, "isGateway": true, "mtu": 1450, "name": "cbr0", "type": "bridge"});
        assert_eq!(serde_json::from_str::<Value>(&note).unwrap(), wanted);
        assert!(installed().hairpin());
        assert_eq!(installed().leases(), Path::new("/var/lib/cni/networks/cbr0"));
        assert_eq!(lease("abc", "eth0"), "abc\r\neth0");
    }

    #[test]
    fn a_pod_has_the_routes_that_the_conflist_gives() {
        let of = |delegate: Value, ipam: Value| {
            let list = json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
                {"type": "flannel", "delegate": delegate, "ipam": ipam}]});
            let variables =
                [("FLANNEL_NETWORK", "10.244.0.0/16"), ("FLANNEL_SUBNET", "10.244.1.1/24"), ("FLANNEL_MTU", "1450")];
            let subnet = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let installed = Installed::of(&List::parse(list.to_string().as_bytes()).unwrap(), &subnet).unwrap();
            installed.routes().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({}), json!({})), ["10.244.0.0/16"]);
        let more = json!({"routes": [{"dst": "10.96.0.1/12"}, {"dst": "10.9.0.0/16", "gw": "10.244.1.9"}, {"dst": "10.244.0.0/16"}]});
        assert_eq!(of(json!({"isDefaultGateway": true}), more), ["0.0.0.0/0", "10.96.0.0/12", "10.244.0.0/16"]);
    }

    #[test]
    fn deleting_goes_to_flannel_and_to_what_others_left() {
        let call = |kind: &str| PluginCall { kind: kind.into(), path: "/x".into(), config: Map::new() };
        let list = |network: &str, kinds: &[&str]| DelList {
            network: network.into(),
            cni_version: "0.3.1".into(),
            plugins: kinds.iter().map(|kind| call(kind)).collect(),
            runtime_config: json!({"portMappings": [{"hostPort": 8080}]}).as_object().unwrap().clone(),
            args: "K8S_POD_NAME=web-0".into(),
            disable_check: false,
        };
        let del = vec![list("k8s-pod-network", &["calico", "portmap"]), list("cbr0", &["portmap"])];
        let mut record = Record::new("abc", "eth0", Backend::Calico, del);
        record.result = Some(json!({"interfaces": [{"name": "cali0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.244.1.7/32"}]}));
        let now = PodNetwork {
            pod: "default/web-0".into(),
            ifname: "eth0".into(),
            mac: "0a:00:00:00:00:07".into(),
            mtu: 1450,
            host: "cali0".into(),
            host_mac: "ee:ee:ee:ee:ee:ee".into(),
            bridge: None,
            hairpin: false,
            addresses: vec!["10.244.1.7/32".parse().unwrap()],
            routes: Vec::new(),
            sysctls: BTreeMap::new(),
            rp_filter: "0".into(),
        };
        let to = port_of(&now, "10.244.1.0/24".parse().unwrap(), &installed().routes());
        let back = taken_back(&record, &installed(), Path::new("/opt/cni/bin"), &to);
        assert_eq!(back.backend, Backend::Flannel);
        let lists: Vec<(String, Vec<String>)> = back
            .del
            .iter()
            .map(|list| (list.network.clone(), list.plugins.iter().map(|p| p.kind.clone()).collect()))
            .collect();
        let wanted = [("cbr0", "flannel"), ("k8s-pod-network", "portmap"), ("cbr0", "portmap")];
        assert_eq!(lists, wanted.map(|(network, kind)| (network.to_owned(), vec![kind.to_owned()])));
        assert_eq!(back.del[0].args, "K8S_POD_NAME=web-0");
        assert!(back.flannel_scratch.is_some());
        let result = back.result.unwrap();
        assert_eq!(result["ips"][0]["address"], "10.244.1.7/24");
        assert_eq!(result["ips"][0]["gateway"], "10.244.1.1");
        assert_eq!(result["interfaces"][2]["sandbox"], "/run/netns/x");
    }
}
