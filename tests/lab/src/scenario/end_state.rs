//! The end of a run that met trouble: on one CNI with everything settled, or at the old one with the API server dead.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Cni, PATIENCE, Scenario};
use crate::calico::ipam::block::BlockSpec;
use crate::cluster::readiness::until;

impl Scenario {
    /// After trouble and its end: nothing is owed, kubelet runs, the node is on this CNI, every pod is Ready, no DEL is kept.
    pub fn must_be_settled(&self, index: usize, cni: Cni) -> Result<()> {
        self.must_be_on(index, cni)?;
        let node = self.node(index)?;
        until(PATIENCE, || {
            let state = node.unit_state("kubelet.service")?.active;
            Ok((state != "active").then(|| format!("kubelet is {state}")))
        })?;
        // What kubelet deleted while the server was away fails in Calico's DEL; it asks again by itself.
        until(PATIENCE, || {
            let pending = node.sh("ls /var/lib/cni-shim/pending 2>/dev/null || true")?;
            Ok((!pending.trim().is_empty()).then(|| format!("DELs are kept still: {pending}")))
        })?;
        self.settled().context("pods")?;
        self.must_have_no_stale_addresses(index)
    }

    /// What the node's nodectl says of its last run on its Node, `Null` where it says nothing.
    pub fn run_note(&self, index: usize) -> Result<Value> {
        let node = self.node_object(index)?;
        let text = node["metadata"]["annotations"]["nodectl.io/run"].as_str();
        Ok(text.map(serde_json::from_str).transpose().context("the annotation nodectl.io/run")?.unwrap_or_default())
    }

    /// Gives a drained node pods again: those of the Deployment `web` are made anew, and the scheduler spreads them.
    pub fn spread_pods(&self) -> Result<()> {
        for pod in self.pods()? {
            if pod["metadata"]["labels"]["app"] == "web" {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                self.client.delete(&format!("/api/v1/namespaces/default/pods/{name}"))?;
            }
        }
        self.settled()
    }

    /// What is wrong with a node that is back on flannel while the API server is dead: no agent's process is asked for, since
    /// no label can bring it, but Calico must be gone and flannel's network must carry.
    pub fn faults_without_api(&self, index: usize) -> Result<Vec<String>> {
        let node = self.node(index)?;
        let script = "ip -o link | awk -F': ' '{split($2,a,\"@\"); print \"link \" a[1]}'; \
            for p in /proc/[0-9]*; do n=$(cat $p/comm 2>/dev/null) && echo \"process $n\"; done; \
            ls /etc/cni/net.d | sed 's/^/conf /'; \
            [ ! -e /etc/cni/net.d/00-cni-shim.conflist ] || jq -r '\"mode \" + .mode' /var/lib/cni-shim/state.json; ip route show table all | sed 's/^/route /'; \
            iptables-nft-save | sed 's/^/rule /'; ipset list -n | sed 's/^/set /';";
        let seen = node.sh(script)?;
        let has = |line: &str| seen.lines().any(|l| l == line);
        let any = |kind: &str, part: &str| seen.lines().any(|l| l.starts_with(kind) && l.contains(part));
        let wrong = [
            (!has("link flannel.1"), "flannel.1 is missing"),
            (has("link vxlan.calico"), "vxlan.calico is there"),
            (has("process calico-node"), "calico-node runs"),
            // It stays in front while something is owed: until then a reboot would bring Calico's agent.
            (any("mode ", "") && !has("mode flannel"), "the shim's mode is not flannel"),
            (has("conf 10-calico.conflist"), "Calico's conflist is left"),
            (!has("conf 10-flannel.conflist"), "flannel's conflist is missing"),
            (any("route ", "blackhole"), "a blackhole is left"),
            (any("route ", "dev cali"), "a route over a cali interface is left"),
            (any("rule ", "cali-"), "felix's chains are left"),
            (!any("rule ", "FLANNEL-FWD"), "flannel's chains are missing"),
            (any("set ", "cali4"), "felix's sets are left"),
        ];
        Ok(wrong.iter().filter(|(is, _)| *is).map(|(_, words)| (*words).to_owned()).collect())
    }

    /// Every address that Calico's IPAM or host-local keeps for this node belongs to a pod that runs.
    fn must_have_no_stale_addresses(&self, index: usize) -> Result<()> {
        until(PATIENCE, || {
            let node = self.node(index)?;
            let leases = node
                .sh("for network in cbr0 k8s-pod-network; do ls /var/lib/cni/networks/$network 2>/dev/null; done \
                 | grep -E '^[0-9.]+$|:' || true")?;
            let mut kept: Vec<String> = leases.lines().map(str::to_owned).collect();
            kept.extend(self.calico_addresses(index)?);
            let pods = self.client.list("/api/v1/pods")?;
            let listed = pods.iter().flat_map(|pod| pod["status"]["podIPs"].as_array().into_iter().flatten());
            let live: Vec<&str> = listed.filter_map(|entry| entry["ip"].as_str()).collect();
            kept.retain(|ip| !live.contains(&ip.as_str()));
            Ok((!kept.is_empty()).then(|| format!("addresses that no pod has are kept: {}", kept.join(", "))))
        })
    }

    /// Addresses that Calico's IPAM holds for pods of this node.
    fn calico_addresses(&self, index: usize) -> Result<Vec<String>> {
        let blocks = self.client.list("/apis/crd.projectcalico.org/v1/ipamblocks")?;
        let host = format!("node{index}");
        let mut held = Vec::new();
        for block in blocks {
            let spec: BlockSpec = serde_json::from_value(block["spec"].clone()).context("an IPAMBlock's spec")?;
            let of_pods =
                spec.assigned().filter(|(_, holder)| holder.get("node") == host && !holder.get("pod").is_empty());
            held.extend(of_pods.map(|(address, _)| address.to_string()));
        }
        Ok(held)
    }
}
