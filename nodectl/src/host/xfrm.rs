//! IPsec policies and states, through iproute2: flannel's ipsec backend leaves both, and no netlink crate here speaks this family.

use anyhow::{Context, Result};

use super::run::{self, Run};
use crate::facts::{XfrmPolicy, XfrmState};
use crate::fault;

/// Policies that have a template; none where iproute2 is not installed.
pub fn policies() -> Result<Vec<XfrmPolicy>> {
    Ok(blocks(&show("policy")?).iter().filter_map(|block| policy(block)).collect())
}

/// States; none where iproute2 is not installed.
pub fn states() -> Result<Vec<XfrmState>> {
    Ok(blocks(&show("state")?).iter().filter_map(|block| state(block)).collect())
}

/// Deletes policies and states, in one call; those that are not there are passed over.
pub fn delete(policies: &[XfrmPolicy], states: &[XfrmState]) -> Result<()> {
    if policies.is_empty() && states.is_empty() {
        return Ok(());
    }
    let (now, states_now) = (self::policies()?, self::states()?);
    let mut batch = String::new();
    for p in policies.iter().filter(|p| now.contains(p)) {
        batch.push_str(&format!("xfrm policy delete src {} dst {} dir {}\n", p.src, p.dst, p.dir));
    }
    for s in states.iter().filter(|s| states_now.contains(s)) {
        batch.push_str(&format!("xfrm state delete src {} dst {} proto {} spi {}\n", s.src, s.dst, s.proto, s.spi));
    }
    if batch.is_empty() {
        return Ok(());
    }
    fault::point("xfrm.delete");
    Run::new("ip").args(["-batch", "-"]).stdin(batch).text().context("could not delete IPsec policies or states")?;
    Ok(())
}

fn show(what: &str) -> Result<String> {
    if !run::installed("ip") {
        return Ok(String::new());
    }
    Run::new("ip").args(["xfrm", what, "list"]).text().with_context(|| format!("could not list the IPsec {what}"))
}

/// One entry each: a line that begins in the first column, and the indented ones below it.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        let words = line.split_whitespace();
        match blocks.last_mut() {
            Some(block) if line.starts_with([' ', '\t']) => block.extend(words),
            _ => blocks.push(words.collect()),
        }
    }
    blocks
}

/// The word behind another.
fn value<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    let place = words.iter().position(|word| *word == name)?;
    words.get(place + 1).copied()
}

fn policy(words: &[&str]) -> Option<XfrmPolicy> {
    Some(XfrmPolicy {
        src: value(words, "src")?.parse().ok()?,
        dst: value(words, "dst")?.parse().ok()?,
        dir: value(words, "dir")?.to_owned(),
        reqid: value(words, "reqid")?.parse().ok()?,
    })
}

fn state(words: &[&str]) -> Option<XfrmState> {
    Some(XfrmState {
        src: value(words, "src")?.parse().ok()?,
        dst: value(words, "dst")?.parse().ok()?,
        proto: value(words, "proto")?.to_owned(),
        spi: value(words, "spi")?.to_owned(),
        reqid: value(words, "reqid")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_from_what_iproute2_shows() {
        let text = "src 10.244.1.0/24 dst 10.244.2.0/24 \n\tdir out priority 0 ptype main \n\ttmpl src 1.1.1.1 dst 1.1.1.2\n\t\tproto esp reqid 11 mode tunnel\nsrc 0.0.0.0/0 dst 0.0.0.0/0 \n\tsocket in priority 0 ptype main\n";
        let found: Vec<XfrmPolicy> = blocks(text).iter().filter_map(|b| policy(b)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].dir.as_str(), found[0].reqid), ("out", 11));
        let text = "src 1.1.1.1 dst 1.1.1.2\n\tproto esp spi 0x00000001 reqid 11 mode tunnel\n\treplay-window 0 \n";
        let found: Vec<XfrmState> = blocks(text).iter().filter_map(|b| state(b)).collect();
        assert_eq!((found[0].spi.as_str(), found[0].proto.as_str()), ("0x00000001", "esp"));
    }
}
