//! A unit's state while the node is on.

use super::unit_file::UnitFile;

/// A loaded unit.
#[derive(Debug, Clone)]
pub struct Unit {
    /// As written.
    pub file: UnitFile,
    /// ActiveState.
    pub active: &'static str,
    /// SubState.
    pub sub: &'static str,
    /// The main process, 0 when there is none.
    pub main_pid: i32,
    /// Result of the last run: "success" or "exit-code".
    pub result: &'static str,
    /// Exit code of the last main process.
    pub exit_code: i32,
    /// How often it was restarted by itself.
    pub restarts: u32,
    /// True while it is being stopped on purpose: its end then restarts nothing.
    pub stopping: bool,
}

impl Unit {
    /// A unit that was just loaded.
    pub fn new(file: UnitFile) -> Unit {
        Unit {
            file,
            active: "inactive",
            sub: "dead",
            main_pid: 0,
            result: "success",
            exit_code: 0,
            restarts: 0,
            stopping: false,
        }
    }

    /// Sets both states.
    pub fn set(&mut self, active: &'static str, sub: &'static str) {
        (self.active, self.sub) = (active, sub);
    }
}
