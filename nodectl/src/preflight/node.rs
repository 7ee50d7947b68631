//! Checks of the machine: who we are, room, directories, firewall, agents, devices.

use std::net::IpAddr;

use super::{Check, Verdict};
use crate::cni::Cni;
use crate::facts::{ClusterView, Facts, Runtime};
use crate::ownership;
use crate::plan::{self, Arrival, BOOT_UNITS, current_cni};
use crate::prepared::{Half, Prepared};
use crate::request::Request;
use crate::step::CleanScope;
use crate::step::words::count;

/// Bytes that journal, snapshots and copies of plugin binaries may need.
const ROOM: u64 = 256 * 1024 * 1024;

pub(super) fn root(facts: &Facts) -> Check {
    if facts.machine.uid == 0 {
        return Check::pass("root", "running as root");
    }
    Check::fail("root", format!("running as uid {}", facts.machine.uid), "run nodectl as root, e.g. with sudo")
}

/// What cannot be seen must not count as absent: its leftovers would be missed, and its removal reported as done.
pub(super) fn observed(facts: &Facts) -> Check {
    let unseen = facts.unseen();
    if unseen.is_empty() {
        return Check::pass("observed", "every part of this node that matters could be looked at");
    }
    Check::fail(
        "observed",
        format!("could not be looked at: {}", unseen.join("; ")),
        "mend that, or install the missing tool (iptables, ipset, nftables)",
    )
}

pub(super) fn open_run(facts: &Facts) -> Check {
    match &facts.runs.open {
        None => Check::pass("open-run", "no run is open on this node"),
        Some(run) => Check::fail(
            "open-run",
            format!("run {run} is open: it was interrupted, or owes something"),
            "run `nodectl resume` to finish it or `nodectl revert` to take it back",
        ),
    }
}

/// Where the node is now. One that is half on the CNI that is wanted is neither there nor can it be switched.
pub(super) fn cni(facts: &Facts, request: &Request) -> Check {
    let to = request.to;
    match (plan::arrival(facts, to), current_cni(facts)) {
        (Arrival::There, _) => Check::pass("cni", format!("this node is on {to} already: there is nothing to do")),
        (Arrival::Half(amiss), _) => {
            Check::fail("cni", format!("new pods get {to} on this node, but: {}", amiss.join("; ")), plan::half_fix(to))
        }
        (Arrival::Elsewhere, Some(cni)) => Check::pass("cni", format!("new pods get {cni} on this node")),
        (Arrival::Elsewhere, None) => Check::fail("cni", plan::unclear(facts).0, ""),
    }
}

pub(super) fn disk_space(facts: &Facts) -> Check {
    let short: Vec<String> = facts
        .machine
        .free_bytes
        .iter()
        .filter(|(_, free)| **free < ROOM)
        .map(|(dir, free)| format!("{dir} has {} MiB free", free / 1024 / 1024))
        .collect();
    if short.is_empty() {
        return Check::pass("disk-space", "there is room for the journal and the backups");
    }
    Check::fail("disk-space", short.join(", "), format!("make {} MiB of room there", ROOM / 1024 / 1024))
}

pub(super) fn shim_package(facts: &Facts) -> Check {
    if facts.shim.packaged {
        return Check::pass("shim-package", "the packaged cni-shim is there");
    }
    Check::fail(
        "shim-package",
        format!("{} is missing", plan::PACKAGED_SHIM),
        "install the nodectl package again, or put the cni-shim binary there",
    )
}

pub(super) fn firewall(facts: &Facts) -> Check {
    let backends: Vec<_> = facts.firewall.saved.iter().map(|s| s.backend).collect();
    let both = backends.contains(&crate::facts::Backend::Nft) && backends.contains(&crate::facts::Backend::Legacy);
    match facts.firewall.active {
        Some(backend) if both => Check::warn(
            "iptables-backend",
            format!("kube-proxy uses {backend:?}, and tables of the other variant exist as well"),
            "no action needed; both are looked at. After the switch, see what still writes to the other one",
        ),
        Some(backend) => Check::pass("iptables-backend", format!("kube-proxy and kubelet use {backend:?}")),
        None => Check::warn(
            "iptables-backend",
            "neither iptables variant has chains of kubelet or kube-proxy",
            "fine with kube-proxy in nftables mode or replaced; else see that kube-proxy runs",
        ),
    }
}

