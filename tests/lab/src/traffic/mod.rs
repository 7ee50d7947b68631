//! Probes between pods: loss and longest gap per pair.
