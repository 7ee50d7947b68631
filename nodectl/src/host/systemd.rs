//! systemd over D-Bus. The only place that talks to it.
//!
//! zbus is asynchronous; its small runtime on the calling thread is confined in this file.

use std::future::Future;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use zbus::Connection;
use zbus::OwnedObjectPath;

use crate::facts::Unit;
use crate::fault;

/// Where the system bus listens; without it there is no systemd to talk to.
const BUS: &str = "/run/dbus/system_bus_socket";
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(25);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn reload(&self) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait UnitObject {
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn unit_file_state(&self) -> zbus::Result<String>;
}

/// Whether there is a system bus here.
pub fn available() -> bool {
    Path::new(BUS).exists()
}

/// A unit as systemd sees it; `None` where there is no such unit, or no systemd.
pub fn unit(name: &str) -> Result<Option<Unit>> {
    if !available() {
        return Ok(None);
    }
    run(async {
        let (connection, manager) = manager().await?;
        let path = manager.load_unit(name).await?;
        let unit = UnitObjectProxy::builder(&connection).path(path).build().await?;
        if unit.load_state().await? != "loaded" {
            return Ok(None);
        }
        Ok(Some(Unit { active: unit.active_state().await?, enabled: unit.unit_file_state().await? }))
    })
    .with_context(|| format!("could not ask systemd about {name}"))
}

/// Starts a unit and waits until it is active.
pub fn start(name: &str, patience: Duration) -> Result<()> {
    fault::point("systemd.start");
    run(async { Ok(manager().await?.1.start_unit(name, "replace").await.map(drop)?) })
        .with_context(|| format!("systemd could not start {name}"))?;
    await_state(name, patience, |state| state == "active")
}

/// Stops a unit and waits until it is inactive.
pub fn stop(name: &str, patience: Duration) -> Result<()> {
    fault::point("systemd.stop");
    run(async { Ok(manager().await?.1.stop_unit(name, "replace").await.map(drop)?) })
        .with_context(|| format!("systemd could not stop {name}"))?;
    await_state(name, patience, |state| state == "inactive" || state == "failed")
}

/// The job's own signal says when it ends, but not whether a `Type=simple` unit then lives; its state says both.
fn await_state(name: &str, patience: Duration, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let end = std::time::Instant::now() + patience;
    loop {
        let state = unit(name)?.map(|u| u.active).unwrap_or_default();
        if wanted(&state) {
            return Ok(());
        }
        if std::time::Instant::now() >= end {
            bail!("{name} is {state:?} after {} s. To fix it: see `systemctl status {name}`", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Enables units.
pub fn enable(names: &[String]) -> Result<()> {
    change(names, true)
}

/// Disables units.
pub fn disable(names: &[String]) -> Result<()> {
    change(names, false)
}

fn change(names: &[String], on: bool) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    fault::point(if on { "systemd.enable" } else { "systemd.disable" });
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    run(async {
        let (_, manager) = manager().await?;
        if on {
            manager.enable_unit_files(&files, false, false).await?;
        } else {
            manager.disable_unit_files(&files, false).await?;
        }
        Ok(manager.reload().await?)
    })
    .with_context(|| format!("systemd could not {} {}", if on { "enable" } else { "disable" }, names.join(", ")))
}

/// Tells systemd what we are doing, for `systemctl status`; nothing where we are not run by a unit.
pub fn notify_status(text: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(datagram) = UnixDatagram::unbound() else { return };
    // Abstract sockets begin with "@"; services get path sockets since systemd 254 and mostly before.
    let _ = datagram.send_to(format!("STATUS={}", text.replace('\n', " ")).as_bytes(), Path::new(&socket));
}

async fn manager() -> Result<(Connection, ManagerProxy<'static>)> {
    let address = format!("unix:path={BUS}");
    let connection = zbus::connection::Builder::address(address.as_str()).method_timeout(CALL_LIMIT).build().await?;
    let proxy = ManagerProxy::new(&connection).await?;
    Ok((connection, proxy))
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    zbus::block_on(work).map_err(|e| anyhow!("{e:#}"))
}
