//! A message bus of the node's own, with systemd's name and the part of its interface that tools use.

mod manager;
mod unit_object;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use zbus::{Connection, ObjectServer};

use super::reaper::Reaper;
use super::supervisor::Supervisor;
use super::unit_file;
use manager::Manager;
use unit_object::{ServiceObject, UnitObject};

/// Where every distribution has the system bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";
const CONFIGURATION: &str = "/run/dbus/lab.conf";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// Starts the packaged bus daemon with a configuration that lets root do all.
pub fn start_daemon(reaper: &Reaper) -> Result<()> {
    fs::write(CONFIGURATION, include_str!("dbus.conf")).context("the bus could not be configured")?;
    let argv =
        ["/usr/bin/dbus-daemon", "--nofork", "--nopidfile", "--nosyslog", &format!("--config-file={CONFIGURATION}")];
    let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
    reaper.spawn(
        &argv,
        &[],
        Path::new("/var/log/dbus-daemon.log"),
        Box::new(|code| {
            eprintln!("init: the bus daemon ended with exit code {code}");
        }),
    )?;
    let until = Instant::now() + Duration::from_secs(5);
    while UnixStream::connect(SOCKET).is_err() {
        if Instant::now() > until {
            bail!(
                "the node's bus did not come up. To fix it: install the package dbus-daemon; its words are in the node's /var/log/dbus-daemon.log"
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Takes systemd's name on the bus and answers calls from then on.
pub fn serve(supervisor: &Arc<Supervisor>) -> Result<()> {
    let manager = Manager::new(Arc::clone(supervisor));
    let supervisor = Arc::clone(supervisor);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The connection's work is done by whoever is inside block_on: this thread, for ever.
        zbus::block_on(async move {
            let address = format!("unix:path={SOCKET}");
            let built = zbus::connection::Builder::address(address.as_str())
                .serve_at(MANAGER_PATH, manager)
                .name("org.freedesktop.systemd1")
                .build()
                .await;
            match built {
                Ok(connection) => {
                    let _ = ready.send(serve_units(connection.object_server(), &supervisor).await);
                    std::future::pending::<()>().await;
                    drop(connection);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    });
    is_ready.recv().context("the bus thread ended")?.context("systemd's name could not be taken on the node's bus")
}

/// Makes the objects of all units that are known by name: systemctl asks for some without loading them first.
async fn serve_units(server: &ObjectServer, supervisor: &Arc<Supervisor>) -> zbus::Result<()> {
    for name in unit_file::names() {
        unit_path(server, supervisor, &name).await?;
    }
    Ok(())
}

/// The object path of a unit, with systemd's escaping; the object is made if it is not there yet.
async fn unit_path(
    server: &ObjectServer,
    supervisor: &Arc<Supervisor>,
    name: &str,
) -> zbus::Result<zbus::OwnedObjectPath> {
    let path = format!("{MANAGER_PATH}/unit/{}", escape(name));
    server.at(path.as_str(), UnitObject::new(Arc::clone(supervisor), name)).await?;
    server.at(path.as_str(), ServiceObject::new(Arc::clone(supervisor), name)).await?;
    Ok(zbus::ObjectPath::try_from(path)?.into())
}

/// Tells the world that a job has ended.
fn job_removed(connection: &Connection, id: u32, unit: &str, result: &str) {
    let path = job_path(id);
    let sent = zbus::block_on(connection.emit_signal(
        None::<&str>,
        MANAGER_PATH,
        "org.freedesktop.systemd1.Manager",
        "JobRemoved",
        &(id, path, unit, result),
    ));
    if let Err(error) = sent {
        eprintln!("init: the end of job {id} could not be told: {error}");
    }
}

/// The object path of a job.
fn job_path(id: u32) -> zbus::OwnedObjectPath {
    zbus::ObjectPath::try_from(format!("{MANAGER_PATH}/job/{id}")).map(Into::into).unwrap_or_default()
}

/// systemd's bus_label_escape: letters and digits stay (a leading digit does not), all else becomes _xx.
fn escape(name: &str) -> String {
    name.bytes()
        .enumerate()
        .map(|(index, byte)| match byte {
            b'0'..=b'9' if index == 0 => format!("_{byte:02x}"),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn unit_names_are_escaped_as_systemd_does() {
        assert_eq!(escape("kubelet.service"), "kubelet_2eservice");
        assert_eq!(escape("nodectl-switch@a.service"), "nodectl_2dswitch_40a_2eservice");
        assert_eq!(escape("9p.service"), "_39p_2eservice");
    }
}
