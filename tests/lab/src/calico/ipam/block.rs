//! An allocation block, as the IPAMBlock resource holds it, and what may be done to it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The spec of an IPAMBlock. Fields that are not known here are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockSpec {
    /// The block's network.
    pub cidr: IpNet,
    /// `host:<node>`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Per ordinal: an index into `attributes`, or null.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, first to be given out first.
    pub unallocated: Vec<usize>,
    /// Who holds the addresses.
    #[serde(default)]
    pub attributes: Vec<Attribute>,
    /// Grows with every write.
    #[serde(default)]
    pub sequence_number: u64,
    /// The sequence number at which an ordinal was given out.
    #[serde(default)]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Soft deletion.
    #[serde(default)]
    pub deleted: bool,
    /// Historic; the cluster's setting counts.
    #[serde(default)]
    pub strict_affinity: bool,
    /// What else is there.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// node, pod, namespace, timestamp, type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,
    /// What else is there.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Attribute {
    /// An attribute with a handle.
    pub fn new(handle: &str, secondary: BTreeMap<String, String>) -> Attribute {
        Attribute { handle_id: Some(handle.to_owned()), secondary: Some(secondary), rest: Map::new() }
    }

    /// A secondary value, or "".
    pub fn get(&self, key: &str) -> &str {
        self.secondary.as_ref().and_then(|map| map.get(key)).map_or("", String::as_str)
    }
}

/// Why an address is not assigned.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody holds it.
    Taken,
    /// The block belongs to another host, and strict affinity is on.
    Foreign(String),
}

impl BlockSpec {
    /// An empty block with affinity to a host.
    pub fn new(cidr: IpNet, host: &str) -> BlockSpec {
        let size = 1_usize << (cidr.max_prefix_len() - cidr.prefix_len()).min(16);
        BlockSpec {
            cidr,
            affinity: Some(format!("host:{host}")),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequence_number: 0,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            strict_affinity: false,
            rest: Map::new(),
        }
    }

    /// The host that the block has affinity to.
    pub fn host(&self) -> Option<&str> {
        self.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"))
    }

    /// True if the block has affinity to that host.
    pub fn belongs_to(&self, host: &str) -> bool {
        self.host() == Some(host)
    }

    /// The address of an ordinal.
    pub fn address(&self, ordinal: usize) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(first) => {
                let offset = u32::try_from(ordinal).unwrap_or(u32::MAX);
                IpAddr::V4(u32::from(first).wrapping_add(offset).into())
            }
            IpAddr::V6(first) => {
                let offset = u128::try_from(ordinal).unwrap_or(u128::MAX);
                IpAddr::V6(u128::from(first).wrapping_add(offset).into())
            }
        }
    }

    /// The first address in line, if one is free.
    pub fn next_free(&self) -> Option<IpAddr> {
        self.unallocated.first().map(|ordinal| self.address(*ordinal))
    }

    /// Every address that is given out, with its holder.
    pub fn assigned(&self) -> impl Iterator<Item = (IpAddr, &Attribute)> {
        self.allocations.iter().enumerate().filter_map(|(ordinal, index)| {
            let attribute = self.attributes.get((*index)?)?;
            Some((self.address(ordinal), attribute))
        })
    }

    /// Who holds an address.
    pub fn attribute_of(&self, address: IpAddr) -> Option<&Attribute> {
        let index = (*self.allocations.get(self.ordinal(address)?)?)?;
        self.attributes.get(index)
    }

    /// Gives out one address.
    pub fn assign(&mut self, address: IpAddr, attribute: Attribute, host: &str, strict: bool) -> Result<(), Refusal> {
        if strict && !self.belongs_to(host) {
            return Err(Refusal::Foreign(self.affinity.clone().unwrap_or_else(|| "no host".to_owned())));
        }
        let Some(ordinal) = self.ordinal(address) else { return Err(Refusal::Taken) };
        let index = self.attributes.iter().position(|known| *known == attribute).unwrap_or(self.attributes.len());
        let Some(slot @ None) = self.allocations.get_mut(ordinal) else { return Err(Refusal::Taken) };
        *slot = Some(index);
        if index == self.attributes.len() {
            self.attributes.push(attribute);
        }
        self.unallocated.retain(|free| *free != ordinal);
        self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
        Ok(())
    }

    /// Takes back every address of a handle; they go to the end of the line. Answers them.
    pub fn release_by_handle(&mut self, handle: &str) -> Vec<IpAddr> {
        let held = |index: usize| {
            self.attributes.get(index).is_some_and(|attribute| attribute.handle_id.as_deref() == Some(handle))
        };
        let ordinals: Vec<usize> = self
            .allocations
            .iter()
            .enumerate()
            .filter(|(_, index)| index.is_some_and(&held))
            .map(|(ordinal, _)| ordinal)
            .collect();
        for ordinal in &ordinals {
            if let Some(slot) = self.allocations.get_mut(*ordinal) {
                *slot = None;
            }
            self.unallocated.push(*ordinal);
            self.sequence_number_for_allocation.remove(&ordinal.to_string());
        }
        self.drop_unused_attributes();
        ordinals.into_iter().map(|ordinal| self.address(ordinal)).collect()
    }

    /// An empty block without an owner is deleted rather than kept.
    pub fn is_disposable(&self) -> bool {
        self.affinity.is_none() && self.allocations.iter().all(Option::is_none)
    }

    /// Attributes are kept as long as an ordinal points at them; the others are taken out and the indexes closed up.
    fn drop_unused_attributes(&mut self) {
        let mut kept = Vec::new();
        let mut moved = BTreeMap::new();
        for slot in self.allocations.iter_mut().flatten() {
            let Some(attribute) = self.attributes.get(*slot) else { continue };
            let next = kept.len();
            let target = *moved.entry(*slot).or_insert_with(|| {
                kept.push(attribute.clone());
                next
            });
            *slot = target;
        }
        self.attributes = kept;
    }

    fn ordinal(&self, address: IpAddr) -> Option<usize> {
        let ordinal = match (address, self.cidr.network()) {
            (IpAddr::V4(address), IpAddr::V4(first)) => {
                usize::try_from(u32::from(address).checked_sub(u32::from(first))?).ok()?
            }
            (IpAddr::V6(address), IpAddr::V6(first)) => {
                usize::try_from(u128::from(address).checked_sub(u128::from(first))?).ok()?
            }
            _ => return None,
        };
        Some(ordinal).filter(|ordinal| *ordinal < self.allocations.len())
    }
}
