//! Finding flannel: its DaemonSet over all manifest generations, and every value that Calico must take over from it.

mod canal;
mod checks;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::Value;

use super::check::{Check, listed};
use super::daemon_set::{self as ds, full_name};
use super::facts::ClusterFacts;
use super::node;
use super::object::{annotation, find_in, name, namespace};
use super::request::Request;
use super::version;
use crate::cni::NODE_LABEL;

/// Oldest flannel that a running Calico node can be a peer of: older ones forward nothing by themselves.
const OLDEST: version::Version = (0, 9, 1);

/// The address prefix of a full flannel annotation where nothing else is configured.
pub const DEFAULT_ANNOTATION_PREFIX: &str = "flannel.alpha.coreos.com";

/// flannel's overhead is 50 bytes, and most networks carry 1500.
const ASSUMED_MTU: u32 = 1450;
/// What flannel takes off the MTU that its net-conf.json gives for the nodes' own network, in both families.
const VXLAN_OVERHEAD: u32 = 50;

/// How flannel is installed and configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Flannel {
    /// Namespace of its DaemonSets.
    pub namespace: String,
    /// Its DaemonSets: one, or one for each architecture as manifests of 2019 and 2020 had it.
    pub daemon_sets: Vec<String>,
    /// Its ConfigMap.
    pub config_map: Option<String>,
    /// Its pods' ServiceAccount.
    pub service_account: Option<String>,
    /// Its network.
    pub network: Ipv4Net,
    /// Its IPv6 network, where it carries both families.
    pub network6: Option<Ipv6Net>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// MTU of the overlay.
    pub mtu: u32,
    /// Pods are masqueraded towards the outside.
    pub masquerade: bool,
    /// What its annotations' names begin with, separator included.
    pub annotation_prefix: String,
    /// Network name in its conflist.
    pub network_name: String,
    /// File name of its conflist.
    pub conflist: String,
    /// Directory that it writes the conflist to.
    pub cni_config_dir: Option<String>,
    /// It is Canal's: a calico-node for policy alone stands beside flanneld in its pods, and Calico's plugin makes their network.
    pub canal: bool,
    /// Its DaemonSets select on our label already.
    pub selects_our_label: bool,
}

impl Flannel {
    /// Its networks, IPv4 first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        [Some(IpNet::V4(self.network)), self.network6.map(IpNet::V6)].into_iter().flatten()
    }
}

/// flannel's `net-conf.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetConf {
    network: Option<String>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPv6Network")]
    ipv6_network: Option<String>,
    backend: Option<Backend>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Backend {
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    port: Option<u16>,
    direct_routing: bool,
    #[serde(rename = "GBP")]
    gbp: bool,
    #[serde(rename = "MTU")]
    mtu: Option<u32>,
}