/// Calico's documentation wants strict reverse-path filtering on `all`: felix relies on it against spoofing.
pub(super) fn rp_filter(facts: &Facts, request: &Request) -> Check {
    let value = facts.sysctls.get("net.ipv4.conf.all.rp_filter").map(String::as_str);
    match value {
        _ if request.to == Cni::Flannel => Check::pass("rp-filter", "flannel asks nothing of it"),
        Some("0" | "1") => Check::pass("rp-filter", format!("net.ipv4.conf.all.rp_filter is {}", value.unwrap_or("?"))),
        other => Check::warn(
            "rp-filter",
            format!(
                "net.ipv4.conf.all.rp_filter is {}; Calico's documentation wants 1, and some felix versions refuse loose filtering",
                other.unwrap_or("unknown")
            ),
            "set net.ipv4.conf.all.rp_filter=1 in /etc/sysctl.d, or ignoreLooseRPF in FelixConfiguration",
        ),
    }
}

pub(super) fn runtime(facts: &Facts) -> Check {
    match &facts.runtime {
        None => Check::fail(
            "runtime",
            format!(
                "the container runtime does not answer: {}",
                facts.unobserved.get("runtime").map_or("no socket was found", String::as_str)
            ),
            "start containerd (systemctl start containerd), or name its socket in /etc/nodectl/config.toml",
        ),
        Some(r) if r.name.contains("cri-o") => Check::fail(
            "runtime",
            format!("the runtime is {} {}", r.name, r.version),
            "CRI-O deletes attachments from its own cache; this release switches nodes with containerd",
        ),
        Some(r) if !r.network_ready => Check::fail(
            "runtime",
            "the runtime says that its CNI network is not ready",
            "see the first file of the CNI configuration directory, and the runtime's log",
        ),
        // The shim's conflist stands beside the agents' own: each pod would be attached to both.
        Some(Runtime { max_conf_num: Some(number), .. }) if *number != 1 => Check::fail(
            "runtime",
            format!("the runtime attaches each pod to several CNI configurations (max_conf_num is {number})"),
            "set max_conf_num = 1 in the [plugins.\"io.containerd.grpc.v1.cri\".cni] section of containerd's config.toml and restart it",
        ),
        Some(r) => Check::pass("runtime", format!("{} {} answers, network ready", r.name, r.version)),
    }
}

/// Whatever sorts before the shim's conflist would be used in its place.
pub(super) fn conflist_order(facts: &Facts, prepared: &Prepared) -> Check {
    let names: Vec<&String> = facts.files.conf_names.iter().filter(|n| n.as_str() != plan::SHIM_CONFLIST).collect();
    let Some(first) = names.first() else {
        return Check::fail(
            "conflist-order",
            format!("there is no network configuration in {}", facts.files.conf_dir),
            "see that the agent's install container has run on this node",
        );
    };
    let own = [&prepared.flannel.conflist, &prepared.calico.conflist];
    if first.as_str() < plan::SHIM_CONFLIST {
        return Check::fail(
            "conflist-order",
            format!("{first} sorts before {}, so the runtime would not use the shim", plan::SHIM_CONFLIST),
            "rename or remove that file, or the tool that writes it",
        );
    }
    if !own.contains(first) {
        return Check::fail(
            "conflist-order",
            format!("the runtime uses {first}, which is neither flannel's nor Calico's"),
            "remove that file if it is a leftover; it would be used instead of the node's CNI",
        );
    }
    if facts.files.conf_names.iter().any(|name| name == plan::SHIM_CONFLIST) {
        return Check::pass("conflist-order", format!("the runtime uses the shim ({})", plan::SHIM_CONFLIST));
    }
    Check::pass("conflist-order", format!("the runtime uses {first}"))
}

