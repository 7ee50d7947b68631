//! Re-plumbing a pod while it runs: from a port of flannel's bridge to a Calico interface and back, at the same address and
//! without a lost packet.
//!
//! [`read`] looks at a pod's network, [`to_calico`] and [`to_flannel`] decide (pure: lists of kernel operations), [`operation`]
//! carries them out. The order is the point: after every single operation, everything still forwards.
//!
//! Three sweeps over all pods of a node, each finished for all before the next begins, since a pod that has left the bridge
//! reaches those on it only by way of the host:
//! 1. *guide*: the host reaches the pod by a route of its own over the pod's interface, still a port of the bridge;
//! 2. *turn*: the pod reaches everything by way of the host, at Calico's gateway address;
//! 3. *detach*: the interface leaves the bridge and gets the name that felix looks for.
//!
//! Back, the same in reverse: *attach*, *unturn*, *unguide*.

pub mod chained;
pub mod claim;
pub mod lease;
pub mod operation;
pub mod pod;
pub mod read;
pub mod to_calico;
pub mod to_flannel;

mod detour;
mod host_side;

pub use operation::{At, Operation, Place, carry_out};
pub use pod::{PodNetwork, Way};

/// The MAC of every Calico interface on the host.
pub const CALICO_MAC: &str = "ee:ee:ee:ee:ee:ee";
