//! A node's units over its own D-Bus, from outside the node.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_stream::StreamExt;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Proxy, message};

/// The bus socket inside a node.
pub const BUS: &str = "/run/dbus/system_bus_socket";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// "loaded", "not-found", "masked".
    pub load: String,
    /// "active", "inactive", "activating", "deactivating", "failed".
    pub active: String,
    /// "running", "dead", "exited", "auto-restart", ...
    pub sub: String,
    /// "enabled", "disabled", "masked", ...
    pub file: String,
}

/// Calls one of StartUnit, StopUnit, RestartUnit and waits for the job; an error unless its result is "done".
pub fn run_job(bus: &Path, method: &str, unit: &str) -> Result<()> {
    zbus::block_on(async {
        let connection = connect(bus).await?;
        let manager = Proxy::new(&connection, SYSTEMD, MANAGER_PATH, MANAGER).await?;
        let rule =
            MatchRule::builder().msg_type(message::Type::Signal).interface(MANAGER).member("JobRemoved").build()?;
        let mut removed = MessageStream::for_match_rule(rule, &connection, None).await?;
        manager.call::<_, _, ()>("Subscribe", &()).await?;
        let job: OwnedObjectPath =
            manager.call(method, &(unit, "replace")).await.with_context(|| format!("{method} {unit} was refused"))?;
        while let Some(message) = removed.next().await {
            let message = message?;
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) = message.body().deserialize()?;
            if path != job {
                continue;
            }
            if result != "done" {
                bail!("{method} {unit} ended with the result \"{result}\"");
            }
            return Ok(());
        }
        bail!("the bus went away before {method} {unit} was done")
    })
}

/// Reads a unit's state.
pub fn state(bus: &Path, unit: &str) -> Result<UnitState> {
    zbus::block_on(async {
        let connection = connect(bus).await?;
        let manager = Proxy::new(&connection, SYSTEMD, MANAGER_PATH, MANAGER).await?;
        let path: OwnedObjectPath = manager.call("LoadUnit", &(unit,)).await?;
        let unit = Proxy::new(&connection, SYSTEMD, path, UNIT).await?;
        Ok(UnitState {
            load: unit.get_property("LoadState").await?,
            active: unit.get_property("ActiveState").await?,
            sub: unit.get_property("SubState").await?,
            file: unit.get_property("UnitFileState").await?,
        })
    })
}

/// What systemd says of the boot: "starting", "running", "degraded", ...
pub fn system_state(bus: &Path) -> Result<String> {
    zbus::block_on(async {
        let connection = connect(bus).await?;
        let manager = Proxy::new(&connection, SYSTEMD, MANAGER_PATH, MANAGER).await?;
        Ok(manager.get_property("SystemState").await?)
    })
}

/// Connects to the bus whose socket the machine sees at `bus`.
async fn connect(bus: &Path) -> Result<Connection> {
    let address = format!("unix:path={}", bus.display());
    zbus::connection::Builder::address(address.as_str())
        .method_timeout(Duration::from_secs(60))
        .build()
        .await
        .with_context(|| format!("the node's bus {} does not answer", bus.display()))
}