pub(super) fn agents(facts: &Facts, request: &Request) -> Check {
    let from = current_cni(facts).unwrap_or_else(|| request.to.other());
    let (old, new) = (from.process(), from.other().process());
    match (facts.agent_runs(from), facts.agent_runs(from.other())) {
        (true, false) if from == Cni::Flannel && facts.is_canal() && !facts.runs(new) => Check::fail(
            "agents",
            format!("{old} runs on this node without the {new} that Canal has beside it"),
            "see what keeps that container of Canal's pod here",
        ),
        (true, false) if from == Cni::Flannel && facts.is_canal() => {
            Check::pass("agents", format!("{old} and {new} run: Canal's"))
        }
        (true, false) => Check::pass("agents", format!("{old} runs, {new} does not")),
        (true, true) => Check::fail(
            "agents",
            format!("{old} and {new} both run on this node"),
            "give their DaemonSets the node selectors that `nodectl cluster prepare` sets; side-by-side installs are not switched by this release",
        ),
        (false, _) => Check::fail(
            "agents",
            format!("{old} does not run on this node"),
            format!("see why its DaemonSet has no running pod here; a switch starts from a node where {from} works"),
        ),
    }
}

pub(super) fn mtu(facts: &Facts, prepared: &Prepared) -> Check {
    const NAME: &str = "mtu";
    let mut known = Vec::new();
    for half in prepared.halves() {
        let Some(link) = facts.network.overlay(prepared.vni, prepared.port, half.is_ipv6()) else {
            let family = if half.is_ipv6() { "IPv6" } else { "IPv4" };
            return Check::warn(
                NAME,
                format!("there is no {family} overlay device with VNI {} and port {}", prepared.vni, prepared.port),
                "see that the agent of this node's CNI works",
            );
        };
        let wanted = half.overlay_mtu(prepared.mtu);
        // The kernel takes IPv6's longer header off only where the node's own MTU has no room for it (vxlan_change_mtu).
        if !(wanted..=prepared.mtu).contains(&link.mtu) {
            return Check::fail(
                NAME,
                format!("{} has MTU {}, the cluster was prepared with {wanted}", link.name, link.mtu),
                "run `nodectl cluster prepare` again with --flannel-mtu, or mend the node's MTU",
            );
        }
        known.push(format!("{} has MTU {}", link.name, link.mtu));
    }
    Check::pass(NAME, format!("{}, as prepared", known.join(", ")))
}

/// Calico detects its addresses; felix's VTEPs and flannel's must be the same, or peers lose the node. One check, two families.
pub(super) fn public_ip(facts: &Facts, view: &ClusterView, prepared: &Prepared) -> Check {
    let checks: Vec<Check> = prepared.halves().map(|half| public_ip_of(facts, view, half)).collect();
    let found: Vec<&str> = checks.iter().map(|check| check.found.as_str()).collect();
    let failed = checks.iter().find(|check| check.verdict == Verdict::Fail);
    failed.cloned().unwrap_or_else(|| Check::pass("public-ip", found.join("; ")))
}

