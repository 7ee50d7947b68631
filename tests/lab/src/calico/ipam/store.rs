//! The IPAM resources in the API server: reading, and writing by compare-and-swap.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};
use sha3::{Digest, Sha3_256};

use crate::agent::api::{Answer, Api, ApiError, text};
use crate::agent::family::Family;

use super::block::BlockSpec;

/// The group of all Calico resources.
pub const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// An IPPool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The pool's network.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Disabled pools give out nothing.
    pub disabled: bool,
    /// Never, Always or CrossSubnet.
    pub vxlan_mode: String,
    /// Traffic that leaves the pools is masqueraded.
    pub nat_outgoing: bool,
    /// Workload, Tunnel; empty is both.
    pub allowed_uses: Vec<String>,
}

impl Pool {
    /// Reads an IPPool; None for what cannot be read.
    pub fn read(object: &Value) -> Option<Pool> {
        let spec = object.get("spec")?;
        let uses = spec["allowedUses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let vxlan_mode = spec["vxlanMode"].as_str().filter(|mode| !mode.is_empty()).unwrap_or("Never");
        let cidr: IpNet = spec["cidr"].as_str()?.parse().ok()?;
        Some(Pool {
            cidr,
            // 26 and 122.
            block_size: spec["blockSize"]
                .as_u64()
                .and_then(|size| u8::try_from(size).ok())
                .unwrap_or(cidr.max_prefix_len().saturating_sub(6)),
            disabled: spec["disabled"].as_bool().unwrap_or_default(),
            vxlan_mode: vxlan_mode.to_owned(),
            nat_outgoing: spec["natOutgoing"].as_bool().unwrap_or_default(),
            allowed_uses: uses.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// True if the pool gives out addresses for that use.
    pub fn serves(&self, intended: &str) -> bool {
        !self.disabled && (self.allowed_uses.is_empty() || self.allowed_uses.iter().any(|allowed| allowed == intended))
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.addr())
    }

    /// The block that an address belongs to.
    pub fn block_of(&self, address: IpAddr) -> Result<IpNet> {
        Ok(IpNet::new(address, self.block_size)
            .with_context(|| format!("the block size {} is none", self.block_size))?
            .trunc())
    }
}

/// The cluster's IPAMConfig; an absent object means the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// No borrowing from other hosts' blocks.
    pub strict_affinity: bool,
    /// Blocks are claimed when needed.
    pub auto_allocate_blocks: bool,
    /// How many blocks a host may have.
    pub max_blocks_per_host: usize,
}

/// A block with what is needed to write it back.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The block.
    pub spec: BlockSpec,
    object: Value,
}

/// A BlockAffinity.
#[derive(Debug, Clone)]
pub struct Affinity {
    /// The host.
    pub host: String,
    /// The block.
    pub cidr: IpNet,
    /// State "confirmed" and not deleted.
    pub confirmed: bool,
}

/// `10.244.1.0/26` as the resources' names have it: 10-244-1-0-26; and `fd00:10:244:1::/122`: fd00-10-244-1---122.
pub fn cidr_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

fn block_path(cidr: IpNet) -> String {
    format!("{GROUP}/ipamblocks/{}", cidr_name(cidr))
}

fn handle_path(handle: &str) -> String {
    format!("{GROUP}/ipamhandles/{}", handle.to_lowercase())
}

/// All pools, disabled ones included.
pub fn pools(api: &dyn Api) -> Answer<Vec<Pool>> {
    Ok(api.list(&format!("{GROUP}/ippools"))?.iter().filter_map(Pool::read).collect())
}

/// The cluster's settings.
pub fn settings(api: &dyn Api) -> Answer<Settings> {
    let object = api.find(&format!("{GROUP}/ipamconfigs/default"))?.unwrap_or_default();
    let spec = &object["spec"];
    let most = spec["maxBlocksPerHost"].as_u64().filter(|most| *most > 0).unwrap_or(20);
    Ok(Settings {
        strict_affinity: spec["strictAffinity"].as_bool().unwrap_or(false),
        auto_allocate_blocks: spec["autoAllocateBlocks"].as_bool().unwrap_or(true),
        max_blocks_per_host: usize::try_from(most).unwrap_or(20),
    })
}

fn stored(object: Value) -> Option<Stored> {
    let spec = serde_json::from_value(object.get("spec")?.clone()).ok()?;
    Some(Stored { spec, object })
}

/// All blocks that are not deleted.
pub fn blocks(api: &dyn Api) -> Answer<Vec<Stored>> {
    let list = api.list(&format!("{GROUP}/ipamblocks"))?;
    Ok(list.into_iter().filter_map(stored).filter(|stored| !stored.spec.deleted).collect())
}

/// One block, if it exists.
pub fn block(api: &dyn Api, cidr: IpNet) -> Result<Option<Stored>> {
    let Some(object) = api.find(&block_path(cidr))? else { return Ok(None) };
    match stored(object) {
        Some(stored) => Ok(Some(stored)),
        None => bail!("the IPAMBlock {} cannot be read. To fix it: look at its spec", cidr_name(cidr)),
    }
}

/// Creates a block; 409 if there is one.
pub fn create_block(api: &dyn Api, spec: &BlockSpec) -> Answer<()> {
    let object = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
        "metadata": {"name": cidr_name(spec.cidr)}, "spec": spec,
    });
    api.create(&format!("{GROUP}/ipamblocks"), &object).map(|_| ())
}

