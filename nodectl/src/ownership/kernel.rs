//! What the CNIs leave in the kernel beside the network's own tables: eBPF, IPsec, sysctls, modules.

use super::known::Known;
use super::links::TUNL0;
use super::{Group, Inventory};
use crate::cni::Cni;
use crate::facts::{Facts, TcFilter, Traces};

/// The reqid of flannel's IPsec policies and states.
pub const REQID: u32 = 11;

/// The bpf file system's usual place.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Pins by directory below the bpf file system, and how their names begin: all of them Calico's.
const PINS: [(&str, &str); 5] =
    [("ctlb", "calico_"), ("tcx", ""), ("netkit", ""), ("tc/globals", "cali_"), ("calico", "")];

/// Modules that a CNI loads, that nobody else needs, and that can be unloaded.
pub const MODULES: [&str; 1] = ["ipip"];

/// Sysctls of the whole node that felix sets, to what, and when. Nobody notes what they were before.
const SYSCTLS: [(&str, &str, Mode); 4] = [
    ("net.ipv4.conf.all.src_valid_mark", "1", Mode::WireGuard),
    ("net.ipv4.conf.all.rp_filter", "0", Mode::Ebpf),
    ("kernel.unprivileged_bpf_disabled", "1", Mode::Ebpf),
    ("net.core.bpf_jit_harden", "1", Mode::Ebpf),
];

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    WireGuard,
    Ebpf,
}

/// Names of sysctls to look at.
pub fn sysctls() -> impl Iterator<Item = &'static str> {
    SYSCTLS.iter().map(|(name, _, _)| *name)
}

/// Directories of pins to look into.
pub fn pin_directories() -> impl Iterator<Item = String> {
    PINS.iter().map(|(directory, _)| format!("{BPFFS}/{directory}"))
}

/// Whether felix's eBPF mode has left its maps.
pub fn has_pins(traces: &Traces) -> bool {
    ["tc/globals", "ctlb"].iter().any(|directory| !pins(traces, directory).is_empty())
}

/// Programs at the devices' hooks, and pins.
pub fn claim_ebpf(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = facts.traces.as_ref().filter(|_| cni == Cni::Calico) else { return };
    let gone: Vec<&str> = inventory.image.links.iter().map(|l| l.name.as_str()).collect();
    let stays = |link: &str| !gone.contains(&link);
    let filters: Vec<TcFilter> =
        traces.filters.iter().filter(|f| is_felix_filter(f) && stays(&f.link)).cloned().collect();
    // The hooks of a device on which nobody else has a filter were felix's.
    let mut clsact: Vec<String> = filters.iter().map(|f| f.link.clone()).collect();
    clsact.dedup();
    clsact.retain(|link| traces.filters.iter().all(|f| f.link != *link || is_felix_filter(f)));
    let xdp = facts.network.links.iter().filter(|l| l.xdp && stays(&l.name) && has_xdp_map(traces, &l.name));
    let xdp: Vec<String> = xdp.map(|l| l.name.clone()).collect();
    for f in &filters {
        let hook = if f.egress { "egress" } else { "ingress" };
        inventory.claim(
            Group::Hooks,
            format!("{} {hook} {} {}", f.link, f.kind, f.name),
            "felix's name of its program",
        );
    }
    for link in &clsact {
        inventory.claim(Group::Hooks, format!("{link} clsact"), "held felix's programs and nobody else's");
    }
    for link in &xdp {
        inventory.claim(Group::Hooks, format!("{link} xdp"), "felix keeps a map for it among its pins");
    }
    inventory.image.filters.extend(filters);
    inventory.image.clsact.extend(clsact);
    inventory.image.xdp.extend(xdp);
    for (directory, prefix) in PINS {
        // The directories of attachments are felix's where its maps are; others may use such a name as well.
        if prefix.is_empty() && directory != "calico" && !known.ebpf {
            continue;
        }
        for name in pins(traces, directory) {
            let path = format!("{BPFFS}/{directory}/{name}");
            inventory.claim(Group::Pins, path.clone(), "felix's place and name of its pins");
            inventory.image.pins.push(path);
        }
    }
}

