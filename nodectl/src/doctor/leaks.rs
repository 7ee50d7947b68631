//! What pods that are gone have left: leases, devices, port mappings. Only the runtime knows who lives; where it does not
//! answer, nobody is taken for dead. Other users of the same plugins (podman, say) have networks of their own.

use cni_store::evidence::calico_interface;

use super::findings::{Found, quoted};
use super::node::Node;
use crate::cni::Cni;
use crate::ownership::files::LEASES;
use crate::ownership::{attachments, firewall, plugins};
use crate::step::words::count;

/// Leases of containers that the runtime does not know, and empty ones, which no DEL ever finds.
pub(super) fn leases(node: &Node) -> Option<Found> {
    let notes = node.traces().into_iter().flat_map(|t| &t.notes);
    let leaked = notes.filter(|n| n.path.starts_with(LEASES) && node.is_ours(&n.network) && node.is_gone(&n.container));
    let objects: Vec<String> = leaked.map(|n| n.path.clone()).collect();
    let mut stores: Vec<&str> = objects.iter().filter_map(|path| path.rsplit_once('/')).map(|(dir, _)| dir).collect();
    stores.dedup();
    let one = |dir: &&str| {
        let files: Vec<String> =
            objects.iter().filter(|p| p.starts_with(&format!("{dir}/"))).map(|path| quoted(path)).collect();
        format!("flock {} rm -f {}", quoted(&format!("{dir}/lock")), files.join(" "))
    };
    let mut commands: Vec<String> = stores.iter().map(one).collect();
    if node.facts.shim.mode.is_some() {
        // The plugins' own DEL frees more than the address.
        commands.insert(0, "nodectl shim reap".into());
    }
    Found::some(objects, |objects| {
        Found {
        what: format!("{} of pods that are gone", count(objects.len(), "lease")),
        evidence: "host-local's file names a container that the runtime does not know, or none, and is older than five minutes"
            .into(),
        objects,
        command: commands.join("; "),
    }
    })
}

/// Devices of pods that are gone.
pub(super) fn veths(node: &Node) -> Option<Found> {
    let mut objects: Vec<String> =
        [Cni::Flannel, Cni::Calico].into_iter().flat_map(|cni| attachments::leaked(node.facts, cni)).collect();
    objects.retain(|link| !is_coming(node, link));
    let commands: Vec<String> = objects.iter().map(|link| format!("ip link delete {link}")).collect();
    Found::some(objects, |objects| Found {
        what: format!("{} of pods that are gone", count(objects.len(), "network device")),
        evidence: "the device's name, or what the runtime noted, tells its pod, and the runtime has no sandbox of it"
            .into(),
        objects,
        command: commands.join("; "),
    })
}

/// The pod is bound to this node, or its attachment is young: its sandbox may be just being made.
fn is_coming(node: &Node, link: &str) -> bool {
    let pods = node.facts.cluster.iter().flat_map(|c| &c.pods).filter(|p| !p.has_ended());
    let mut named = pods.map(|p| calico_interface("cali", &p.namespace, &p.name));
    let notes = node.traces().into_iter().flat_map(|t| &t.notes);
    let mut noted = notes.filter(|n| n.links.iter().any(|l| l == link));
    named.any(|name| name == link) || noted.any(|n| !node.is_gone(&n.container))
}

/// Port mappings of pods that are gone, in every variant of portmap's.
pub(super) fn host_ports(node: &Node) -> Option<Found> {
    let (mut objects, mut commands) = (Vec::new(), Vec::new());
    for saved in &node.facts.firewall.saved {
        let tool = firewall::tool(saved.backend, saved.family);
        for line in saved.text.lines().filter(|l| l.starts_with("-A CNI-HOSTPORT-DNAT ")) {
            let Some((network, container)) = plugins::named(line) else { continue };
            let Some(chain) = crate::rules::jump(line).filter(|_| node.is_ours(&network) && node.is_gone(&container))
            else {
                continue;
            };
            let spec = line.trim_start_matches("-A ");
            objects.push(format!("{tool} nat {chain} of container {container}"));
            commands.push(format!("{tool} -t nat -D {spec}; {tool} -t nat -F {chain}; {tool} -t nat -X {chain}"));
        }
    }
    let traces = node.traces();
    let shared = traces.into_iter().flat_map(|t| &t.nft_tables).filter(|t| t.table.ends_with(" cni_hostport"));
    for rule in shared.flat_map(|t| &t.rules) {
        let of =
            |c: &String| traces.is_some_and(|t| t.notes.iter().any(|n| n.container == *c && node.is_ours(&n.network)));
        if rule.comments.iter().any(|c| of(c) && node.is_gone(c)) {
            objects.push(plugins::rule_text(rule));
            commands.push(format!("nft delete rule {} {} handle {}", rule.table, rule.chain, rule.handle));
        }
    }
    Found::some(objects, |objects| Found {
        what: format!("{} of pods that are gone", count(objects.len(), "port mapping")),
        evidence: "portmap's comment names the network and a container that the runtime does not know".into(),
        objects,
        command: commands.join("; "),
    })
}
