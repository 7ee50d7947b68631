//! The demonstration: three nodes moved one by one under traffic.
