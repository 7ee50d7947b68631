//! A node's network state in normal form, to compare before and after.
