//! nodectl switches the network of a running Kubernetes node between flannel and Calico.
//!
//! Data flows one way: observe ([`observe`]) into plain [`facts`], decide ([`preflight`], [`plan`]) purely, execute
//! ([`execute`], [`act`]) with a write-ahead [`journal`], look again and [`verify`], [`report`].

pub mod act;
pub mod adopt;
pub mod bundle;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod cni;
pub mod command;
pub mod config;
/// Container Runtime Interface v1, generated from proto/cri.proto.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::disallowed_methods)]
pub mod cri_proto {
    tonic::include_proto!("runtime.v1");
}
pub mod doctor;
pub mod events;
pub mod execute;
pub mod facts;
pub mod failure;
pub mod fault;
pub mod host;
pub mod journal;
pub mod observe;
pub mod ownership;
pub mod plan;
pub mod preflight;
pub mod prepared;
pub mod probe;
pub mod reap;
pub mod remedy;
pub mod remove;
pub mod report;
pub mod request;
pub mod rules;
pub mod run;
pub mod run_note;
pub mod shim;
pub mod step;
pub mod stop;
pub mod unsynced;
pub mod variant;
pub mod verify;
pub mod window;