/// Finds flannel. What stands in the way is added to the checks; without a DaemonSet or a network there is no answer.
pub fn detect(facts: &ClusterFacts, request: &Request, checks: &mut Vec<Check>) -> Option<Flannel> {
    let daemon_sets = match find_daemon_sets(facts, request) {
        Ok(found) => found,
        Err(check) => {
            checks.push(check);
            return None;
        }
    };
    let first = *daemon_sets.first()?;
    let container = ds::flannel_container(first)?;
    let names: Vec<String> = daemon_sets.iter().map(|d| full_name(d)).collect();
    checks.push(Check::passed("flannel-daemonset", format!("flannel's DaemonSet is {}", listed(&names))));
    checks.push(checks::version_check(&daemon_sets));
    checks.push(checks::manager_check(&daemon_sets));
    checks.push(checks::owner_check(&daemon_sets));
    let canal = ds::is_canal(first);
    if canal {
        checks.push(canal::version_check(first));
        checks.push(canal::check(facts, first));
    }
    let argv = ds::argv(container);
    checks.push(checks::subnet_manager_check(&argv));

    let config = find_config(facts, first);
    let net_conf = read_net_conf(config, request, checks)?;
    checks.push(checks::backend_check(net_conf.backend.as_ref(), config.is_some()));
    checks.push(checks::families_check(&net_conf, request));
    let network = network(&net_conf, request, checks)?;
    let network6 = network6(&net_conf, request, checks)?;
    checks.extend(network6.filter(|_| canal).map(|_| canal::two_families()));
    let backend = net_conf.backend.unwrap_or_default();
    let (mtu, mtu_check) = mtu(request, &backend, canal);
    checks.push(mtu_check);
    let prefix = request.flannel_annotation_prefix.clone();
    let prefix = prefix.or_else(|| argument(&argv, "kube-annotation-prefix").filter(|value| !value.is_empty()));
    Some(Flannel {
        namespace: namespace(first).to_owned(),
        daemon_sets: daemon_sets.iter().map(|d| name(d).to_owned()).collect(),
        config_map: config.map(|c| name(c).to_owned()),
        service_account: ds::service_account(first).map(str::to_owned),
        network,
        network6,
        vni: request.flannel_vni.or(backend.vni).unwrap_or(1),
        // Port 0 leaves the choice to the kernel, whose own default is 8472.
        port: request.flannel_port.or(backend.port).filter(|port| *port != 0).unwrap_or(8472),
        mtu,
        masquerade: request.flannel_ip_masq.unwrap_or_else(|| masquerades(first, container, &argv, facts)),
        annotation_prefix: annotation_prefix(prefix.as_deref().unwrap_or(DEFAULT_ANNOTATION_PREFIX)),
        network_name: if canal { canal::network_name(facts, first) } else { network_name(config) },
        conflist: if canal { canal::conflist(facts, first) } else { conflist(first) },
        cni_config_dir: ds::cni_config_dir(first),
        canal,
        selects_our_label: daemon_sets.iter().all(|d| ds::node_selector(d).contains_key(NODE_LABEL)),
    })
}

/// The DaemonSets of flannel, or Canal's.
fn find_daemon_sets<'a>(facts: &'a ClusterFacts, request: &Request) -> Result<Vec<&'a Value>, Check> {
    let found: Vec<&Value> = match &request.flannel_daemonset {
        Some(wanted) => find_in(&facts.daemon_sets, &wanted.namespace, &wanted.name).into_iter().collect(),
        None => facts.daemon_sets.iter().filter(|d| ds::flannel_container(d).is_some()).collect(),
    };
    let Some(first) = found.first() else { return Err(no_daemon_set(facts, request)) };
    if ds::flannel_container(first).is_none() {
        return Err(Check::refused(
            "flannel-daemonset",
            format!("DaemonSet {} has no container that runs flanneld", full_name(first)),
            "name flannel's DaemonSet with --flannel-daemonset NAMESPACE/NAME",
        ));
    }
    let several = found.len() > 1 && found.iter().any(|d| ds::is_canal(d));
    if several || found.iter().any(|d| namespace(d) != namespace(first)) {
        let names: Vec<String> = found.iter().map(|d| full_name(d)).collect();
        return Err(Check::refused(
            "flannel-daemonset",
            format!(
                "flannel is installed more than once: {} (its newer manifests moved to a namespace of their own and leave the old DaemonSet behind)",
                listed(&names)
            ),
            "delete the DaemonSet that is left over: as long as it runs, flannel cannot leave a node",
        ));
    }
    Ok(found)
}

fn no_daemon_set(facts: &ClusterFacts, request: &Request) -> Check {
    let embedded =
        facts.nodes.iter().any(|n| annotation(n, &format!("{}/backend-type", DEFAULT_ANNOTATION_PREFIX)).is_some());
    let (finding, fix) = match &request.flannel_daemonset {
        Some(wanted) => (
            format!("there is no DaemonSet {wanted}"),
            "name flannel's DaemonSet with --flannel-daemonset NAMESPACE/NAME (kubectl get daemonsets -A)",
        ),
        None if embedded => (
            "no DaemonSet runs flannel, yet the nodes carry flannel's annotations: it is part of another program here, as in k3s".to_owned(),
            "this release takes over flannel from a DaemonSet only; if there is one, name it with --flannel-daemonset NAMESPACE/NAME",
        ),
        None => (
            "no DaemonSet of this cluster runs flannel".to_owned(),
            "if there is one, name it with --flannel-daemonset NAMESPACE/NAME; a cluster without flannel needs no preparation",
        ),
    };
    Check::refused("flannel-daemonset", finding, fix)
}

