//! The overlay's settings, the address pool and the IPAM configuration: one each for the cluster.

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::cluster::calico::Calico;
use crate::cluster::change::Change;
use crate::cluster::check::Check;
use crate::cluster::daemon_set as ds;
use crate::cluster::decision::Survey;
use crate::cluster::flannel::Flannel;
use crate::cluster::object::{Kind, ObjectRef, find, find_in, name, set, text, texts, unset};
use crate::cni::NODE_LABEL;
use crate::prepared::IPV6_OVERHEAD;

/// Name of the pool, where there is none for this network of flannel's yet: Calico's own default name. (It makes a pool of that name
/// where there is none of the family.)
fn pool_name(network: IpNet) -> &'static str {
    if network.addr().is_ipv4() { "default-ipv4-ippool" } else { "default-ipv6-ippool" }
}

/// Its name where Calico's own default pool is for another network, as Canal's calico-node has it that does not know the cluster's.
const OTHER_POOL_NAME: &str = "flannel-ipv4-ippool";

/// The writes.
pub fn changes(survey: &Survey, flannel: &Flannel, calico: &Calico) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(felix(survey, flannel));
    changes.extend(mtu(survey, flannel, calico));
    changes.extend(idle_pools(survey, flannel));
    changes.extend(flannel.networks().filter_map(|network| pool(survey, flannel, network)));
    changes.extend(ipam_config(survey));
    changes
}

/// The overlay speaks as flannel's does. `vxlanEnabled` is left alone, so that a cluster which uses VXLAN already never
/// loses its devices; only where it is switched off by hand it is given back to felix, which decides by the pools.
fn felix(survey: &Survey, flannel: &Flannel) -> Option<Change> {
    let target = ObjectRef::cluster(Kind::FelixConfiguration, "default");
    let existing = find(&survey.facts.felix_configurations, "default");
    let mut wanted = existing.cloned().unwrap_or_else(|| target.skeleton());
    set(&mut wanted, &["spec", "vxlanVNI"], json!(flannel.vni));
    set(&mut wanted, &["spec", "vxlanPort"], json!(flannel.port));
    set(&mut wanted, &["spec", "vxlanMTU"], json!(flannel.mtu));
    if flannel.network6.is_some() {
        set(&mut wanted, &["spec", "vxlanMTUV6"], json!(flannel.mtu.saturating_sub(IPV6_OVERHEAD)));
    }
    if wanted.pointer("/spec/vxlanEnabled") == Some(&Value::Bool(false)) {
        unset(&mut wanted, &["spec", "vxlanEnabled"]);
    }
    let reason = "with flannel's VNI, UDP port and MTU a Calico node is an ordinary peer of a flannel node";
    match existing {
        Some(existing) => Change::update(target, existing, wanted, reason),
        None => Some(Change::create(target, wanted, reason)),
    }
}

/// Who delivers Calico's ConfigMap would put back what prepare writes there; who delivers its DaemonSet has to take the node selector
/// out in the end.
pub fn owner_check(survey: &Survey, flannel: &Flannel, calico: &Calico) -> Check {
    const NAME: &str = "calico-owner";
    let change = mtu(survey, flannel, calico);
    let map = change.as_ref().and_then(|change| Some((change, ds::delivery(change.before.as_ref()?)?)));
    if let (Some((change, manager)), Some((_, key))) = (map, &calico.mtu_source) {
        return Check::refused(
            NAME,
            format!(
                "{} delivers {} ({}) and would put back the MTU of Calico's pods, which has to be flannel's",
                manager.what, change.target, manager.mark
            ),
            format!("set {key} to {} in what {} delivers, then run prepare again", flannel.mtu, manager.what),
        );
    }
    let daemon_set = find_in(&survey.facts.daemon_sets, &calico.namespace, &calico.daemon_set);
    match daemon_set.and_then(|d| Some((d, ds::delivery(d)?))) {
        Some((daemon_set, manager)) => Check::warning(
            NAME,
            format!(
                "{} delivers DaemonSet {} ({}) with the node selector {NODE_LABEL}",
                manager.what,
                ds::full_name(daemon_set),
                manager.mark
            ),
            format!(
                "nothing now; when all nodes are on Calico, take the node selector out of what {} delivers: finish refuses before",
                manager.what
            ),
        ),
        None => Check::passed(NAME, "nobody else delivers Calico's DaemonSet"),
    }
}

