//! Calico IPAM as libcalico-go does it on the Kubernetes datastore: blocks, handles and affinities as custom resources.
//!
//! Every write of a block is a compare-and-swap by resourceVersion. The inconvenient parts:
//! - An address that is asked for by name and taken already is an error, even if the same handle holds it.
//! - A handle is counted up before its block is written, and down again if the write fails: a crash between leaves a handle that counts too much.
//! - Every address of a block is given out, .0, .1 and .255 included, unless it is recorded as taken.
//! - Without strictAffinity a host whose blocks are full, and which finds no free one, borrows from other hosts' blocks.

pub mod block;
pub mod claim;
pub mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;

use crate::agent::api::Api;
use crate::agent::family::Family;

use block::{Attribute, Refusal};
use store::{Pool, Settings, Stored};

/// How often a lost race is run again.
const RETRIES: usize = 100;

/// What an address is for; pools may allow only some uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A pod.
    Workload,
    /// A node's own tunnel device.
    Tunnel,
}

impl Use {
    fn text(self) -> &'static str {
        match self {
            Use::Workload => "Workload",
            Use::Tunnel => "Tunnel",
        }
    }
}

/// Who gets an address, and why.
#[derive(Debug, Clone)]
pub struct Request {
    /// Releases are made by this name.
    pub handle: String,
    /// The block attribute's secondary part: node, pod, namespace, type.
    pub attributes: BTreeMap<String, String>,
    /// The intended use.
    pub intended: Use,
}

impl Request {
    fn attribute(&self) -> Attribute {
        Attribute::new(&self.handle, self.attributes.clone())
    }
}

/// IPAM on behalf of one host.
pub struct Ipam<'a> {
    api: &'a dyn Api,
    host: String,
}

