//! One interface to both kinds of node.
