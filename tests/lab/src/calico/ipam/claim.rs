//! Claiming a block for a host: affinity pending, block created, affinity confirmed.

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::agent::api::Api;

use super::block::BlockSpec;
use super::store::{self, Pool};

/// Claims one block; one that the host has already is confirmed again, one of another host is an error.
pub fn claim(api: &dyn Api, host: &str, cidr: IpNet) -> Result<()> {
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
pub fn claim_free(api: &dyn Api, host: &str, pools: &[Pool]) -> Result<Option<IpNet>> {
    let taken: Vec<IpNet> = store::blocks(api)?.into_iter().map(|stored| stored.spec.cidr).collect();
    for pool in pools {
        let length = u32::from(pool.block_size.saturating_sub(pool.cidr.prefix_len()));
        let count = 1_u128.checked_shl(length).unwrap_or(u128::MAX);
        let start = seed(host).checked_rem(count).unwrap_or(0);
        // An IPv6 pool has more blocks than anybody can go through: one more than there are taken is enough, and some for lost races.
        let most = count.min(u128::try_from(taken.len().saturating_add(super::RETRIES)).unwrap_or(u128::MAX));
        for step in 0..most {
            let number = start.wrapping_add(step).checked_rem(count).unwrap_or(0);
            let Some(cidr) = nth(pool, number).filter(|cidr| !taken.contains(cidr)) else { continue };
            // Another host may be faster: then the next one.
            if claim(api, host, cidr).is_ok() {
                return Ok(Some(cidr));
            }
        }
    }
    Ok(None)
}

/// Hosts begin to look at different places, so that they do not race for the same blocks.
fn seed(host: &str) -> u128 {
    host.bytes().fold(5381_u64, |sum, byte| sum.wrapping_mul(33).wrapping_add(u64::from(byte))).into()
}

/// A pool's block of that number.
fn nth(pool: &Pool, number: u128) -> Option<IpNet> {
    let offset = number.checked_shl(u32::from(pool.cidr.max_prefix_len().checked_sub(pool.block_size)?))?;
    match pool.cidr {
        IpNet::V4(network) => {
            let first = u32::from(network.network()).checked_add(u32::try_from(offset).ok()?)?;
            Ipv4Net::new(first.into(), pool.block_size).ok().map(IpNet::from)
        }
        IpNet::V6(network) => {
            let first = u128::from(network.network()).checked_add(offset)?;
            Ipv6Net::new(first.into(), pool.block_size).ok().map(IpNet::from)
        }
    }
}
