//! Killing nodectl, or the node under it, at a place of one's choice; and what a node must look like afterwards.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Cni, Done, Scenario, full};
use crate::snapshot::Snapshot;

/// Where a node's nodectl notes the fault points that it passes; on the node's disk, to outlive a power cut.
const LOG: &str = "/var/log/fault-points";
/// Limits that fit the lab, for every command that switches.
const LIMITS: [&str; 4] = ["--drain-timeout", "60", "--agent-timeout", "60"];

/// Small seeded random numbers (xorshift64*), so that a failed sample can be drawn again.
#[derive(Debug, Clone)]
pub struct Sample(u64);

impl Sample {
    /// Seeded by NODECTL_TESTS_SEED, or always the same.
    pub fn from_environment() -> Sample {
        let seed = std::env::var("NODECTL_TESTS_SEED").ok().and_then(|word| word.parse().ok()).unwrap_or(1);
        println!("seed {seed}");
        Sample(u64::wrapping_mul(seed + 1, 0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or(0) % bound.max(1)
    }

    /// So many of the numbers 1 to `last`, spread evenly, each somewhere in its stretch; all with the full counts.
    pub fn of(&mut self, last: usize, count: usize) -> Vec<usize> {
        if full() { (1..=last).collect() } else { self.spread(last, count) }
    }

    /// The same, and no more of them where the full counts are wanted.
    pub fn spread(&mut self, last: usize, count: usize) -> Vec<usize> {
        if count >= last {
            return (1..=last).collect();
        }
        (0..count)
            .map(|i| {
                let (from, to) = (i * last / count, (i + 1) * last / count);
                from + 1 + self.below(to - from)
            })
            .collect()
    }
}

impl Scenario {
    /// `nodectl migrate` to this CNI with the lab's limits.
    pub fn migrate_with(&self, index: usize, to: Cni, env: &[(&str, &str)]) -> Result<Done> {
        let args = [&["migrate", "--to", to.name(), "--yes"][..], &LIMITS].concat();
        self.nodectl_with(index, &args, env)
    }

    /// The fault points that a call of nodectl passes, in their order; the call must succeed.
    pub fn fault_points(
        &self,
        index: usize,
        call: impl FnOnce(&[(&str, &str)]) -> Result<Done>,
    ) -> Result<Vec<String>> {
        self.node(index)?.sh(&format!("rm -f {LOG}"))?;
        call(&[("NODECTL_FAULT_LOG", LOG)])?.expect(0)?;
        let text = self.node(index)?.sh(&format!("cat {LOG}"))?;
        let points: Vec<String> = text.lines().map(str::to_owned).collect();
        if points.is_empty() {
            bail!(
                "nodectl passed no fault point. To fix it: build it with --features nodectl/fault-points, as tests/run does"
            );
        }
        Ok(points)
    }

    /// Runs nodectl with a fault armed; true when it died of it, false when it ended before it came there.
    pub fn dies_at(&self, index: usize, args: &[&str], fault: &str) -> Result<bool> {
        let done = self.nodectl_with(index, args, &[("NODECTL_FAULT", fault)])?;
        match done.code {
            // nsenter passes the signal on as its own end.
            -1 | 137 => Ok(true),
            0 => Ok(false),
            _ => {
                bail!("with a fault at {fault}, nodectl {} neither died nor succeeded: {}", args.join(" "), done.all())
            }
        }
    }

    /// True while a run is open on the node.
    pub fn is_open(&self, index: usize) -> Result<bool> {
        Ok(self.node(index)?.sh("test ! -e /var/lib/nodectl/open || echo open")?.trim() == "open")
    }

    /// The open run has written its last record: only its open file is left.
    pub fn has_ended(&self, index: usize) -> Result<bool> {
        let base = self.node(index)?.path("/var/lib/nodectl")?;
        let run = std::fs::read_to_string(base.join("open"))?;
        let journal = std::fs::read_to_string(base.join("journal").join(format!("{}.jsonl", run.trim())))?;
        Ok(journal.contains(r#""record":"close""#))
    }

    /// Runs nodectl and kills it after so long; true when it was still running then.
    pub fn dies_after(&self, index: usize, args: &[&str], delay: Duration) -> Result<bool> {
        let mut argv = vec!["nodectl"];
        argv.extend(args);
        let mut running = self.node(index)?.spawn(&argv)?;
        std::thread::sleep(delay);
        let still = running.child().try_wait().context("nodectl could not be asked for its end")?.is_none();
        running.signal(Signal::SIGKILL);
        running.wait()?;
        Ok(still)
    }

    /// What a killed process must not leave once the run has ended: attachments, leases, namespaces and devices without a pod.
    pub fn strays(&self, index: usize) -> Result<Vec<String>> {
        let node = self.node(index)?;
        let mut strays = Vec::new();
        let probes = node.sh(
            "ls -d /run/netns/nodectl-* /var/run/netns/nodectl-* /var/lib/cni-shim/*/nodectl-* 2>/dev/null || true",
        )?;
        strays.extend(probes.lines().map(|line| format!("the probe's {line}")));
        // A backup has what stood there: also a draft of Calico's installer, which was stopped while it copied.
        let drafts = node.sh(
            "find /etc/cni /opt/cni/bin /var/lib/cni /var/lib/cni-shim /var/lib/nodectl /run/motd.d -name '.nodectl-*' \
                -o -name '*.tmp' ! -path '/var/lib/nodectl/backup/*/files/*' 2>/dev/null || true",
        )?;
        strays.extend(drafts.lines().map(|line| format!("the draft {line}")));
        let pods = self.pods_with_network(index)?;
        let on_calico = self.node_object(index)?["metadata"]["labels"]["nodectl.io/cni"] == "calico";
        let (leases, addresses) = if on_calico { (0, pods) } else { (pods, 0) };
        for (what, wanted, script) in [
            ("host interfaces", pods, "ip -o link | grep -E ': (veth|cali)' || true"),
            ("pods' namespaces", pods, "ls /run/netns || true"),
            ("leases of host-local", leases, "ls /var/lib/cni/networks/*/ 2>/dev/null | grep '^10\\.' || true"),
        ] {
            let found = node.sh(script)?;
            if found.lines().count() != wanted {
                strays.push(format!(
                    "{} {what} where there should be {wanted}: {}",
                    found.lines().count(),
                    found.replace('\n', " ")
                ));
            }
        }
        let handles = self.handles()?;
        if handles.len() != addresses {
            strays.push(format!(
                "{} addresses of Calico where there should be {addresses}: {}",
                handles.len(),
                handles.join(" ")
            ));
        }
        Ok(strays)
    }

    /// Handles of the addresses that Calico has given to pods.
    fn handles(&self) -> Result<Vec<String>> {
        let handles = self.client.list("/apis/crd.projectcalico.org/v1/ipamhandles")?;
        let names = handles.iter().filter_map(|handle| handle["metadata"]["name"].as_str());
        Ok(names.filter(|name| name.starts_with("k8s-pod-network.")).map(str::to_owned).collect())
    }

    /// How many pods with pod network run on a node.
    fn pods_with_network(&self, index: usize) -> Result<usize> {
        let name = format!("node{index}");
        let pods = self.client.list("/api/v1/pods")?;
        let mine =
            |pod: &&serde_json::Value| pod["spec"]["nodeName"] == name.as_str() && pod["spec"]["hostNetwork"] != true;
        Ok(pods.iter().filter(mine).count())
    }

    /// The node's state without what belongs to single pods, and what differs from boot to boot or comes with its first user.
    pub fn state(&self, index: usize) -> Result<Snapshot> {
        let snapshot = Snapshot::take(self.node(index)?)?.without_pods();
        Ok(snapshot.without(lives_by_itself))
    }

    /// Takes the shim off a node on flannel without a run in the journal, and the backups of closed runs: the next run starts afresh.
    pub fn retire_shim(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        node.sh("rm -f /etc/cni/net.d/00-cni-shim.conflist")?;
        // The runtime sees the folder change; should it take longer, kubelet tries a failed sandbox again.
        std::thread::sleep(Duration::from_millis(300));
        node.sh("rm -rf /var/lib/cni-shim /opt/cni/bin/cni-shim /var/lib/nodectl/backup/*").map(drop)
    }
}

/// cni0's random address and sysctls, built-in chains, tables that came with their first rule.
fn lives_by_itself(section: &str, line: &str) -> bool {
    let built_in = line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(':')) && !line.contains(" -");
    match section {
        "links" | "fdb" | "sysctls" => line.contains("cni0"),
        "addresses" => line.starts_with("cni0 fe80"),
        "nft" => true,
        // Its token is a new one each time.
        "sums" | "texts" => line.contains("calico-kubeconfig"),
        "iptables-nft" | "ip6tables-nft" => built_in,
        // Logs stay, to be read.
        "modes" => line.contains("/var/log/calico"),
        _ => false,
    }
}
