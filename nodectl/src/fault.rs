//! Fault points for the crash tests: every function of the adapters that changes something passes one first.
//!
//! In a normal build a point does nothing. With the feature `fault-points`, which no package has:
//! - `NODECTL_FAULT=N` kills the process by SIGKILL at the N-th point it passes, counting from 1,
//! - `NODECTL_FAULT=NAME:K` kills it at the K-th passing of the point NAME,
//! - `NODECTL_FAULT_LOG=FILE` appends the name of each point passed, so that a test can enumerate them first,
//! - `NODECTL_FAULT_RENAMES` makes this kernel one that renames devices only while they are down,
//! - `NODECTL_FAULT_PLANS` lets a saved plan through whose steps were changed, so that a test can show why their order matters.

/// Marks a place where a crash must do no lasting harm.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Marks a place where a crash must do no lasting harm.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    armed::pass(name);
}

/// Whether a saved plan may have other steps than one made now.
pub fn plans_may_be_edited() -> bool {
    cfg!(feature = "fault-points") && std::env::var_os("NODECTL_FAULT_PLANS").is_some()
}

/// Whether this kernel is to be taken for one that renames a device only while it is down.
pub fn renames_while_down() -> bool {
    cfg!(feature = "fault-points") && std::env::var_os("NODECTL_FAULT_RENAMES").is_some()
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    enum Target {
        Never,
        Nth(u64),
        Named(String, u64),
    }

    #[derive(Default)]
    struct Passed {
        all: u64,
        by_name: BTreeMap<String, u64>,
    }

    static TARGET: LazyLock<Target> = LazyLock::new(|| {
        let Ok(text) = std::env::var("NODECTL_FAULT") else {
            return Target::Never;
        };
        match text.rsplit_once(':') {
            Some((name, count)) => Target::Named(name.to_owned(), count.parse().unwrap_or(1)),
            None => text.parse().map_or(Target::Named(text, 1), Target::Nth),
        }
    });
    static PASSED: LazyLock<Mutex<Passed>> = LazyLock::new(Mutex::default);

    pub fn pass(name: &str) {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        passed.all += 1;
        let here = passed.by_name.entry(name.to_owned()).or_default();
        *here += 1;
        let reached = match &*TARGET {
            Target::Never => false,
            Target::Nth(n) => passed.all == *n,
            Target::Named(wanted, count) => wanted == name && passed.by_name[name] == *count,
        };
        log(name);
        if reached {
            // SIGKILL, not abort: a power cut runs no handler and no destructor either.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }

    fn log(name: &str) {
        let Some(file) = std::env::var_os("NODECTL_FAULT_LOG") else {
            return;
        };
        if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(file) {
            let _ = writeln!(file, "{name}");
        }
    }
}
