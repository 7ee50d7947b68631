//! PID 1 of a light node.
