//! Claiming a block for a host: affinity pending, block created, affinity confirmed.

use anyhow::{Result, bail};
use ipnet::Ipv4Net;

use crate::agent::api::Api;

use super::block::BlockSpec;
use super::store::{self, Pool};

/// Claims one block; one that the host has already is confirmed again, one of another host is an error.
pub fn claim(api: &dyn Api, host: &str, cidr: Ipv4Net) -> Result<()> {
    store::write_affinity(api, host, cidr, "pending")?;
    match store::create_block(api, &BlockSpec::new(cidr, host)) {
        Ok(()) => {}
        Err(error) if error.conflict() => {
            let owner = store::block(api, cidr)?.and_then(|stored| stored.spec.affinity.clone());
            if owner.as_deref() != Some(&format!("host:{host}")) {
                store::delete_affinity(api, host, cidr)?;
                bail!("block {cidr} is already claimed by {}", owner.as_deref().unwrap_or("another host"));
            }
        }
        Err(error) => return Err(error.into()),
    }
    store::write_affinity(api, host, cidr, "confirmed")?;
    Ok(())
}

/// Claims some block that nobody has, beginning at a place that depends on the host; None if there is none left.
pub fn claim_free(api: &dyn Api, host: &str, pools: &[Pool]) -> Result<Option<Ipv4Net>> {
    let taken: Vec<Ipv4Net> = store::blocks(api)?.into_iter().map(|stored| stored.spec.cidr).collect();
    for pool in pools {
        let all: Vec<Ipv4Net> = pool.cidr.subnets(pool.block_size)?.collect();
        let start = seed(host).checked_rem(all.len()).unwrap_or(0);
        let (before, after) = all.split_at(start);
        for cidr in after.iter().chain(before).filter(|cidr| !taken.contains(cidr)) {
            // Another host may be faster: then the next one.
            if claim(api, host, *cidr).is_ok() {
                return Ok(Some(*cidr));
            }
        }
    }
    Ok(None)
}

/// Hosts begin to look at different places, so that they do not race for the same blocks.
fn seed(host: &str) -> usize {
    host.bytes().fold(5381_usize, |sum, byte| sum.wrapping_mul(33).wrapping_add(usize::from(byte)))
}
