//! Checks of what the API server says about this node.

use super::Check;
use crate::cni::{CALICO_MIGRATION_LABEL, Cni, NODE_LABEL, PACE_ALLOWED, PACE_ANNOTATION};
use crate::facts::{ClusterView, Facts};
use crate::prepared::Prepared;
use crate::request::Request;

pub(super) fn api(facts: &Facts) -> Check {
    match &facts.cluster {
        Some(view) => Check::pass("api", format!("the API server answers to this node's own identity ({})", view.node)),
        None => Check::fail(
            "api",
            format!(
                "the API server could not be asked with this node's identity: {}",
                facts.unobserved.get("cluster").map_or("no kubelet kubeconfig was found", String::as_str)
            ),
            "see that kubelet runs and is connected; only the `nodectl revert` of a run that is still open works without the API server",
        ),
    }
}

pub(super) fn node_ready(view: &ClusterView) -> Check {
    match view.conditions.get("Ready") {
        Some((status, _)) if status == "True" => Check::pass("node-ready", "the Node is Ready"),
        Some((status, reason)) => Check::fail(
            "node-ready",
            format!("the Node's Ready condition is {status} ({reason})"),
            "mend the node first: a switch starts from a node that works",
        ),
        None => Check::fail("node-ready", "the Node has no Ready condition", "see that kubelet runs"),
    }
}

/// Asked with dryRun=All: admission refuses what access reviews allow.
pub(super) fn permissions(view: &ClusterView) -> Check {
    match &view.refused {
        None => Check::warn("permissions", "the server was not asked", "run preflight on the node itself"),
        Some(refused) if refused.is_empty() => {
            Check::pass("permissions", "the server allows the label, the cordon and the condition (asked with dryRun)")
        }
        Some(refused) => {
            let list: Vec<String> = refused.iter().map(|(what, why)| format!("{what}: {why}")).collect();
            Check::fail(
                "permissions",
                format!("the server refuses this node's identity: {}", list.join("; ")),
                "see admission webhooks and authorization of group system:nodes",
            )
        }
    }
}

/// Present, readable, not stale, and the labels that go with it.
pub(super) fn prepared(facts: &Facts, view: &ClusterView, request: &Request) -> Check {
    // `cluster finish` took the preparation away, and flannel with it: preparing again is not to be had.
    let finished = request.to == Cni::Flannel && view.prepared.is_none() && !view.labels.contains_key(NODE_LABEL);
    let fix = match finished {
        true => {
            "run `nodectl cluster prepare` with an admin kubeconfig; where `nodectl cluster finish` has taken flannel out of \
             the cluster there is no way back to it"
        }
        false => "run `nodectl cluster prepare` with an admin kubeconfig",
    };
    let prepared = match &view.prepared {
        None => {
            return Check::fail(
                "prepared",
                "this node is not prepared: the annotation nodectl.io/prepared is absent",
                fix,
            );
        }
        Some(Err(why)) => {
            return Check::fail("prepared", format!("the annotation nodectl.io/prepared cannot be used: {why}"), fix);
        }
        Some(Ok(prepared)) => prepared,
    };
    let age_h = prepared
        .prepared_at
        .parse::<jiff::Timestamp>()
        .map(|at| (facts.observed_at - at.as_second()) / 3600)
        .unwrap_or(i64::MAX);
    if age_h > i64::try_from(request.prepared_max_age_h).unwrap_or(i64::MAX) {
        return Check::fail(
            "prepared",
            format!(
                "this node was prepared at {:?}, more than {} hours ago",
                prepared.prepared_at, request.prepared_max_age_h
            ),
            "run `nodectl cluster prepare` again: it refreshes what has changed since",
        );
    }
    if !view.labels.contains_key(NODE_LABEL) {
        return Check::fail("prepared", format!("the label {NODE_LABEL} is absent from this Node"), fix);
    }
    match view.labels.get(CALICO_MIGRATION_LABEL).map(String::as_str) {
        None | Some("calico") => Check::fail(
            "prepared",
            format!(
                "the label {CALICO_MIGRATION_LABEL} is {}: Calico's garbage collector would give away this node's address blocks",
                view.labels.get(CALICO_MIGRATION_LABEL).map_or("absent", |_| "`calico`")
            ),
            fix,
        ),
        Some(_) => Check::pass("prepared", format!("prepared at {} by {}", prepared.prepared_at, prepared.prepared_by)),
    }
}

