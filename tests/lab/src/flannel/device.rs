//! flannel.<VNI>: created, reused or recreated, with the pod CIDR's base address on it.

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::agent::api::annotation;
use crate::agent::links::{self, AddError, Vxlan};
use crate::command;

use super::log;
use super::options::NetConf;

/// The interface that carries the tunnel.
#[derive(Debug, Clone)]
pub struct External {
    /// Its name.
    pub name: String,
    /// Its address: the tunnel's outer source.
    pub address: String,
    /// What peers are told, the same unless the Node says otherwise.
    pub public_ip: String,
    /// Its MTU.
    pub mtu: u64,
}

/// Finds the interface by name and the public address by annotation (public-ip-overwrite) or by the interface.
pub fn external_interface(name: &str, node: &Value) -> Result<External> {
    let all = links::all()?;
    let link = links::by_name(&all, name).with_context(|| format!("Could not find valid interface matching {name}"))?;
    let addresses = links::addresses_v4(link);
    let Some(address) = addresses.first().and_then(|address| address.split('/').next()) else {
        bail!("failed to find IPv4 address for interface {name}");
    };
    let overwrite = annotation(node, "flannel.alpha.coreos.com/public-ip-overwrite");
    Ok(External {
        name: name.to_owned(),
        address: address.to_owned(),
        public_ip: overwrite.unwrap_or(address).to_owned(),
        mtu: link["mtu"].as_u64().unwrap_or(1500),
    })
}

/// The VXLAN device, as it is to be.
#[derive(Debug, Clone)]
pub struct Device {
    wanted: Vxlan,
    address: String,
    index: u64,
}

impl Device {
    /// Creates the device, or takes over one that fits. A link with the same VNI under another name is an error, as upstream.
    pub fn ensure(net_conf: &NetConf, external: &External, pod_cidr: Ipv4Net, mac: Option<String>) -> Result<Device> {
        let backend = &net_conf.backend;
        let mac = mac.unwrap_or_else(random_mac);
        let name = format!("flannel.{}", backend.vni);
        let mtu = external.mtu.saturating_sub(50);
        let wanted =
            Vxlan::new(&name, backend.vni, backend.effective_port(), &external.address, &external.name, &mac, mtu);
        let mut device = Device { wanted, address: format!("{}/32", pod_cidr.network()), index: 0 };
        device.ensure_link()?;
        device.remember()?;
        Ok(device)
    }

    /// Adds the link; on EEXIST compares with what stands there.
    fn ensure_link(&mut self) -> Result<()> {
        match self.wanted.add() {
            Ok(()) => return Ok(()),
            Err(AddError::Other(error)) => return Err(error),
            Err(AddError::Exists) => {}
        }
        let all = links::all()?;
        let Some(found) = links::by_name(&all, &self.wanted.name) else {
            bail!(
                "error registering network: {} exists already under another name or VNI: Link not found",
                self.wanted.name
            );
        };
        let difference = match links::kind(found) {
            "vxlan" => self.wanted.incompatible_with(&links::read_vxlan(found)),
            other => Some(format!("link type: vxlan vs {other}")),
        };
        let Some(difference) = difference else {
            // The MAC is not compared: the device's own one is published instead.
            self.wanted.mac = links::read_vxlan(found).mac;
            return Ok(());
        };
        log(&format!(
            "{:?} already exists with incompatible configuration: {difference}; recreating device",
            self.wanted.name
        ));
        command::run(&["ip", "link", "delete", "dev", &self.wanted.name])?;
        match self.wanted.add() {
            Ok(()) => Ok(()),
            Err(AddError::Other(error)) => Err(error),
            Err(AddError::Exists) => bail!("failed to create vxlan interface: file exists"),
        }
    }

    /// Puts the address on, takes other addresses of the pod network off, and sets the link up.
    pub fn configure(&self, net_conf: &NetConf) -> Result<()> {
        let name = &self.wanted.name;
        let all = links::all()?;
        let link = links::by_name(&all, name).with_context(|| format!("{name} has gone"))?;
        let existing = links::addresses_v4(link);
        for other in existing.iter().filter(|other| **other != self.address) {
            let inside = other
                .split('/')
                .next()
                .and_then(|text| text.parse().ok())
                .is_some_and(|ip: std::net::Ipv4Addr| net_conf.network.contains(&ip));
            if inside {
                log(&format!("removed IP address {other} from {name}"));
                command::run(&["ip", "address", "delete", other, "dev", name])?;
            }
        }
        if !existing.contains(&self.address) {
            command::run(&["ip", "address", "add", &self.address, "dev", name])?;
        }
        let mtu = self.wanted.mtu.to_string();
        command::run(&["ip", "link", "set", "dev", name, "mtu", &mtu, "up"]).map(|_| ())
    }

    /// Notes the link's index, by which it is addressed from then on.
    fn remember(&mut self) -> Result<()> {
        let all = links::all()?;
        let link = links::by_name(&all, &self.wanted.name).with_context(|| format!("{} has gone", self.wanted.name))?;
        self.index = link["ifindex"].as_u64().unwrap_or_default();
        Ok(())
    }

    /// The name that the link bears now: flanneld addresses it by index, so that it goes on with a device that was renamed under it.
    pub fn current_name(&self) -> String {
        let all = links::all().unwrap_or_default();
        let link = all.iter().find(|link| link["ifindex"].as_u64() == Some(self.index));
        link.and_then(|link| link["ifname"].as_str()).unwrap_or(&self.wanted.name).to_owned()
    }

    /// Creates link and address once more after somebody deleted them.
    pub fn recreate(&mut self) -> Result<()> {
        match self.wanted.add() {
            Ok(()) => {}
            Err(AddError::Exists) => bail!("failed to create vxlan interface: file exists"),
            Err(AddError::Other(error)) => return Err(error),
        }
        self.remember()?;
        let mtu = self.wanted.mtu.to_string();
        command::run(&["ip", "address", "add", &self.address, "dev", &self.wanted.name])?;
        command::run(&["ip", "link", "set", "dev", &self.wanted.name, "mtu", &mtu, "up"]).map(|_| ())
    }

    /// The link's name.
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// The MAC that peers are told.
    pub fn mac(&self) -> &str {
        &self.wanted.mac
    }

    /// The VNI.
    pub fn vni(&self) -> u64 {
        self.wanted.vni
    }

    /// The MTU, overhead subtracted.
    pub fn mtu(&self) -> u64 {
        self.wanted.mtu
    }
}

/// A random locally administered unicast MAC.
fn random_mac() -> String {
    use std::hash::{BuildHasher, Hasher};
    let noise = std::collections::hash_map::RandomState::new().build_hasher().finish().to_be_bytes();
    let [first, second, third, fourth, fifth, sixth, ..] = noise;
    let first = (first & 0xfe) | 0x02;
    format!("{first:02x}:{second:02x}:{third:02x}:{fourth:02x}:{fifth:02x}:{sixth:02x}")
}
