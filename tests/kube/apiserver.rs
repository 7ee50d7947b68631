//! The lab's API server against what was measured of the real one.

#![allow(missing_docs)]

#[path = "apiserver/controllers.rs"]
mod controllers;
#[path = "apiserver/faults.rs"]
mod faults;
#[path = "apiserver/node_rights.rs"]
mod node_rights;
#[path = "apiserver/objects.rs"]
mod objects;
#[path = "apiserver/support.rs"]
mod support;
#[path = "apiserver/watches.rs"]
mod watches;
