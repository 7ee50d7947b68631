//! `nodectl plan` on a full node, beside the commands that show the same things to a person.

use std::time::Duration;

use anyhow::{Result, bail};

use super::figure::{Figure, Spent, spent};
use crate::cluster::until;
use crate::node::Node;
use crate::objects::workloads;
use crate::scenario::Scenario;

const PODS: u32 = 250;
const ROUNDS: usize = 10;
/// How long so many pods may take to come; their plugins need a tenth of a second each.
const PATIENCE: Duration = Duration::from_secs(600);

/// Links, addresses, routes, neighbours and forwarding entries, both packet filters, sets, processes, units.
const BY_HAND: &str = "
ip -d -j link; ip -j address; ip -j route show table all; ip -j rule; ip -j neigh; bridge -j fdb
iptables-save; iptables-legacy-save; nft list tables; ipset list -name
ps -eo pid,args; ls -l /etc/cni/net.d /opt/cni/bin";

/// On the machine, with a cluster of one node.
pub(super) fn run() -> Result<Vec<Figure>> {
    let scenario = Scenario::start(1, &[], |_| {})?;
    scenario.prepare()?;
    crate::objects::install(&scenario.client, &[workloads::deployment("crowd", PODS)])?;
    let wanted = usize::try_from(PODS)?;
    until(PATIENCE, || {
        let ready = scenario.pods()?.iter().filter(|pod| crate::cluster::is_ready(pod)).count();
        Ok((ready < wanted).then(|| format!("{ready} of {wanted} pods are ready")))
    })?;
    let node = scenario.node(1)?;
    let (mut ours, mut other) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let planned = timed(node, &["nodectl", "plan"])?;
        let by_hand = timed(node, &["sh", "-c", BY_HAND])?;
        if round > 0 {
            ours.push(planned);
            other.push(by_hand);
        }
    }
    let column = |of: &[Spent], what: fn(&Spent) -> f64| of.iter().map(what).collect::<Vec<_>>();
    let figure = |name: &str, what: fn(&Spent) -> f64| {
        let title = format!("plan with {PODS} pods, {name}");
        Figure::new(&title, "ms", &column(&ours, what), "ip, iptables-save, ... by hand", &column(&other, what))
    };
    Ok(vec![figure("wall", |s| s.wall)?, figure("CPU", |s| s.cpu)?])
}

/// A command on the node; what it takes to enter the node is in it, for both ways.
fn timed(node: &dyn Node, argv: &[&str]) -> Result<Spent> {
    spent(|| {
        let done = node.exec(argv)?;
        match done.code {
            0 => Ok(()),
            code => bail!("`{}` ended with {code}: {}{}", argv.join(" "), done.stdout, done.stderr),
        }
    })
}
