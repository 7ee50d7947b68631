//! Being told to stop.
