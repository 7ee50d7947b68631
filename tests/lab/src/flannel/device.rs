//! flannel.<VNI>, and flannel-v6.<VNI> where IPv6 is in use: created, reused or recreated, with the pod CIDR's base address on it.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use crate::agent::api::annotation;
use crate::agent::family::Family;
use crate::agent::links::{self, AddError, Vxlan};
use crate::agent::set_sysctl;
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
pub fn external_interface(name: &str, node: &Value, family: Family) -> Result<External> {
    let all = links::all()?;
    let link = links::by_name(&all, name).with_context(|| format!("Could not find valid interface matching {name}"))?;
    let addresses = links::addresses(link, family);
    let Some(address) = addresses.first().and_then(|address| address.split('/').next()) else {
        bail!("failed to find {family} address for interface {name}");
    };
    let overwrite = match family {
        Family::V4 => annotation(node, "flannel.alpha.coreos.com/public-ip-overwrite"),
        Family::V6 => annotation(node, "flannel.alpha.coreos.com/public-ipv6-overwrite"),
    };
    Ok(External {
        name: name.to_owned(),
        address: address.to_owned(),
        public_ip: overwrite.unwrap_or(address).to_owned(),
        mtu: link["mtu"].as_u64().unwrap_or(1500),
    })
}

/// What a packet grows by in the tunnel, as flannel reckons.
pub const OVERHEAD: u64 = 50;

/// A VXLAN device, as it is to be.
#[derive(Debug, Clone)]
pub struct Device {
    wanted: Vxlan,
    subnet: IpNet,
    public_ip: String,
    address: String,
    index: u64,
}

impl Device {
    /// Creates the device, or takes over one that fits. A link with the same VNI under another name is an error, as upstream.
    pub fn ensure(net_conf: &NetConf, external: &External, pod_cidr: IpNet, mac: Option<String>) -> Result<Device> {
        let backend = &net_conf.backend;
        let mac = mac.unwrap_or_else(random_mac);
        // flannel subtracts 50 for both; the kernel allows an IPv6 device 20 bytes less, as its header is longer.
        let asked = backend.overlay_mtu(external.mtu);
        let (name, mtu) = match Family::of(pod_cidr.addr()) {
            Family::V4 => (format!("flannel.{}", backend.vni), asked),
            Family::V6 => {
                (format!("flannel-v6.{}", backend.vni), asked.min(external.mtu.saturating_sub(OVERHEAD + 20)))
            }
        };
        let wanted =
            Vxlan::new(&name, backend.vni, backend.effective_port(), &external.address, &external.name, &mac, mtu);
        let address = IpNet::from(pod_cidr.network()).to_string();
        let public_ip = external.public_ip.clone();
        let mut device = Device { wanted, subnet: pod_cidr, public_ip, address, index: 0 };
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
        let existing = links::addresses(link, self.family());
        let network = net_conf.network_of(self.family());
        for other in existing.iter().filter(|other| **other != self.address) {
            let ip = other.split('/').next().and_then(|text| text.parse::<std::net::IpAddr>().ok());
            if network.zip(ip).is_some_and(|(network, ip)| network.contains(&ip)) {
                log(&format!("removed IP address {other} from {name}"));
                command::run(&["ip", "address", "delete", other, "dev", name])?;
            }
        }
        if !existing.contains(&self.address) {
            command::run(&["ip", "address", "add", &self.address, "dev", name])?;
        }
        if self.family() == Family::V6 {
            set_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
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

    /// The family that it tunnels, and tunnels in.
    pub fn family(&self) -> Family {
        Family::of(self.subnet.addr())
    }

    /// The node's pod CIDR.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The outer address that peers are told.
    pub fn public_ip(&self) -> &str {
        &self.public_ip
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
}

/// A random locally administered unicast MAC.
fn random_mac() -> String {
    use std::hash::{BuildHasher, Hasher};
    let noise = std::collections::hash_map::RandomState::new().build_hasher().finish().to_be_bytes();
    let [first, second, third, fourth, fifth, sixth, ..] = noise;
    let first = (first & 0xfe) | 0x02;
    format!("{first:02x}:{second:02x}:{third:02x}:{fourth:02x}:{fifth:02x}:{sixth:02x}")
}