/// The ConfigMap with `net-conf.json`.
fn find_config<'a>(facts: &'a ClusterFacts, daemon_set: &Value) -> Option<&'a Value> {
    let names = ds::config_map_names(daemon_set);
    let mut maps = names.iter().filter_map(|n| find_in(&facts.config_maps, namespace(daemon_set), n));
    maps.find(|map| map.pointer("/data/net-conf.json").is_some())
}

fn read_net_conf(config: Option<&Value>, request: &Request, checks: &mut Vec<Check>) -> Option<NetConf> {
    let text = config.and_then(|c| c.pointer("/data/net-conf.json")?.as_str());
    const NAME: &str = "flannel-config";
    let (problem, fix) = match text.map(serde_json::from_str::<NetConf>) {
        Some(Ok(parsed)) => {
            checks.push(Check::passed(NAME, "flannel's net-conf.json was read"));
            return Some(parsed);
        }
        // Without the file the backend is known from the nodes' annotations, which are checked one by one.
        None if request.flannel_network.is_some() => return Some(NetConf::default()),
        None => (
            "no ConfigMap that flannel's DaemonSet mounts has net-conf.json".to_owned(),
            "correct the ConfigMap, or say what flannel's network is with --flannel-network (and --flannel-vni, --flannel-port)"
                .to_owned(),
        ),
        Some(Err(error)) => {
            let map = config.map_or_else(String::new, full_name);
            let fix =
                format!("correct it in ConfigMap {map}: flannel itself would not start with it. No flag stands in for it");
            (format!("flannel's net-conf.json does not parse: {error}"), fix)
        }
    };
    checks.push(Check::refused(NAME, problem, fix));
    None
}

fn network(conf: &NetConf, request: &Request, checks: &mut Vec<Check>) -> Option<Ipv4Net> {
    if let Some(network) = request.flannel_network {
        return Some(network.trunc());
    }
    let text = conf.network.as_deref().unwrap_or_default();
    match text.parse::<Ipv4Net>() {
        Ok(network) => Some(network.trunc()),
        Err(_) => {
            checks.push(Check::refused(
                "flannel-network",
                format!("Network in flannel's net-conf.json is '{text}', not an IPv4 network"),
                "correct it, or give --flannel-network",
            ));
            None
        }
    }
}

/// flannel's IPv6 network, `Some(None)` where it carries IPv4 alone.
fn network6(conf: &NetConf, request: &Request, checks: &mut Vec<Check>) -> Option<Option<Ipv6Net>> {
    if let Some(network) = request.flannel_ipv6_network {
        return Some(Some(network.trunc()));
    }
    if !conf.enable_ipv6 {
        return Some(None);
    }
    let text = conf.ipv6_network.as_deref().unwrap_or_default();
    match text.parse::<Ipv6Net>() {
        Ok(network) => Some(Some(network.trunc())),
        Err(_) => {
            checks.push(Check::refused(
                "flannel-network",
                format!(
                    "IPv6Network in flannel's net-conf.json is '{text}', not an IPv6 network, and EnableIPv6 is set"
                ),
                "correct it, or give --flannel-ipv6-network",
            ));
            None
        }
    }
}