/// flannel's ipsec backend.
pub fn claim_ipsec(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = facts.traces.as_ref().filter(|_| cni == Cni::Flannel) else { return };
    for p in &traces.xfrm_policies {
        if p.reqid == REQID && known.contains(&p.src) && known.contains(&p.dst) {
            let what = format!("policy {} to {}, {}", p.src, p.dst, p.dir);
            inventory.claim(Group::Ipsec, what, "flannel's reqid, between parts of the pod network");
            inventory.image.xfrm_policies.push(p.clone());
        }
    }
    let ours = known.ipsec && !known.networks.is_empty();
    for s in traces.xfrm_states.iter().filter(|s| s.reqid == REQID && ours) {
        let what = format!("state {} to {}, {} {}", s.src, s.dst, s.proto, s.spi);
        inventory.claim(Group::Ipsec, what, "flannel's reqid, as in its policies");
        inventory.image.xfrm_states.push(s.clone());
    }
}

/// `ipip`, which takes tunl0 with it: only where nobody else has a tunnel of this kind, since the kernel unloads it all the same.
pub fn claim_modules(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = facts.traces.as_ref().filter(|_| cni == Cni::Calico) else { return };
    let tunnel = facts.network.link(TUNL0).filter(|l| l.kind == "ipip");
    if !traces.modules.iter().any(|m| m == "ipip") {
        if tunnel.is_some() {
            inventory.stays(
                TUNL0,
                "the kernel has ipip built in, so that its device cannot be taken away; without an address it does nothing",
            );
        }
        return;
    }
    let kept = facts.network.addresses.iter().filter(|a| a.link == TUNL0 && !inventory.image.stripped.contains(a));
    let foreign: Vec<String> = kept.map(|a| format!("{} on {TUNL0}", a.address)).collect();
    let users: Vec<String> = traces.ipip_users.iter().cloned().chain(foreign).collect();
    if !known.ipip {
        inventory.stays(
            "the module ipip",
            "nothing of Calico's is on tunl0, and others use it as well (load balancers); `modprobe -r ipip` unloads it",
        );
    } else if users.is_empty() {
        inventory.claim(
            Group::Modules,
            "ipip".into(),
            "Calico loads it for tunl0, and there is no other tunnel of this kind",
        );
        inventory.image.modules.push("ipip".into());
    } else {
        let who = users.join(", ");
        inventory
            .stays("the module ipip", &format!("it is in use by {who}: unloading it would take that away as well"));
    }
}

/// Sysctls: put back where nodectl noted them before its first run, told where not.
pub fn claim_sysctls(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = facts.traces.as_ref().filter(|_| cni == Cni::Calico) else { return };
    for (name, value, mode) in SYSCTLS {
        let was_on = if mode == Mode::Ebpf { known.ebpf } else { known.wireguard };
        if !was_on || traces.sysctls.get(name).map(String::as_str) != Some(value) {
            continue;
        }
        match traces.sysctls_then.get(name).filter(|then| *then != value) {
            Some(then) => {
                let what = format!("{name}: {value} -> {then}");
                inventory.claim(Group::Sysctls, what, "felix sets it, and it was this before nodectl's first run here");
                inventory.image.sysctls.insert(name.to_owned(), then.clone());
            }
            None => inventory.stays(name, &format!("felix sets it to {value}, and nobody noted what it was before")),
        }
    }
}

/// felix's programs bear its prefix; up to 3.2x the name of their section.
fn is_felix_filter(filter: &TcFilter) -> bool {
    filter.kind == "bpf" && ["cali_", "calico_"].iter().any(|p| filter.name.starts_with(p))
}

/// felix's XDP maps are named after the device: `eth0_ipv4_v1_blacklist`.
fn has_xdp_map(traces: &Traces, link: &str) -> bool {
    pins(traces, "calico/xdp").iter().any(|name| name.starts_with(&format!("{link}_")))
}

/// Names in a directory of pins that are felix's by their prefix.
fn pins(traces: &Traces, directory: &str) -> Vec<String> {
    let prefix = PINS.iter().find(|(dir, _)| *dir == directory).map_or("", |(_, prefix)| *prefix);
    let names = traces.listings.get(&format!("{BPFFS}/{directory}")).into_iter().flatten();
    names.filter(|name| name.starts_with(prefix)).cloned().collect()
}
