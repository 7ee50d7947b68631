//! The container runtime of light nodes.