/// Calico's manifests take the MTU from a ConfigMap, and that wins over the FelixConfiguration.
fn mtu(survey: &Survey, flannel: &Flannel, calico: &Calico) -> Option<Change> {
    let (map, key) = calico.mtu_source.as_ref()?;
    let existing = find_in(&survey.facts.config_maps, &calico.namespace, map)?;
    let mut wanted = existing.clone();
    set(&mut wanted, &["data", key], json!(flannel.mtu.to_string()));
    let target = ObjectRef::namespaced(Kind::ConfigMap, &calico.namespace, map);
    Change::update(target, existing, wanted, "pods of a Calico node get flannel's MTU; calico-node reads it here")
}

/// Calico gives pods addresses of flannel's network.
fn pool(survey: &Survey, flannel: &Flannel, network: IpNet) -> Option<Change> {
    let reason =
        "Calico gives pods addresses of flannel's network, and encapsulates all traffic between nodes as flannel does";
    let spec = json!({
        "allowedUses": ["Workload", "Tunnel"],
        "blockSize": survey.block_size_of(network),
        "cidr": network.to_string(),
        "ipipMode": "Never",
        "natOutgoing": flannel.masquerade,
        "nodeSelector": "all()",
        "vxlanMode": "Always",
    });
    if let Some(existing) = pool_of(survey, network) {
        let mut wanted = existing.clone();
        set(&mut wanted, &["spec", "natOutgoing"], json!(flannel.masquerade));
        if is_idle(survey, flannel, existing) && !own_pool(survey, existing, network).is_empty() {
            wanted["spec"] = spec;
        }
        let target = ObjectRef::cluster(Kind::IPPool, name(existing));
        return Change::update(target, existing, wanted, reason);
    }
    let name = pool_name(network);
    let is_taken = find(&survey.facts.ip_pools, name).is_some();
    let target = ObjectRef::cluster(Kind::IPPool, if is_taken { OTHER_POOL_NAME } else { name });
    let mut wanted = target.skeleton();
    set(&mut wanted, &["spec"], spec);
    Some(Change::create(target, wanted, reason))
}

/// Canal's calico-node makes Calico's default pool, which nobody uses: host-local gives Canal's pods their addresses. Calico would
/// take addresses from it, which flannel's nodes do not route.
fn idle_pools(survey: &Survey, flannel: &Flannel) -> Vec<Change> {
    let change = |pool: &Value| {
        let mut wanted = pool.clone();
        set(&mut wanted, &["spec", "disabled"], json!(true));
        let target = ObjectRef::cluster(Kind::IPPool, name(pool));
        Change::update(target, pool, wanted, "Calico must not give addresses of it to pods; on Canal nobody has one")
    };
    let others = survey.facts.ip_pools.iter().filter(|pool| near(flannel, pool).is_none() && gives_to_pods(pool));
    others.filter(|pool| is_idle(survey, flannel, pool)).filter_map(change).collect()
}

/// Whether this pool of a cluster on Canal can be changed in all it says: no address of it was ever given away.
fn is_idle(survey: &Survey, flannel: &Flannel, pool: &Value) -> bool {
    let network = pool_network(pool);
    let cut = |block: &Value| {
        let cidr = text(block, "/spec/cidr").and_then(|cidr| cidr.parse().ok());
        cidr.zip(network).is_none_or(|(block, pool): (IpNet, IpNet)| overlaps(block, pool))
    };
    flannel.canal && !survey.facts.ipam_blocks.iter().any(cut)
}

/// The network of flannel's that a pool lies in or around.
fn near(flannel: &Flannel, pool: &Value) -> Option<IpNet> {
    let network = pool_network(pool)?;
    flannel.networks().find(|own| overlaps(network, *own))
}

/// Addresses come from a node's own blocks only.
fn ipam_config(survey: &Survey) -> Option<Change> {
    let target = ObjectRef::cluster(Kind::IPAMConfig, "default");
    let reason = "a node never borrows an address from another node's blocks: flannel's nodes route by pod CIDR, and flannel's own addresses are unknown to Calico";
    if let Some(existing) = find(&survey.facts.ipam_configs, "default") {
        let mut wanted = existing.clone();
        set(&mut wanted, &["spec", "strictAffinity"], json!(true));
        return Change::update(target, existing, wanted, reason);
    }
    let mut wanted = target.skeleton();
    set(&mut wanted, &["spec"], json!({"autoAllocateBlocks": true, "strictAffinity": true}));
    Some(Change::create(target, wanted, reason))
}

