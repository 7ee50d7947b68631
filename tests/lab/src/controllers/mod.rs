//! The controllers that a cluster cannot do without, working directly on the API server's store.
