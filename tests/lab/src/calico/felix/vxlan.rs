//! vxlan.calico, kept as it should be.

use anyhow::{Result, bail};

use crate::agent::links::{self, AddError, Vxlan};
use crate::calico::node::startup;
use crate::command;

use super::desired::{DEVICE, Desired};
use super::log;

/// Creates, recreates or deletes the device.
pub fn apply(wanted: &Desired) -> Result<()> {
    if let Some(why) = &wanted.unknown_device {
        bail!("the tunnel device is not known yet: {why}");
    }
    let Some((device, address)) = &wanted.vxlan else {
        if !wanted.vxlan_on && links::by_name(&links::all()?, DEVICE).is_some() {
            log("VXLAN is off, deleting vxlan.calico");
            command::run(&["ip", "link", "delete", "dev", DEVICE])?;
        }
        return Ok(());
    };
    ensure(device)?;
    configure(device, address)?;
    startup::write_file("/var/lib/calico/mtu", &device.mtu.to_string())
}

fn ensure(device: &Vxlan) -> Result<()> {
    let links = links::all()?;
    let Some(found) = links::by_name(&links, DEVICE) else {
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
    log(&format!("{DEVICE:?} exists with incompatible configuration: {difference}; recreating device"));
    command::run(&["ip", "link", "delete", "dev", DEVICE])?;
    match device.add() {
        Ok(()) => Ok(()),
        Err(AddError::Exists) => bail!(
            "failed to create vxlan interface {DEVICE}: file exists. Another device with this VNI may already exist"
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
fn configure(device: &Vxlan, address: &str) -> Result<()> {
    let links = links::all()?;
    let Some(found) = links::by_name(&links, DEVICE) else { bail!("{DEVICE} has gone") };
    if found["mtu"].as_u64() != Some(device.mtu) {
        command::run(&["ip", "link", "set", "dev", DEVICE, "mtu", &device.mtu.to_string()])?;
    }
    let existing = links::addresses_v4(found);
    for other in existing.iter().filter(|other| *other != address) {
        log(&format!("Removing unwanted IP {other} from tunnel device"));
        command::run(&["ip", "address", "delete", other, "dev", DEVICE])?;
    }
    if !existing.iter().any(|known| known == address) {
        command::run(&["ip", "address", "add", address, "dev", DEVICE])?;
    }
    let up = found["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    if !up {
        command::run(&["ip", "link", "set", "dev", DEVICE, "up"])?;
    }
    Ok(())
}
