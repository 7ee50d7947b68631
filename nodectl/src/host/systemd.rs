//! systemd over D-Bus. The only place that talks to it.
//!
//! zbus is asynchronous; its small runtime on the calling thread is confined in this file.

use std::future::{Future, poll_fn};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use zbus::export::futures_core::Stream;
use zbus::{Connection, ObjectPath, OwnedObjectPath, Variant};

use super::run::Run;
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
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn reload(&self) -> zbus::Result<()>;
    fn subscribe(&self) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
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

/// Whether the machine is being shut down or rebooted; no where systemd cannot be asked. The one question that is left to systemctl:
/// the bus goes down with the machine, and systemd's own socket, which stays, is for systemctl alone.
pub fn is_going_down() -> bool {
    // It fails with whatever state is not "running".
    let asked = Run::new("systemctl").args(["is-system-running"]).timeout(CALL_LIMIT).output();
    asked.is_ok_and(|output| output.stdout.trim_ascii() == b"stopping")
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

/// Starts a unit and waits until its job is done: for `Type=notify` until it is ready, for `Type=simple` until it runs.
pub fn start(name: &str, patience: Duration) -> Result<()> {
    fault::point("systemd.start");
    run(job(name, patience, async |manager: &ManagerProxy<'_>| manager.start_unit(name, "replace").await))
        .with_context(|| format!("systemd could not start {name}"))
}

/// Queues a unit's start and does not wait for it; one that is being started already, or waits to be tried again, is left to it.
pub fn start_later(name: &str) -> Result<()> {
    if unit(name)?.is_some_and(|unit| unit.active == "activating") {
        return Ok(());
    }
    fault::point("systemd.start");
    run(async {
        let (_, manager) = manager().await?;
        manager.start_unit(name, "replace").await?;
        Ok(())
    })
    .with_context(|| format!("systemd could not start {name}"))
}

/// Makes a timer that lives until it has elapsed, is stopped, or the machine goes down: it starts the service of its name after so long.
pub fn start_timer(name: &str, description: &str, after: Duration, patience: Duration) -> Result<()> {
    fault::point("systemd.start");
    let microseconds = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1);
    run(job(name, patience, async |manager: &ManagerProxy<'_>| {
        let properties = [
            ("Description", Variant::from(description)),
            ("TimersMonotonic", Variant::from(vec![("OnActiveSec".to_owned(), microseconds)])),
            ("AccuracyUSec", Variant::from(1_000_000_u64)),
            ("RemainAfterElapse", Variant::from(false)),
        ];
        manager.start_transient_unit(name, "replace", &properties, &[]).await
    }))
    .with_context(|| format!("systemd could not start the timer {name}"))
}

/// Stops a unit and waits until it is stopped.
pub fn stop(name: &str, patience: Duration) -> Result<()> {
    fault::point("systemd.stop");
    run(job(name, patience, async |manager: &ManagerProxy<'_>| manager.stop_unit(name, "replace").await))
        .with_context(|| format!("systemd could not stop {name}"))
}

/// Queues a job and waits for the signal that it has ended. The subscription comes first: a job may end before the call that
/// queues it returns.
async fn job(
    name: &str,
    patience: Duration,
    queue: impl AsyncFnOnce(&ManagerProxy<'_>) -> zbus::Result<OwnedObjectPath>,
) -> Result<()> {
    let (_connection, manager) = manager().await?;
    manager.subscribe().await?;
    let mut removed = manager.receive_job_removed().await?;
    let queued = queue(&manager).await?;
    let ended = async {
        while let Some(signal) = poll_fn(|cx| Pin::new(&mut removed).poll_next(cx)).await {
            let job = signal.args()?;
            if job.job.as_str() == queued.as_str() {
                return Ok(job.result.to_owned());
            }
        }
        bail!("the connection to systemd broke")
    };
    let result: String = within(patience, ended).await?;
    // `skipped` is a unit whose conditions do not hold: nothing was wanted of it here.
    match result.as_str() {
        "done" | "skipped" => Ok(()),
        other => bail!("its job ended with {other:?}. To fix it: see `systemctl status {name}`"),
    }
}

/// The future's result, or an error once patience is at its end.
async fn within<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let end = Instant::now() + patience;
    let mut work = pin!(work);
    let mut alarm = None;
    poll_fn(|cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(Err(anyhow!("its job did not end within {} s", patience.as_secs())));
        }
        alarm.get_or_insert_with(|| wake_after(left, cx.waker().clone()));
        Poll::Pending
    })
    .await
}

/// Wakes a task later, unless the sender that is returned has been dropped by then. zbus keeps its timers to itself.
fn wake_after(delay: Duration, waker: Waker) -> Sender<()> {
    let (sender, dropped) = channel();
    std::thread::spawn(move || {
        if dropped.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
            waker.wake();
        }
    });
    sender
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
    // A leading "@" stands for the zero byte of an abstract socket.
    let address = match socket.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&socket),
    };
    if let Ok(address) = address {
        let _ = datagram.send_to_addr(format!("STATUS={}", text.replace('\n', " ")).as_bytes(), &address);
    }
}

async fn manager() -> Result<(Connection, ManagerProxy<'static>)> {
    if !available() {
        bail!("there is no system bus at {BUS}. To fix it: use systemctl by hand, or start dbus");
    }
    let address = format!("unix:path={BUS}");
    let connection = zbus::connection::Builder::address(address.as_str()).method_timeout(CALL_LIMIT).build().await?;
    let proxy = ManagerProxy::new(&connection).await?;
    Ok((connection, proxy))
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    zbus::block_on(work)
}
