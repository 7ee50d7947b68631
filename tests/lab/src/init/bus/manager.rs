//! org.freedesktop.systemd1.Manager.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use zbus::object_server::ResponseDispatchNotifier;
use zbus::{Connection, DBusError, ObjectServer, OwnedObjectPath, interface};

use super::{job_path, job_removed, unit_path};
use crate::init::boot::wants_link;
use crate::init::jobs;
use crate::init::supervisor::{JobKind, Refusal, Supervisor};
use crate::init::unit_file::{self, Found};

/// What systemd answers when it cannot.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
pub enum Error {
    /// Anything of the bus itself.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// There is no such unit.
    NoSuchUnit(String),
    /// It is masked.
    UnitMasked(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::NoSuchUnit(name) => Error::NoSuchUnit(format!("Unit {name} not found.")),
            Refusal::Masked(name) => Error::UnitMasked(format!("Unit {name} is masked.")),
        }
    }
}

/// A change to a unit file: ("symlink" or "unlink", the link, what it points to).
type Change = (String, String, String);

/// The answer to a job request, which the job itself must not overtake.
type JobReply = ResponseDispatchNotifier<OwnedObjectPath>;

/// The manager object.
pub struct Manager {
    supervisor: Arc<Supervisor>,
}

impl Manager {
    /// The manager of these units.
    pub fn new(supervisor: Arc<Supervisor>) -> Manager {
        Manager { supervisor }
    }

    /// Queues a job and runs it once the answer has been sent: JobRemoved never comes before the job's path.
    fn submit(&self, kind: JobKind, unit: &str, connection: &Connection) -> Result<JobReply, Error> {
        let id = jobs::queue(&self.supervisor, kind, unit)?;
        let (reply, sent) = ResponseDispatchNotifier::new(job_path(id));
        let (supervisor, connection) = (Arc::clone(&self.supervisor), connection.clone());
        std::thread::spawn(move || {
            zbus::block_on(sent);
            jobs::run(&supervisor, id, move |unit, result| job_removed(&connection, id, unit, result));
        });
        Ok(reply)
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn start_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<JobReply, Error> {
        self.submit(JobKind::Start, name, connection)
    }

    async fn stop_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<JobReply, Error> {
        self.submit(JobKind::Stop, name, connection)
    }

    async fn restart_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<JobReply, Error> {
        self.submit(JobKind::Restart, name, connection)
    }

    async fn try_restart_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<JobReply, Error> {
        let runs = self.supervisor.load(name)?.active == "active";
        // A unit that does not run stays so; the job still exists, and is done at once.
        self.submit(if runs { JobKind::Restart } else { JobKind::Stop }, name, connection)
    }

    async fn load_unit(
        &self,
        name: &str,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<OwnedObjectPath, Error> {
        // LoadUnit answers for any name; the object then says "not-found".
        Ok(unit_path(server, &self.supervisor, name).await?)
    }

    async fn get_unit(
        &self,
        name: &str,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<OwnedObjectPath, Error> {
        if !self.supervisor.lock().units.contains_key(name) {
            return Err(Error::NoSuchUnit(format!("Unit {name} not loaded.")));
        }
        Ok(unit_path(server, &self.supervisor, name).await?)
    }

    async fn get_unit_file_state(&self, file: &str) -> Result<String, Error> {
        match self.supervisor.file_state(file) {
            "" => Err(Error::NoSuchUnit(format!("Unit file {file} does not exist."))),
            state => Ok(state.to_owned()),
        }
    }

    async fn subscribe(&self) {}

    async fn unsubscribe(&self) {}

    async fn reload(&self, #[zbus(object_server)] server: &ObjectServer) -> Result<(), Error> {
        Ok(super::serve_units(server, &self.supervisor).await?)
    }

    async fn reset_failed_unit(&self, name: &str) {
        self.supervisor.change(name, |unit| {
            if unit.active == "failed" {
                unit.set("inactive", "dead");
            }
        });
    }

    async fn enable_unit_files(
        &self,
        files: Vec<String>,
        _runtime: bool,
        _force: bool,
    ) -> Result<(bool, Vec<Change>), Error> {
        let mut changes = Vec::new();
        for name in files.iter().map(|file| base_name(file)) {
            for target in targets(name)? {
                let link = wants_link(&target, name);
                if link.symlink_metadata().is_ok() {
                    continue;
                }
                let points_to = format!("/etc/systemd/system/{name}");
                fs::create_dir_all(link.parent().unwrap_or(&link)).map_err(failure)?;
                std::os::unix::fs::symlink(&points_to, &link).map_err(failure)?;
                changes.push(("symlink".to_owned(), link.display().to_string(), points_to));
            }
        }
        Ok((true, changes))
    }

    async fn disable_unit_files(&self, files: Vec<String>, _runtime: bool) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for name in files.iter().map(|file| base_name(file)) {
            for target in targets(name)? {
                let link = wants_link(&target, name);
                if fs::remove_file(&link).is_ok() {
                    changes.push(("unlink".to_owned(), link.display().to_string(), String::new()));
                }
            }
        }
        Ok(changes)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        "252 (the lab's stand-in)".to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> String {
        let failed = self.supervisor.lock().units.values().any(|unit| unit.active == "failed");
        if failed { "degraded" } else { "running" }.to_owned()
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// The targets that want a unit when it is enabled.
fn targets(name: &str) -> Result<Vec<String>, Error> {
    match unit_file::find(name) {
        Found::Unit(file) => Ok(file.wanted_by),
        Found::Masked => Err(Refusal::Masked(name.to_owned()).into()),
        Found::Nothing => Err(Refusal::NoSuchUnit(name.to_owned()).into()),
    }
}

/// A unit may be named by its file's path.
fn base_name(file: &str) -> &str {
    Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file)
}

/// An error of the file system as one of the bus.
fn failure(error: std::io::Error) -> Error {
    Error::ZBus(zbus::Error::Failure(error.to_string()))
}
