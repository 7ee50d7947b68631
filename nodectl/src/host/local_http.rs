//! Asking an agent's health endpoint on this host.

use std::time::Duration;

/// Whether a GET of this URL on loopback answers with success.
pub fn ready(url: &str) -> bool {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(2)))
        // The environment's proxy has no business with loopback.
        .proxy(None)
        .build();
    ureq::Agent::new_with_config(config).get(url).call().is_ok()
}
