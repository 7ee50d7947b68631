//! Putting back rules that are missing.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::host::iptables;
use crate::rules::{OwnedRules, put_back};

/// Puts back what is missing of these rules, into what stands now.
pub(super) fn keep(rules: &[OwnedRules]) -> Result<Value> {
    let mut restored = 0;
    for wanted in rules {
        let now = iptables::save(wanted.backend, wanted.family)?;
        let batch = put_back(&wanted.owned, &now);
        if !batch.is_empty() {
            iptables::restore(wanted.backend, wanted.family, &batch).context("could not put back iptables rules")?;
            restored += 1;
        }
    }
    Ok(json!({ "restored": restored }))
}
