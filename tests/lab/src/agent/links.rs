//! Links, addresses and routes as `ip -json` shows them, and VXLAN devices.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

use super::family::Family;

/// A VXLAN device: as one wants it, or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The link's name.
    pub name: String,
    /// The VXLAN network identifier.
    pub vni: u64,
    /// UDP destination port.
    pub port: u64,
    /// The local outer address.
    pub local: String,
    /// The device below.
    pub parent: String,
    /// The MAC, lower case.
    pub mac: String,
    /// The MTU.
    pub mtu: u64,
    /// Group policy extension.
    pub gbp: bool,
    /// L2 misses reported to user space.
    pub l2miss: bool,
    /// Multicast group or default remote.
    pub group: Option<String>,
    /// Flow based ("external").
    pub external: bool,
}

impl Vxlan {
    /// An ordinary device: no group, no extensions.
    pub fn new(name: &str, vni: u64, port: u64, local: &str, parent: &str, mac: &str, mtu: u64) -> Vxlan {
        Vxlan {
            name: name.to_owned(),
            vni,
            port,
            local: local.to_owned(),
            parent: parent.to_owned(),
            mac: mac.to_lowercase(),
            mtu,
            gbp: false,
            l2miss: false,
            group: None,
            external: false,
        }
    }

    /// Creates the device. The kernel refuses a second one with equal VNI, port and flags, whatever its name.
    pub fn add(&self) -> Result<(), AddError> {
        let (vni, port) = (self.vni.to_string(), self.port.to_string());
        let argv = [
            "ip",
            "link",
            "add",
            &self.name,
            "address",
            &self.mac,
            "type",
            "vxlan",
            "id",
            &vni,
            "dev",
            &self.parent,
            "local",
            &self.local,
            "dstport",
            &port,
            "nolearning",
        ];
        match command::run(&argv) {
            Ok(_) => Ok(()),
            Err(error) if exists(&format!("{error:#}")) => Err(AddError::Exists),
            Err(error) => Err(AddError::Other(error)),
        }
    }

    /// What differs between two devices in the attributes that both flannel and felix compare; None if nothing does.
    ///
    /// Learning and the MAC are not among them: flannel never looks at either, felix compares the MAC on its own.
    pub fn incompatible_with(&self, found: &Vxlan) -> Option<String> {
        let differences = [
            ("vni", self.vni.to_string(), found.vni.to_string()),
            ("vtep (parent) device", self.parent.clone(), found.parent.clone()),
            ("vtep address", self.local.clone(), found.local.clone()),
            ("group address", format!("{:?}", self.group), format!("{:?}", found.group)),
            ("l2miss", self.l2miss.to_string(), found.l2miss.to_string()),
            ("port", self.port.to_string(), found.port.to_string()),
            ("gbp", self.gbp.to_string(), found.gbp.to_string()),
            ("flow based", self.external.to_string(), found.external.to_string()),
        ];
        let first = differences.into_iter().find(|(_, wanted, found)| wanted != found);
        first.map(|(what, wanted, found)| format!("{what}: {wanted} vs {found}"))
    }
}

/// Why a device could not be created.
#[derive(Debug)]
pub enum AddError {
    /// EEXIST: a device of that name, or of that VNI and port, stands.
    Exists,
    /// Anything else.
    Other(anyhow::Error),
}

/// True if iproute2's message is the one for EEXIST; newer kernels put their own words in its place.
fn exists(message: &str) -> bool {
    message.contains("File exists") || message.contains("VXLAN device with the specified VNI already exists")
}

/// Runs an `ip -json` or `bridge -json` command; empty output is an empty list.
pub fn json(argv: &[&str]) -> Result<Vec<Value>> {
    let text = command::run(argv)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let parsed = serde_json::from_str(&text).with_context(|| format!("`{}` did not answer JSON", argv.join(" ")))?;
    match parsed {
        Value::Array(items) => {
            Ok(items.into_iter().filter(|item| item.as_object().is_some_and(|item| !item.is_empty())).collect())
        }
        _ => bail!("`{}` did not answer a list", argv.join(" ")),
    }
}

/// Every link, by a full dump: asking for one by name can load a kernel module.
pub fn all() -> Result<Vec<Value>> {
    json(&["ip", "-json", "-details", "address", "show"])
}

/// One link out of a dump.
pub fn by_name<'a>(links: &'a [Value], name: &str) -> Option<&'a Value> {
    links.iter().find(|link| link["ifname"] == name)
}

/// What kind of link it is ("vxlan", "veth", ...), or "".
pub fn kind(link: &Value) -> &str {
    link["linkinfo"]["info_kind"].as_str().unwrap_or_default()
}

/// A VXLAN device as it stands, read from a dump's entry.
pub fn read_vxlan(link: &Value) -> Vxlan {
    let data = &link["linkinfo"]["info_data"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Vxlan {
        name: text(&link["ifname"]),
        vni: data["id"].as_u64().unwrap_or_default(),
        port: data["port"].as_u64().unwrap_or_default(),
        // ip has another name for the IPv6 one.
        local: data["local"].as_str().or(data["local6"].as_str()).unwrap_or_default().to_owned(),
        parent: text(&data["link"]),
        mac: text(&link["address"]).to_lowercase(),
        mtu: link["mtu"].as_u64().unwrap_or_default(),
        gbp: data["gbp"].as_bool().unwrap_or_default(),
        l2miss: data["l2miss"].as_bool().unwrap_or_default(),
        group: ["group", "remote", "group6", "remote6"].iter().find_map(|key| data[*key].as_str()).map(str::to_owned),
        external: data["external"].as_bool().unwrap_or_default(),
    }
}

/// The addresses of a link that are of a family, as `address/length`; those that IPv6 gives every link by itself are left out.
pub fn addresses(link: &Value, family: Family) -> Vec<String> {
    let addresses = link["addr_info"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = |address: &&Value| family == Family::V4 || address["scope"] != "link";
    let of_family = addresses.iter().filter(|address| address["family"] == family.kernel()).filter(own);
    of_family
        .filter_map(|address| Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"].as_u64()?)))
        .collect()
}

/// The device that holds an address, and the address with its prefix length.
pub fn holder_of<'a>(links: &'a [Value], address: &str) -> Option<(&'a str, String)> {
    links.iter().find_map(|link| {
        let mut all = Family::BOTH.into_iter().flat_map(|family| addresses(link, family));
        let found = all.find(|with_length| with_length.split('/').next() == Some(address))?;
        Some((link["ifname"].as_str()?, found))
    })
}
