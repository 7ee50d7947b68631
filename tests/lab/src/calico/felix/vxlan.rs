//! The tunnel device, kept as it should be.

use anyhow::{Result, bail};

use crate::agent::family::Family;
use crate::agent::links::{self, AddError, Vxlan};
use crate::calico::node::startup;
use crate::command;

use super::desired::{Desired, device_name};
use super::log;

/// Creates, recreates or deletes the device.
pub fn apply(wanted: &Desired) -> Result<()> {
    if let Some(why) = &wanted.unknown_device {
        bail!("the tunnel device is not known yet: {why}");
    }
    let Some((device, address)) = &wanted.vxlan else {
        let name = device_name(wanted.family);
        if !wanted.vxlan_on && links::by_name(&links::all()?, name).is_some() {
            log(&format!("VXLAN is off, deleting {name}"));
            command::run(&["ip", "link", "delete", "dev", name])?;
        }
        return Ok(());
    };
    ensure(device)?;
    configure(device, address, wanted.family)?;
    if wanted.family == Family::V6 {
        return Ok(());
    }
    startup::write_file("/var/lib/calico/mtu", &device.mtu.to_string())
}

fn ensure(device: &Vxlan) -> Result<()> {
    let name = device.name.as_str();
    let links = links::all()?;
    let Some(found) = links::by_name(&links, name) else {
        return match device.add() {
            Ok(()) => {
                log("Created VXLAN device");
                Ok(())
            }
            // The real one takes EEXIST for a race with another creator of this very device.
            Err(AddError::Exists) => bail!("can't locate created tunnel device: Link not found"),
            Err(AddError::Other(error)) => Err(error.context("failed to create tunnel device")),
        };
    };
    let difference = match links::kind(found) {
        "vxlan" => difference(device, &links::read_vxlan(found)),
        other => Some(format!("link type: vxlan vs {other}")),
    };
    let Some(difference) = difference else { return Ok(()) };
    log(&format!("{name:?} exists with incompatible configuration: {difference}; recreating device"));
    command::run(&["ip", "link", "delete", "dev", name])?;
    match device.add() {
        Ok(()) => Ok(()),
        Err(AddError::Exists) => bail!(
            "failed to create vxlan interface {name}: file exists. Another device with this VNI may already exist"
        ),
        Err(AddError::Other(error)) => Err(error.context("failed to recreate tunnel device")),
    }
}

/// Unlike flannel, felix compares the MAC too.
fn difference(wanted: &Vxlan, found: &Vxlan) -> Option<String> {
    let by_mac = || (wanted.mac != found.mac).then(|| format!("vtep MAC: {} vs {}", wanted.mac, found.mac));
    wanted.incompatible_with(found).or_else(by_mac)
}

/// MTU, exactly one address, up.
fn configure(device: &Vxlan, address: &str, family: Family) -> Result<()> {
    let name = device.name.as_str();
    let links = links::all()?;
    let Some(found) = links::by_name(&links, name) else { bail!("{name} has gone") };
    if found["mtu"].as_u64() != Some(device.mtu) {
        command::run(&["ip", "link", "set", "dev", name, "mtu", &device.mtu.to_string()])?;
    }
    let existing = links::addresses(found, family);
    for other in existing.iter().filter(|other| *other != address) {
        log(&format!("Removing unwanted IP {other} from tunnel device"));
        command::run(&["ip", "address", "delete", other, "dev", name])?;
    }
    if !existing.iter().any(|known| known == address) {
        command::run(&["ip", "address", "add", address, "dev", name])?;
    }
    let up = found["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    if !up {
        command::run(&["ip", "link", "set", "dev", name, "up"])?;
    }
    Ok(())
}