/// Whether this node may begin now, where the roll has a pace. The way back is always free.
pub(super) fn pace(view: &ClusterView, request: &Request) -> Check {
    match view.annotations.get(PACE_ANNOTATION).map(String::as_str) {
        None => Check::pass("pace", "this node may be switched when it is told to"),
        Some(_) if request.to == Cni::Flannel => Check::pass("pace", "the way back needs no leave"),
        Some(PACE_ALLOWED) => Check::pass("pace", "this node is allowed to begin"),
        Some(word) => Check::fail(
            "pace",
            format!("this node is not allowed to begin yet ({PACE_ANNOTATION}: {word})"),
            format!(
                "nodectl cluster allow {} (with an admin kubeconfig), or let migrate wait for it with --when-allowed",
                view.node
            ),
        ),
    }
}

/// An image that has to be pulled while the node has no network of its own may never come.
pub(super) fn images(facts: &Facts, prepared: &Prepared, request: &Request) -> Check {
    let wanted = &prepared.agent(request.to).images;
    let Some(runtime) = &facts.runtime else {
        return Check::warn(
            "images",
            "the runtime does not answer, so its images are unknown",
            "see the check `runtime`",
        );
    };
    let missing: Vec<&String> = wanted.iter().filter(|image| !holds(&runtime.images, image)).collect();
    if missing.is_empty() {
        return Check::pass("images", format!("the {} images of {} are on this node", wanted.len(), request.to));
    }
    let list = missing.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    let pulls: Vec<String> = missing.iter().map(|i| format!("crictl pull {i}")).collect();
    Check::fail("images", format!("not on this node yet: {list}"), pulls.join(" && "))
}

/// Runtimes list normalised names: `docker.io/library/x:latest` for `x`.
fn holds(images: &[String], wanted: &str) -> bool {
    let name = wanted.rsplit('/').next().unwrap_or(wanted);
    let repository = &wanted[..wanted.len() - name.len()];
    // With a digest, the tag beside it is for people: runtimes list `repository@digest`.
    let tagged = match name.split_once('@') {
        Some((tagged, digest)) => format!("{repository}{}@{digest}", tagged.split(':').next().unwrap_or(tagged)),
        None if name.contains(':') => wanted.to_owned(),
        None => format!("{wanted}:latest"),
    };
    let tagged = tagged.strip_prefix("index.docker.io/").map_or(tagged.clone(), |t| format!("docker.io/{t}"));
    let prefixes = ["", "docker.io/", "docker.io/library/"];
    images.iter().any(|have| prefixes.iter().any(|p| have.strip_prefix(p) == Some(tagged.as_str())))
}

pub(super) fn pod_cidr(view: &ClusterView, prepared: &Prepared) -> Check {
    const NAME: &str = "pod-cidr";
    let mut known = Vec::new();
    for half in prepared.halves() {
        match view.pod_cidrs.iter().find(|c| c.addr().is_ipv6() == half.is_ipv6()) {
            Some(cidr) if *cidr == half.pod_cidr => known.push(cidr.to_string()),
            Some(cidr) => {
                return Check::fail(
                    NAME,
                    format!("this Node's pod CIDR is {cidr}, prepare recorded {}", half.pod_cidr),
                    "run `nodectl cluster prepare` again",
                );
            }
            None => {
                return Check::fail(
                    NAME,
                    format!("this Node has no {} pod CIDR", if half.is_ipv6() { "IPv6" } else { "IPv4" }),
                    "see that kube-controller-manager runs with --allocate-node-cidrs",
                );
            }
        }
    }
    Check::pass(NAME, format!("{}, as prepared", known.join(" and ")))
}