fn public_ip_of(facts: &Facts, view: &ClusterView, half: Half) -> Check {
    let name = "public-ip";
    let flannel = half.vtep.public_ip;
    let [of_flannel, of_calico, method] = match half.is_ipv6() {
        false => ["public-ip", "projectcalico.org/IPv4Address", "IP_AUTODETECTION_METHOD"],
        true => ["public-ipv6", "projectcalico.org/IPv6Address", "IP6_AUTODETECTION_METHOD"],
    };
    let annotated = view.annotations.get(&format!("flannel.alpha.coreos.com/{of_flannel}"));
    let annotated = annotated.and_then(|a| a.parse::<IpAddr>().ok());
    if annotated.is_some_and(|a| a != flannel) {
        return Check::fail(
            name,
            format!(
                "flannel's {of_flannel} is {}, prepare recorded {flannel}",
                annotated.map_or_else(String::new, |a| a.to_string())
            ),
            "run `nodectl cluster prepare` again",
        );
    }
    let on_link = facts.network.addresses.iter().any(|a| a.address.addr() == flannel);
    if !on_link {
        return Check::fail(
            name,
            format!("flannel's {of_flannel} {flannel} is on no device of this node, so Calico cannot use it"),
            "nodes behind address translation are not switched by this release; mend --public-ip of flannel otherwise",
        );
    }
    let calico = view.annotations.get(of_calico);
    let calico = calico.and_then(|a| a.split('/').next()).and_then(|a| a.parse::<IpAddr>().ok());
    match calico {
        Some(a) if a == flannel => Check::pass(name, format!("Calico will use {flannel}, as flannel does")),
        found => Check::fail(
            name,
            format!(
                "Calico would use {}, flannel uses {flannel}",
                found.map_or_else(|| "an address it has yet to detect".to_owned(), |a| a.to_string())
            ),
            format!("run `nodectl cluster prepare` again, and pin calico-node's {method} to that address"),
        ),
    }
}

/// Objects of the CNI that is to come, left by an earlier life, that would break it.
pub(super) fn leftovers(facts: &Facts, prepared: &Prepared, request: &Request) -> Check {
    if current_cni(facts) == Some(request.to) {
        return Check::pass("leftovers", "the node is on that CNI already");
    }
    // A bridge that a switch in place has kept is what flannel's first pod would make.
    let scope = CleanScope { keep_bridge: true, ..plan::scope(facts, prepared, request.to) };
    let found: Vec<String> = ownership::leftovers(facts, request.to, &scope);
    // An idle configuration file or binary of the target is what its installer would write anyway.
    let (idle, harmful): (Vec<String>, Vec<String>) = found.into_iter().partition(|l| l.starts_with("file "));
    if harmful.is_empty() && !idle.is_empty() {
        return Check::warn(
            "leftovers",
            format!(
                "{} of an earlier {} left, which its installer takes over; a run that is taken back puts them back as they \
                 were, while a `nodectl revert` of a finished switch removes them with the rest (into its backup): {}",
                count(idle.len(), "file"),
                request.to,
                first(&idle)
            ),
            "nothing, unless one of them is yours: then move it elsewhere first",
        );
    }
    if harmful.is_empty() {
        return Check::pass("leftovers", format!("nothing of an earlier {} is in the way", request.to));
    }
    Check::fail(
        "leftovers",
        format!("{} of an earlier {} left: {}", count(harmful.len(), "object"), request.to, first(&harmful)),
        format!(
            "`nodectl cleanup --{}` removes them (they may mislead the new agent); then try again",
            request.to.name()
        ),
    )
}

/// As many as fit into a line.
fn first(all: &[String]) -> String {
    let more = if all.len() > 5 { "; ..." } else { "" };
    all.iter().take(5).cloned().collect::<Vec<_>>().join("; ") + more
}

/// The units that take care of a reboot in mid-run.
pub(super) fn boot_units(facts: &Facts) -> Check {
    match BOOT_UNITS.iter().find(|name| !facts.units.contains_key(**name)) {
        None => Check::pass("boot-units", "nodectl's units are installed"),
        Some(missing) => Check::warn(
            "boot-units",
            format!(
                "systemd has not loaded {missing}: after a reboot in mid-run the node waits for somebody to run `nodectl resume`"
            ),
            format!("install nodectl from its package; `systemctl status {missing}` says why where it is installed"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn a_runtime_that_attaches_pods_twice_is_refused() {
        let check = |max_conf_num| {
            let told = Runtime { name: "containerd".into(), network_ready: true, max_conf_num, ..Runtime::default() };
            runtime(&Facts { runtime: Some(told), ..Facts::default() })
        };
        for several in [0, 2] {
            let refused = check(Some(several));
            assert!(refused.verdict == Verdict::Fail && refused.found.contains("max_conf_num"), "{refused:?}");
        }
        assert_eq!(check(Some(1)).verdict, Verdict::Pass);
        assert_eq!(check(None).verdict, Verdict::Pass);
    }
}