impl<'a> Ipam<'a> {
    /// IPAM for a host, through an API connection.
    pub fn new(api: &'a dyn Api, host: &str) -> Ipam<'a> {
        Ipam { api, host: host.to_owned() }
    }

    /// Gives out the next free address: from the host's own blocks, then from a block claimed now (anywhere in the pool, which may be
    /// outside the node's pod CIDR), then, if allowed, from another host's.
    pub fn auto_assign(&self, request: &Request, family: Family) -> Result<IpNet> {
        let serving = |pool: &Pool| pool.family() == family && pool.serves(request.intended.text());
        let pools: Vec<Pool> = store::pools(self.api)?.into_iter().filter(serving).collect();
        if pools.is_empty() {
            bail!("no configured Calico pools for node {}: none of {family}", self.host);
        }
        let settings = store::settings(self.api)?;
        for cidr in self.own_blocks(&pools, family)? {
            if let Some(address) = self.take_next(cidr, request, &settings, true)? {
                return Ok(address);
            }
        }
        let mut own = self.own_blocks(&pools, family)?.len();
        while settings.auto_allocate_blocks && own < settings.max_blocks_per_host {
            let Some(cidr) = claim::claim_free(self.api, &self.host, &pools)? else { break };
            own += 1;
            if let Some(address) = self.take_next(cidr, request, &settings, true)? {
                return Ok(address);
            }
        }
        if !settings.strict_affinity {
            for stored in store::blocks(self.api)? {
                let cidr = stored.spec.cidr;
                let usable = pools.iter().any(|pool| pool.cidr.contains(&cidr)) && !stored.spec.deleted;
                if usable && let Some(address) = self.take_next(cidr, request, &settings, false)? {
                    return Ok(address);
                }
            }
        }
        bail!(
            "failed to request {family} addresses: Assigned 0 out of 1 requested {family} addresses; No more free affine blocks and strict affinity enabled: {}",
            settings.strict_affinity
        )
    }

    /// Assigns one address by name. Not idempotent: an address that is taken is an error, whoever holds it.
    pub fn assign(&self, address: IpAddr, request: &Request) -> Result<IpNet> {
        let pools = store::pools(self.api)?;
        let Some(pool) = pools.iter().find(|pool| pool.cidr.contains(&address) && pool.serves(request.intended.text()))
        else {
            bail!("the provided IP address {address} is not in a configured pool");
        };
        let settings = store::settings(self.api)?;
        let cidr = pool.block_of(address)?;
        for _ in 0..RETRIES {
            let Some(mut stored) = store::block(self.api, cidr)? else {
                claim::claim(self.api, &self.host, cidr)?;
                continue;
            };
            match stored.spec.assign(address, request.attribute(), &self.host, settings.strict_affinity) {
                Ok(()) => {}
                Err(Refusal::Taken) => {
                    bail!("The requested IP {address} is already assigned: Address already assigned in block {cidr}")
                }
                Err(Refusal::Foreign(owner)) => bail!(
                    "Block {cidr} has affinity to {owner}, and strict affinity is on: {address} cannot be assigned to {}",
                    self.host
                ),
            }
            if self.commit(&mut stored, request)? {
                return Ok(IpNet::from(address));
            }
        }
        bail!("{address} could not be assigned: block {cidr} was changed by others {RETRIES} times")
    }

    /// Releases every address of a handle; answers them. None means that there is no such handle.
    pub fn release_by_handle(&self, handle: &str) -> Result<Option<Vec<IpAddr>>> {
        let Some(blocks) = store::handle_blocks(self.api, handle)? else { return Ok(None) };
        let mut released = Vec::new();
        for cidr in blocks {
            released.extend(self.release_in(cidr, handle)?);
        }
        Ok(Some(released))
    }

    /// The attribute of an address, if it is assigned.
    pub fn attribute_of(&self, address: IpAddr) -> Result<Option<Attribute>> {
        let Some(pool) = store::pools(self.api)?.into_iter().find(|pool| pool.cidr.contains(&address)) else {
            return Ok(None);
        };
        let stored = store::block(self.api, pool.block_of(address)?)?;
        Ok(stored.and_then(|stored| stored.spec.attribute_of(address).cloned()))
    }

    /// Claims every block of a network for the host, as a roll-out's preparation does; a block of another host is an error.
    pub fn claim_affinity(&self, network: IpNet) -> Result<Vec<IpNet>> {
        let Some(pool) = store::pools(self.api)?.into_iter().find(|pool| pool.cidr.contains(&network)) else {
            bail!("{network} is not in a configured pool");
        };
        let blocks: Vec<IpNet> = network.subnets(pool.block_size)?.collect();
        for cidr in &blocks {
            claim::claim(self.api, &self.host, *cidr)?;
        }
        Ok(blocks)
    }

    /// The host's confirmed blocks inside the pools, in a stable order.
    fn own_blocks(&self, pools: &[Pool], family: Family) -> Result<Vec<IpNet>> {
        let mut blocks: Vec<IpNet> = store::affinities(self.api, &self.host, family)?
            .into_iter()
            .filter(|affinity| {
                affinity.host == self.host
                    && affinity.confirmed
                    && pools.iter().any(|pool| pool.cidr.contains(&affinity.cidr))
            })
            .map(|affinity| affinity.cidr)
            .collect();
        blocks.sort();
        Ok(blocks)
    }

    /// Takes the next free address of a block, or None if it is full or (with `affine`) not the host's.
    fn take_next(&self, cidr: IpNet, request: &Request, settings: &Settings, affine: bool) -> Result<Option<IpNet>> {
        for _ in 0..RETRIES {
            let Some(mut stored) = store::block(self.api, cidr)? else { return Ok(None) };
            if affine && !stored.spec.belongs_to(&self.host) {
                return Ok(None);
            }
            let Some(address) = stored.spec.next_free() else { return Ok(None) };
            if stored.spec.assign(address, request.attribute(), &self.host, settings.strict_affinity).is_err() {
                return Ok(None);
            }
            if self.commit(&mut stored, request)? {
                return Ok(Some(IpNet::from(address)));
            }
        }
        bail!("block {cidr} was changed by others {RETRIES} times")
    }

    /// Counts the handle up, then writes the block; a lost race counts down again and answers false.
    fn commit(&self, stored: &mut Stored, request: &Request) -> Result<bool> {
        let cidr = stored.spec.cidr;
        store::count_handle(self.api, &request.handle, cidr, 1)?;
        match store::replace_block(self.api, stored) {
            Ok(()) => Ok(true),
            Err(error) => {
                store::count_handle(self.api, &request.handle, cidr, -1)?;
                if error.conflict() { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    fn release_in(&self, cidr: IpNet, handle: &str) -> Result<Vec<IpAddr>> {
        for _ in 0..RETRIES {
            let Some(mut stored) = store::block(self.api, cidr)? else {
                return Ok(Vec::new());
            };
            let released = stored.spec.release_by_handle(handle);
            if released.is_empty() {
                // A handle that counts an address which no block records: what a crash between the two writes leaves.
                store::drop_handle_block(self.api, handle, cidr)?;
                return Ok(released);
            }
            let written = if stored.spec.is_disposable() {
                store::delete_block(self.api, cidr)
            } else {
                store::replace_block(self.api, &mut stored)
            };
            match written {
                Ok(()) => {
                    let count = i64::try_from(released.len()).unwrap_or(i64::MAX);
                    store::count_handle(self.api, handle, cidr, -count)?;
                    return Ok(released);
                }
                Err(error) if error.conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("block {cidr} was changed by others {RETRIES} times")
    }
}

#[cfg(test)]
mod tests;