/// Writes a block back; 409 if it was changed meanwhile.
pub fn replace_block(api: &dyn Api, stored: &mut Stored) -> Answer<()> {
    stored.spec.sequence_number += 1;
    stored.object["spec"] = serde_json::to_value(&stored.spec).map_err(unwritable)?;
    stored.object = api.replace(&block_path(stored.spec.cidr), &stored.object)?;
    Ok(())
}

/// Deletes a block.
pub fn delete_block(api: &dyn Api, cidr: IpNet) -> Answer<()> {
    api.delete(&block_path(cidr))
}

/// A host's affinities of a family, looked up by their labels: like Calico, which does not see one that has none.
pub fn affinities(api: &dyn Api, host: &str, family: Family) -> Answer<Vec<Affinity>> {
    let list = api.list(&format!("{GROUP}/blockaffinities"))?;
    let read = |object: &Value| {
        // v1 says "false" as text, v3 as a boolean.
        let deleted = matches!(object["spec"]["deleted"].as_str(), Some("true")) || object["spec"]["deleted"] == true;
        Some(Affinity {
            host: text(object, "/spec/node").to_owned(),
            cidr: text(object, "/spec/cidr").parse().ok()?,
            confirmed: text(object, "/spec/state") == "confirmed" && !deleted,
        })
    };
    let labels = affinity_labels(host, family);
    let wanted = |object: &&Value| {
        let has = &object["metadata"]["labels"];
        labels.as_object().into_iter().flatten().all(|(key, value)| has[key] == *value)
    };
    Ok(list.iter().filter(wanted).filter_map(read).collect())
}

/// What Calico looks a host's affinities up by.
fn affinity_labels(host: &str, family: Family) -> Value {
    json!({
        "projectcalico.org/affinity-type": "host",
        "projectcalico.org/hostname-hash": hostname_hash(host),
        "projectcalico.org/ip-version": family.digit(),
    })
}

/// SHA3-256 of a host's name in base32 without padding: names may be longer than the value of a label.
fn hostname_hash(host: &str) -> String {
    let bits: String = Sha3_256::digest(host.as_bytes()).iter().map(|byte| format!("{byte:08b}")).collect();
    let groups = bits.as_bytes().chunks(5).map(|group| format!("{:0<5}", String::from_utf8_lossy(group)));
    let values = groups.filter_map(|group| u8::from_str_radix(&group, 2).ok());
    values.map(|value| char::from(if value < 26 { b'A' + value } else { b'2' + value - 26 })).collect()
}

