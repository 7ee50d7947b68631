//! A hundred ADDs at once, and then their DELs, through the shim and directly: what a node that comes up asks of its CNI.

use anyhow::{Result, anyhow};

use super::figure::{Figure, Spent, spent};
use super::shim::{attachment, places};
use crate::command;
use crate::libcni::chain;
use crate::libcni::{Attachment, ConfList};

const PODS: usize = 100;
const ROUNDS: usize = 8;

/// Both ways in turn, so that what else the machine does meets both; each comes first as often as the other.
pub(super) fn measure(chain: &ConfList, shim: &ConfList) -> Result<Vec<Figure>> {
    let mut found: [Vec<Spent>; 4] = Default::default();
    for round in 0..ROUNDS {
        let mut turns: Vec<_> = [chain, shim].into_iter().enumerate().collect();
        // Whoever comes second finds what the first has left: neither always does.
        turns.rotate_left(round % 2);
        for (place, list) in turns {
            let ids: Vec<String> = (0..PODS).map(|pod| format!("many{round}-{place}-{pod}")).collect();
            ids.iter().try_for_each(|id| command::run(&["ip", "netns", "add", id]).map(drop))?;
            let pods: Vec<Attachment> = ids.iter().map(|id| attachment(id)).collect();
            found[place * 2].push(at_once(&pods, |pod| chain::add(&places(), list, pod).map(drop))?);
            found[place * 2 + 1].push(at_once(&pods, |pod| chain::del(&places(), list, pod))?);
            ids.iter().try_for_each(|id| command::run(&["ip", "netns", "del", id]).map(drop))?;
        }
    }
    let [chain_add, chain_del, shim_add, shim_del] = found;
    let mut figures = Vec::new();
    for (verb, ours, other) in [("ADD", &shim_add, &chain_add), ("DEL", &shim_del, &chain_del)] {
        for (name, of) in [("CPU", (|s| s.whole) as fn(&Spent) -> f64), ("wall", |s| s.wall)] {
            let column = |all: &[Spent]| all.iter().map(of).collect::<Vec<_>>();
            let what = format!("{PODS} {verb}s at once, {name}");
            figures.push(Figure::new(&what, "ms", &column(ours), "chain alone", &column(other))?);
        }
    }
    Ok(figures)
}

fn at_once(pods: &[Attachment], work: impl Fn(&Attachment) -> Result<()> + Sync) -> Result<Spent> {
    spent(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| work(pod))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread was lost"))?)
        })
    })
}
