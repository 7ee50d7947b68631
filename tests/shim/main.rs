//! The tests of cni-shim: the real binary, real delegates (scripted ones, and Debian's plugins in namespaces of their own).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so"
)]

mod cnitool;
mod common;
mod crio;
mod entries;
mod frugal;
mod hold;
mod hostile;
mod mangled;
mod matrix_add;
mod matrix_chain;
mod matrix_del;
mod matrix_disk;
mod matrix_evidence;
mod matrix_verbs;
mod properties;
mod real;
mod strategies;
mod stress;
mod transparency;
mod verbs;