/// Creates or updates the affinity of a block to a host.
pub fn write_affinity(api: &dyn Api, host: &str, cidr: IpNet, state: &str) -> Answer<()> {
    let name = format!("{host}-{}", cidr_name(cidr));
    let path = format!("{GROUP}/blockaffinities/{name}");
    let spec = json!({"state": state, "node": host, "type": "host", "cidr": cidr.to_string(), "deleted": "false"});
    let labels = affinity_labels(host, Family::of(cidr.addr()));
    match api.find(&path)? {
        Some(object) if object["spec"] == spec && object["metadata"]["labels"] == labels => Ok(()),
        Some(mut object) => {
            object["metadata"]["labels"] = labels;
            object["spec"] = spec;
            api.replace(&path, &object).map(|_| ())
        }
        None => {
            let object = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
                "metadata": {"name": name, "labels": labels}, "spec": spec});
            api.create(&format!("{GROUP}/blockaffinities"), &object).map(|_| ())
        }
    }
}

/// Takes an affinity back.
pub fn delete_affinity(api: &dyn Api, host: &str, cidr: IpNet) -> Answer<()> {
    match api.delete(&format!("{GROUP}/blockaffinities/{host}-{}", cidr_name(cidr))) {
        Err(error) if !error.not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The blocks that a handle has addresses in; None if there is no such handle.
pub fn handle_blocks(api: &dyn Api, handle: &str) -> Answer<Option<Vec<IpNet>>> {
    let Some(object) = api.find(&handle_path(handle))? else { return Ok(None) };
    let blocks =
        object["spec"]["block"].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    Ok(Some(blocks.iter().filter_map(|cidr| cidr.parse().ok()).collect()))
}

/// Adds to (or takes from) a handle's count in a block; a handle that counts nothing any more is deleted.
pub fn count_handle(api: &dyn Api, handle: &str, cidr: IpNet, change: i64) -> Result<()> {
    for _ in 0..super::RETRIES {
        let written = match api.find(&handle_path(handle))? {
            None if change <= 0 => return Ok(()),
            None => create_handle(api, handle, cidr, change),
            Some(object) => change_handle(api, handle, object, cidr, change),
        };
        match written {
            Ok(()) => return Ok(()),
            Err(error) if error.conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the IPAM handle {handle} was changed by others {} times", super::RETRIES)
}

/// Takes a block out of a handle, whatever it counts there.
pub fn drop_handle_block(api: &dyn Api, handle: &str, cidr: IpNet) -> Result<()> {
    count_handle(api, handle, cidr, i64::MIN / 2)
}

fn create_handle(api: &dyn Api, handle: &str, cidr: IpNet, count: i64) -> Answer<()> {
    let object = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle", "metadata": {"name": handle.to_lowercase()},
        "spec": {"handleID": handle, "block": {cidr.to_string(): count}, "deleted": false},
    });
    api.create(&format!("{GROUP}/ipamhandles"), &object).map(|_| ())
}

fn change_handle(api: &dyn Api, handle: &str, mut object: Value, cidr: IpNet, change: i64) -> Answer<()> {
    let key = cidr.to_string();
    let counted = object["spec"]["block"][&key].as_i64().unwrap_or(0).saturating_add(change);
    let Some(blocks) = object["spec"]["block"].as_object_mut() else {
        return Err(ApiError { code: 0, message: format!("the IPAMHandle {handle} cannot be read") });
    };
    if counted > 0 {
        blocks.insert(key, json!(counted));
    } else {
        blocks.remove(&key);
    }
    if blocks.is_empty() {
        return match api.delete(&handle_path(handle)) {
            Err(error) if !error.not_found() => Err(error),
            _ => Ok(()),
        };
    }
    api.replace(&handle_path(handle), &object).map(|_| ())
}

fn unwritable(error: serde_json::Error) -> ApiError {
    ApiError { code: 0, message: format!("a block could not be put into JSON: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_both_families_are_named_as_calico_names_them() {
        assert_eq!(cidr_name("10.244.1.0/26".parse().unwrap()), "10-244-1-0-26");
        assert_eq!(cidr_name("fd00:10:244:1::/122".parse().unwrap()), "fd00-10-244-1---122");
    }

    #[test]
    fn a_hosts_label_is_the_one_that_calico_writes() {
        assert_eq!(hostname_hash("node1"), "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A");
    }
}
