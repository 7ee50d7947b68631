//! The named checks that stand before a switch. Pure: each takes what was observed and says what it found, what that
//! would cause and how to mend it.

mod cluster;
mod directories;
mod node;
mod pods;
mod safety;
mod scope;

pub use pods::loss;
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::remedy::Told;
use crate::request::Request;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Works, but should be known.
    Warn,
    /// Must be mended, or accepted with `--ignore`.
    Fail,
    /// Failed, and accepted with `--ignore`.
    Ignored,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, for `--ignore`.
    pub name: String,
    /// What it found.
    pub verdict: Verdict,
    /// What was found, in a sentence.
    pub found: String,
    /// How to mend it; empty where nothing is to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Check {
    pub(crate) fn pass(name: &str, found: impl Into<String>) -> Check {
        Check { name: name.into(), verdict: Verdict::Pass, found: found.into(), fix: String::new() }
    }

    pub(crate) fn warn(name: &str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name: name.into(), verdict: Verdict::Warn, found: found.into(), fix: fix.into() }
    }

    /// Where the cause brings its own remedy, that is the one that counts: it knows more.
    pub(crate) fn fail(name: &str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        let told = Told::of(&found.into());
        let fix = if told.remedies.is_empty() { fix.into() } else { told.remedies.join("; ") };
        Check { name: name.into(), verdict: Verdict::Fail, found: told.what, fix }
    }
}

/// Checks that `--ignore` cannot waive: without them there is nothing to work with.
const REQUIRED: [&str; 9] =
    ["root", "cni", "api", "prepared", "pace", "scope", "open-run", "adoptable-pods", "probe-flows"];
/// All others. Not every one is made on every node: without the API server, those about the cluster are not.
const IGNORABLE: [&str; 28] = [
    "maintenance-window",
    "other-tools",
    "clock",
    "noexec",
    "selinux",
    "fapolicyd",
    "networkmanager",
    "networkd",
    "observed",
    "disk-space",
    "cni-directories",
    "shim-package",
    "boot-units",
    "iptables-backend",
    "rp-filter",
    "runtime",
    "node-ready",
    "permissions",
    "conflist-order",
    "images",
    "agents",
    "mtu",
    "pod-cidr",
    "public-ip",
    "leftovers",
    "bare-pods",
    "local-storage",
    "disruption-budgets",
];

/// Every check, in the order in which an operator would look.
pub fn checks(facts: &Facts, request: &Request) -> Vec<Check> {
    let mut checks = vec![
        node::root(facts),
        node::observed(facts),
        node::open_run(facts),
        node::cni(facts, request),
        node::disk_space(facts),
        directories::directories(facts),
        node::shim_package(facts),
        node::boot_units(facts),
        node::firewall(facts),
        node::rp_filter(facts, request),
        cluster::api(facts),
        node::runtime(facts),
    ];
    checks.extend(safety::checks(facts, request));
    if let Some(view) = &facts.cluster {
        checks.push(cluster::node_ready(view));
        checks.push(cluster::permissions(view));
        checks.push(cluster::prepared(facts, view, request));
        checks.push(cluster::pace(view, request));
        checks.extend(scope::checks(facts, view, request));
        if let Some(Ok(prepared)) = &view.prepared {
            checks.push(node::conflist_order(facts, prepared));
            checks.push(cluster::images(facts, prepared, request));
            checks.push(node::agents(facts, request));
            checks.push(node::mtu(facts, prepared));
            checks.push(cluster::pod_cidr(view, prepared));
            checks.push(node::public_ip(facts, view, prepared));
            checks.push(node::leftovers(facts, prepared, request));
            checks.extend(pods::adoptable(facts, prepared, request));
            checks.extend(pods::flows(facts, request));
        }
        checks.extend(pods::checks(view, request));
    }
    for check in &mut checks {
        let ignorable = !REQUIRED.contains(&check.name.as_str());
        if check.verdict == Verdict::Fail && ignorable && request.ignore.contains(&check.name) {
            check.verdict = Verdict::Ignored;
        }
    }
    checks
}

/// Names given with `--ignore` that no check has, or that cannot be ignored. Whether the check is made on this node now does
/// not matter: the name may stand in a configuration file.
pub fn unknown_ignores(request: &Request) -> Vec<String> {
    request.ignore.iter().filter(|name| !IGNORABLE.contains(&name.as_str())).cloned().collect()
}

/// Names that `--ignore` takes.
pub fn ignorable() -> &'static [&'static str] {
    &IGNORABLE
}

/// Whether this is the name of a check.
pub fn is_check(name: &str) -> bool {
    REQUIRED.contains(&name) || IGNORABLE.contains(&name) || name == "staying-pods"
}

/// Whether a switch may begin.
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.verdict != Verdict::Fail)
}
