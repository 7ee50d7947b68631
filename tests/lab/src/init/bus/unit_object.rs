//! org.freedesktop.systemd1.Unit and org.freedesktop.systemd1.Service: what a unit is doing.

use std::sync::Arc;

use zbus::interface;

use crate::init::supervisor::{Refusal, Supervisor};
use crate::init::unit::Unit;

/// What all units have.
pub struct UnitObject {
    supervisor: Arc<Supervisor>,
    name: String,
}

/// What services have besides.
pub struct ServiceObject {
    supervisor: Arc<Supervisor>,
    name: String,
}

impl UnitObject {
    /// The object of one unit.
    pub fn new(supervisor: Arc<Supervisor>, name: &str) -> UnitObject {
        UnitObject { supervisor, name: name.to_owned() }
    }

    /// The unit, if there is one.
    fn unit(&self) -> Option<Unit> {
        self.supervisor.load(&self.name).ok()
    }
}

impl ServiceObject {
    /// The object of one service.
    pub fn new(supervisor: Arc<Supervisor>, name: &str) -> ServiceObject {
        ServiceObject { supervisor, name: name.to_owned() }
    }

    /// The unit, if there is one.
    fn unit(&self) -> Option<Unit> {
        self.supervisor.load(&self.name).ok()
    }
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.name.clone()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn description(&self) -> String {
        self.unit().map(|unit| unit.file.description).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> String {
        match self.supervisor.load(&self.name) {
            Ok(_) => "loaded",
            Err(Refusal::Masked(_)) => "masked",
            Err(Refusal::NoSuchUnit(_)) => "not-found",
        }
        .to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> String {
        self.unit().map_or("inactive", |unit| unit.active).to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn sub_state(&self) -> String {
        self.unit().map_or("dead", |unit| unit.sub).to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn unit_file_state(&self) -> String {
        self.supervisor.file_state(&self.name).to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn need_daemon_reload(&self) -> bool {
        false
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn before(&self) -> Vec<String> {
        self.unit().map(|unit| unit.file.before).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn after(&self) -> Vec<String> {
        self.unit().map(|unit| unit.file.after).unwrap_or_default()
    }
}

#[interface(name = "org.freedesktop.systemd1.Service")]
impl ServiceObject {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.unit().and_then(|unit| u32::try_from(unit.main_pid).ok()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"), name = "NRestarts")]
    fn restarts(&self) -> u32 {
        self.unit().map(|unit| unit.restarts).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> String {
        self.unit().map_or("success", |unit| unit.result).to_owned()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> i32 {
        self.unit().map(|unit| unit.exit_code).unwrap_or_default()
    }
}
