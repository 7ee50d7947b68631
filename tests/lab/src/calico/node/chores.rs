//! What calico-node does beside felix: the CNI plugin's token, the tunnel address, the Node condition. None of it may hold felix up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::agent::api::Api;
use crate::agent::{self, condition, env, health};
use crate::calico::token;

use super::{log, tunnel};

/// Starts the thread.
pub fn start(api: Arc<dyn Api>, node: &str, ready: health::Flag) {
    let mut chores = Chores::new(api, node, ready);
    std::thread::spawn(move || {
        loop {
            chores.turn();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

struct Chores {
    api: Arc<dyn Api>,
    node: String,
    ready: health::Flag,
    told_up: bool,
    manages_cni: bool,
    policy_only: bool,
    next_token: Instant,
    next_tunnel: Instant,
}

impl Chores {
    fn new(api: Arc<dyn Api>, node: &str, ready: health::Flag) -> Chores {
        let now = Instant::now();
        let manages_cni = env("CALICO_MANAGE_CNI").is_none_or(|value| value != "false");
        Chores {
            api,
            node: node.to_owned(),
            ready,
            told_up: false,
            manages_cni,
            policy_only: super::is_policy_only(),
            next_token: now,
            next_tunnel: now,
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if self.manages_cni && now >= self.next_token {
            self.refresh_token();
        }
        if !self.policy_only && now >= self.next_tunnel {
            if let Err(error) = tunnel::ensure_all(self.api.as_ref(), &self.node) {
                log(&format!("the tunnel address could not be checked: {error:#}"));
            }
            self.next_tunnel = Instant::now() + Duration::from_secs(5);
        }
        if !self.policy_only && !self.told_up && self.ready.load(Ordering::SeqCst) {
            let message = "Calico is running on this node";
            match condition::set_network_unavailable(self.api.as_ref(), &self.node, false, "CalicoIsUp", message) {
                Ok(()) => self.told_up = true,
                Err(error) => log(&format!("Unable to set NetworkUnavailable to False: {error}")),
            }
        }
    }

    /// The real one renews after a quarter of what is left of 24 hours, with jitter, and retries after 5 s.
    fn refresh_token(&mut self) {
        let pause = match token::write(self.api.as_ref(), &agent::kubeconfig::path("calico-node")) {
            Ok(()) => agent::env_number("LAB_TOKEN_REFRESH_SECONDS", 6 * 3600).unwrap_or(6 * 3600),
            Err(error) => {
                log(&format!("Failed to update CNI token file: {error:#}"));
                5
            }
        };
        self.next_token = Instant::now() + Duration::from_secs(pause);
    }
}
