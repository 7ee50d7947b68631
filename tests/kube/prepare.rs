//! `nodectl cluster` against an API server: what it writes, refuses, survives and puts back.

#![allow(missing_docs)]

#[path = "prepare/concurrency.rs"]
mod concurrency;
#[path = "prepare/faults.rs"]
mod faults;
#[path = "prepare/fixture.rs"]
mod fixture;
#[path = "prepare/kills.rs"]
mod kills;
#[path = "prepare/refusals.rs"]
mod refusals;
#[path = "prepare/runs.rs"]
mod runs;
#[path = "apiserver/support.rs"]
#[allow(dead_code)]
mod support;
