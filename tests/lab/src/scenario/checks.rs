//! What must be true of a node that is on a CNI, looked at from outside nodectl: with `ip`, `iptables-save`, CRI and files.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Cni, Scenario};
use crate::agent::family::Family;
use crate::cluster::until;

impl Scenario {
    /// All that is wrong with a node that should be on this CNI; empty where nothing is.
    pub fn faults(&self, index: usize, cni: Cni) -> Result<Vec<String>> {
        let node = self.node(index)?;
        let mut faults = Vec::new();
        let mut need = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let links = node.sh("ip -o link | awk -F': ' '{split($2,a,\"@\"); print a[1]}'")?;
        let has = |name: &str| links.lines().any(|l| l == name);
        let (own, other) = match cni {
            Cni::Flannel => ("flannel.1", "vxlan.calico"),
            Cni::Calico => ("vxlan.calico", "flannel.1"),
        };
        need(has(own), format!("{own} is missing"));
        need(!has(other), format!("{other} is there"));
        if self.cluster.options().families().contains(&Family::V6) {
            let (own, other) = match cni {
                Cni::Flannel => ("flannel-v6.1", "vxlan-v6.calico"),
                Cni::Calico => ("vxlan-v6.calico", "flannel-v6.1"),
            };
            need(has(own), format!("{own} is missing"));
            need(!has(other), format!("{other} is there"));
        }
        let processes = node.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' || true")?;
        let runs = |name: &str| processes.lines().any(|l| l == name || l.ends_with(&format!("/{name}")));
        let (wanted, unwanted) = (cni.process(), cni.other().process());
        need(runs(wanted), format!("{wanted} does not run"));
        need(!runs(unwanted) || (cni == Cni::Flannel && self.cluster.options().is_canal()), format!("{unwanted} runs"));
        let object = self.node_object(index)?;
        let label = object["metadata"]["labels"]["nodectl.io/cni"].as_str().unwrap_or_default();
        need(label == cni.name(), format!("the label is {label:?}"));
        need(object["spec"]["unschedulable"].as_bool() != Some(true), "the node is cordoned".into());
        need(!self.is_open(index)?, "a run is open".into());
        let rules = node.sh("iptables-nft-save; ip6tables-nft-save")?;
        let routes = node.sh("ip route show table all; ip -6 route show table all; ip neigh show nud permanent")?;
        // In Canal felix and its interfaces belong to both sides; what is Calico's alone is the overlay, and what felix makes for it.
        let canal = self.cluster.options().is_canal();
        let foreign: &[&str] = match cni {
            Cni::Flannel if canal => &["vxlan.calico", "all-vxlan-net"],
            Cni::Flannel => &["cali-", "cali:"],
            Cni::Calico => &["FLANNEL", "flanneld"],
        };
        for word in foreign {
            need(!rules.contains(word), format!("rules with {word} are left"));
        }
        if cni == Cni::Flannel {
            let blackholes = [format!("blackhole 10.244.{index}."), format!("blackhole fd00:10:244:{index:x}:")];
            need(!blackholes.iter().any(|route| routes.contains(route)), "a blackhole is left".into());
            need(canal || !routes.contains("cali"), "routes over cali interfaces are left".into());
            need(canal || !node.sh("ipset list -n")?.contains("cali"), "ipsets of Calico are left".into());
            need(!canal || runs("calico-node"), "calico-node does not run".into());
        } else {
            // A switch in place keeps the bridge, without ports, for this host's connections that have its address.
            let kept = node.sh("grep -q '\"keep_bridge\":true' /var/lib/nodectl/journal/*.jsonl \
                && [ -z \"$(ip -o link show master cni0)\" ] && echo kept || true")?;
            need(!has("cni0") || kept.trim() == "kept", "cni0 is left".into());
        }
        Ok(faults)
    }

    /// An error with all that is wrong, unless the node is well within the lab's patience.
    pub fn must_be_on(&self, index: usize, cni: Cni) -> Result<()> {
        crate::cluster::readiness::until(super::PATIENCE, || {
            let faults = self.faults(index, cni)?;
            Ok((!faults.is_empty()).then(|| format!("node{index} should be on {}: {}", cni.name(), faults.join("; "))))
        })
    }

    /// An error unless the node has come to an end on one CNI or the other; which one.
    pub fn one_of_both(&self, index: usize) -> Result<Cni> {
        for cni in [Cni::Flannel, Cni::Calico] {
            if self.faults(index, cni)?.is_empty() {
                return Ok(cni);
            }
        }
        bail!("node{index} is on neither CNI: {:?}", self.faults(index, Cni::Flannel)?)
    }

    /// Waits until the node has come to an end on one CNI or the other; which one.
    pub fn comes_to_one_of_both(&self, index: usize, limit: Duration) -> Result<Cni> {
        let mut on = None;
        until(limit, || Ok(self.one_of_both(index).map(|cni| on = Some(cni)).err().map(|error| format!("{error:#}"))))?;
        on.with_context(|| format!("node{index} is on neither CNI"))
    }
}
