//! The controllers that a cluster cannot do without, working directly on the API server's store.

use std::sync::Arc;

use crate::apiserver::Options;
use crate::apiserver::api::Api;

/// The running controllers.
pub struct Controllers {}

impl Controllers {
    /// Starts them.
    pub fn start(_api: Arc<Api>, _options: &Options) -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// Runs Calico's IPAM garbage collector now.
    pub fn collect_garbage(&self) {}

    /// Stops them.
    pub fn stop(&self) {}
}