fn pool_of<'a>(survey: &Survey<'a>, network: IpNet) -> Option<&'a Value> {
    survey.facts.ip_pools.iter().find(|p| pool_network(p) == Some(network))
}

fn pool_network(pool: &Value) -> Option<IpNet> {
    text(pool, "/spec/cidr")?.parse::<IpNet>().ok().map(|n| n.trunc())
}

/// The pool for each of flannel's networks is as it has to be, and no other pool gives addresses to pods.
pub fn pool_check(survey: &Survey, flannel: &Flannel) -> Check {
    const NAME: &str = "calico-pools";
    let mut problems = Vec::new();
    for pool in &survey.facts.ip_pools {
        let cidr = text(pool, "/spec/cidr").unwrap_or("(no network)");
        match near(flannel, pool) {
            Some(own) if pool_network(pool) == Some(own) && is_idle(survey, flannel, pool) => {}
            Some(own) if pool_network(pool) == Some(own) => problems.extend(own_pool(survey, pool, own)),
            Some(own) => {
                problems.push(format!("pool {} ({cidr}) overlaps with flannel's network {own}", name(pool)));
            }
            None if gives_to_pods(pool) && !is_idle(survey, flannel, pool) => problems.push(format!(
                "pool {} ({cidr}) gives addresses to pods that flannel's nodes do not route",
                name(pool)
            )),
            None => {}
        }
    }
    let lacking = flannel.networks().filter(|network| pool_of(survey, *network).is_none()).map(pool_name);
    let taken = lacking.filter_map(|pool| Some((pool, find(&survey.facts.ip_pools, pool)?)));
    if problems.is_empty() && !flannel.canal {
        problems.extend(taken.map(|(pool, taken)| {
            format!("the name {pool} is taken by a pool for {}", text(taken, "/spec/cidr").unwrap_or("?"))
        }));
    }
    if problems.is_empty() {
        return Check::passed(NAME, "no pool of Calico is in the way");
    }
    let fix = if flannel.canal {
        "delete pools that no pod uses (kubectl delete ippools NAME), with NO_DEFAULT_POOLS=true for calico-node in Canal's DaemonSet, which makes one anew otherwise"
    } else {
        "delete pools that no pod uses (kubectl delete ippools NAME), or disable them (kubectl patch ippools NAME --type merge -p '{\"spec\":{\"disabled\":true}}')"
    };
    Check::refused(NAME, problems.join("; "), fix)
}

/// What is wrong with the pool for a network of flannel's. The block size cannot be changed at all, and the modes not
/// without cutting nodes off that use the pool now.
fn own_pool(survey: &Survey, pool: &Value, network: IpNet) -> Vec<String> {
    let size = survey.block_size_of(network);
    let mut problems = Vec::new();
    let mut differs = |field: &str, wanted: &str, found: String| {
        if found != wanted {
            problems.push(format!("pool {} has {field} {found} and needs {wanted}", name(pool)));
        }
    };
    let field = |field: &str, default: &str| text(pool, &format!("/spec/{field}")).unwrap_or(default).to_owned();
    differs("ipipMode", "Never", field("ipipMode", "Never"));
    differs("vxlanMode", "Always", field("vxlanMode", "Never"));
    differs("nodeSelector", "all()", field("nodeSelector", "all()"));
    let block_size = pool.pointer("/spec/blockSize").and_then(Value::as_u64).unwrap_or(if network.addr().is_ipv4() {
        26
    } else {
        122
    });
    differs("blockSize", &size.to_string(), block_size.to_string());
    let disabled = pool.pointer("/spec/disabled").and_then(Value::as_bool).unwrap_or(false);
    differs("disabled", "false", disabled.to_string());
    let uses = texts(pool, "/spec/allowedUses");
    if !uses.is_empty() && !["Workload", "Tunnel"].iter().all(|u| uses.iter().any(|have| have == u)) {
        problems.push(format!("pool {} is for {} only, and needs Workload and Tunnel", name(pool), uses.join(" and ")));
    }
    problems
}

fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn gives_to_pods(pool: &Value) -> bool {
    let disabled = pool.pointer("/spec/disabled").and_then(Value::as_bool).unwrap_or(false);
    let uses = texts(pool, "/spec/allowedUses");
    !disabled && (uses.is_empty() || uses.iter().any(|u| u == "Workload"))
}
