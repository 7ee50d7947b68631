//! Fault points for the crash tests.

/// Does nothing in this build.
pub fn point(_name: &str) {}
