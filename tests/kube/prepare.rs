//! `nodectl cluster` against an API server: what it writes, refuses, survives and puts back.

#![allow(missing_docs)]

#[path = "prepare/canal.rs"]
mod canal;
#[path = "prepare/concurrency.rs"]
mod concurrency;
#[path = "prepare/dual_stack.rs"]
mod dual_stack;
#[path = "prepare/faults.rs"]
mod faults;
#[path = "prepare/fixture.rs"]
mod fixture;
#[path = "prepare/fleet.rs"]
mod fleet;
#[path = "prepare/kills.rs"]
mod kills;
#[path = "prepare/known_faults.rs"]
mod known_faults;
#[path = "prepare/manifests.rs"]
mod manifests;
#[path = "prepare/pace.rs"]
mod pace;
#[path = "prepare/policies.rs"]
mod policies;
#[path = "prepare/refusals.rs"]
mod refusals;
#[path = "prepare/runs.rs"]
mod runs;
#[path = "prepare/status.rs"]
mod status;
#[path = "apiserver/support.rs"]
#[allow(dead_code)]
mod support;