fn mtu(request: &Request, backend: &Backend, canal: bool) -> (u32, Check) {
    const NAME: &str = "flannel-mtu";
    if let Some(mtu) = request.flannel_mtu {
        return (mtu, Check::passed(NAME, format!("the overlay's MTU is {mtu}, as --flannel-mtu says")));
    }
    if let Some(mtu) = backend.mtu.filter(|mtu| *mtu != 0) {
        let overlay = mtu.saturating_sub(VXLAN_OVERHEAD);
        let found = format!("the overlay's MTU is {overlay}: the {mtu} of flannel's net-conf.json, less its header");
        return (overlay, Check::passed(NAME, found));
    }
    // Canal's flanneld has a /run/flannel of its own.
    let place = if canal { "the MTU of flannel's device (ip link)" } else { "FLANNEL_MTU in /run/flannel/subnet.env" };
    let check = Check::warning(
        NAME,
        format!("flannel finds its MTU on each node by itself and tells nobody; {ASSUMED_MTU} is assumed"),
        format!("compare it with {place} of a node, and give --flannel-mtu if it is another"),
    );
    (ASSUMED_MTU, check)
}

fn masquerades(daemon_set: &Value, container: &Value, argv: &[String], facts: &ClusterFacts) -> bool {
    match argument(argv, "ip-masq") {
        Some(value) => value != "false",
        None => {
            ds::variable(daemon_set, container, &facts.config_maps, "FLANNELD_IP_MASQ").is_some_and(|v| v == "true")
        }
    }
}

/// Value of a command line option, empty where it stands alone.
fn argument(argv: &[String], wanted: &str) -> Option<String> {
    argv.iter().enumerate().find_map(|(at, word)| {
        let option = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        match option.split_once('=') {
            Some((name, value)) => (name == wanted).then(|| value.to_owned()),
            None if option == wanted => {
                let next = argv.get(at + 1).filter(|n| !n.starts_with('-'));
                Some(next.cloned().unwrap_or_default())
            }
            None => None,
        }
    })
}

/// What the names of flannel's annotations begin with: flannel puts a separator where the option has none.
pub fn annotation_prefix(option: &str) -> String {
    let mut prefix = option.to_owned();
    if !prefix.contains('/') {
        prefix.push('/');
    }
    if !prefix.ends_with(['/', '-']) {
        prefix.push('-');
    }
    prefix
}

fn network_name(config: Option<&Value>) -> String {
    let conf = config.and_then(|c| c.pointer("/data/cni-conf.json")?.as_str());
    let conf = conf.and_then(|text| serde_json::from_str::<Value>(text).ok());
    conf.and_then(|c| Some(c.get("name")?.as_str()?.to_owned())).unwrap_or_else(|| "cbr0".to_owned())
}

fn conflist(daemon_set: &Value) -> String {
    let words = ds::init_containers(daemon_set).iter().flat_map(ds::argv);
    let mut files = words.filter_map(|word| {
        let (_, file) = word.rsplit_once("/cni/net.d/")?;
        file.ends_with(".conflist").then(|| file.to_owned())
    });
    files.next().unwrap_or_else(|| "10-flannel.conflist".to_owned())
}

/// What flannel wrote on a node.
pub fn on_node(node: &Value, prefix: &str) -> Option<node::FlannelNode> {
    let value = |key: &str| annotation(node, &format!("{prefix}{key}"));
    let data = |key: &str| serde_json::from_str::<Value>(value(key)?).ok();
    let mac = |data: &Value| data.get("VtepMAC").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    // flannel up to 0.14 did not write the identifier.
    let vni = |data: &Value| data.get("VNI").and_then(Value::as_u64);
    let v6 = data("backend-v6-data").zip(value("public-ipv6").and_then(|ip| ip.parse().ok()));
    let v4 = data("backend-data")?;
    Some(node::FlannelNode {
        backend: value("backend-type").unwrap_or_default().to_owned(),
        public_ip: value("public-ip")?.parse().ok()?,
        mac: mac(&v4),
        vni: vni(&v4),
        v6: v6.map(|(v6, public_ip)| node::FlannelNodeV6 { public_ip, mac: mac(&v6), vni: vni(&v6) }),
    })
}
