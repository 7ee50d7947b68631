//! `nodectl shim retire`: refused while anything needs the shim, journalled, resumable and revertible, and afterwards the node
//! equals one that never had it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so")]

use anyhow::{Context, Result, ensure};
use cni_spec::chain::DelList;
use cni_store::pending::Pending;
use cni_store::record::Record;
use cni_store::state::{Backend, State};
use nodectl_lab::cluster::until;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, PATIENCE, Scenario};
use nodectl_lab::snapshot::Snapshot;
use serde_json::json;

const RETIRE: [&str; 3] = ["shim", "retire", "--yes"];
const CONFLIST: &str = "/etc/cni/net.d/00-cni-shim.conflist";

fn scenario() -> Result<Scenario> {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {})?;
    scenario.prepare()?;
    Ok(scenario)
}

/// The shim's files on node 1, seen from here.
fn paths(s: &Scenario) -> Result<cni_store::Paths> {
    Ok(cni_store::Paths::under(s.node(1)?.path("/")?))
}

/// Every trace of the shim on node 1 where CNI keeps things.
fn traces(s: &Scenario) -> Result<String> {
    s.node(1)?.sh(
        "ls -d /var/lib/cni-shim /opt/cni/bin/cni-shim 2>/dev/null || true; ls -A /etc/cni/net.d | grep -i shim || true; \
         for f in /var/lib/cni/results/*; do \
             if jq -r '.config // \"\"' $f | base64 -d 2>/dev/null | grep -q cni-shim; then echo $f; fi; done",
    )
}

/// Without the shim the pods' results stand under the CNI's own name; and what is deleted now leaves nothing.
fn native(s: &Scenario, network: &str) -> Result<()> {
    ensure!(traces(s)?.is_empty(), "traces of the shim: {}", traces(s)?);
    let results = s.node(1)?.sh("ls /var/lib/cni/results | grep -v ^cni-loopback || true")?;
    ensure!(!results.is_empty() && results.lines().all(|name| name.starts_with(network)), "{results}");
    s.spread_pods()?;
    s.must_leave_nothing()?;
    s.must_be_whole().map(drop)
}

#[test]
fn row_29_the_shim_stays_while_anything_needs_it() -> Result<()> {
    let mut s = scenario()?;
    let nothing = s.nodectl(1, &RETIRE)?.expect(0)?;
    ensure!(nothing.stdout.starts_with("Nothing to do"), "{}", nothing.all());
    s.migrate(1, Cni::Calico)?;
    s.spread_pods()?;
    let paths = paths(&s)?;
    let whole = Record::list(&paths)?.0;
    ensure!(!whole.is_empty(), "no pod came back to the node");
    let first = whole.first().context("a record")?;
    let pod = first.pod.clone().context("its pod")?;
    let name = format!("{}/{}", pod.namespace, pod.name);
    let refused = |s: &Scenario, words: &str| -> Result<()> {
        let done = s.nodectl(1, &RETIRE)?;
        ensure!(done.code == 3 && done.stderr.contains(words) && done.stderr.contains("To fix it: "), "{}", done.all());
        ensure!(!traces(s)?.is_empty() && s.nodectl(1, &["shim", "status"])?.stdout.contains("not yet:"));
        Ok(())
    };
    // An adopted pod: Calico's list, and flannel's portmap, which Calico's network would not delete.
    let list = first.del.first().context("its list")?.clone();
    let portmap =
        DelList { network: "cbr0".into(), plugins: list.plugins.last().cloned().into_iter().collect(), ..list.clone() };
    Record { del: vec![list.clone(), portmap.clone()], ..first.clone() }.store(&paths, true)?;
    refused(&s, &name)?;
    // A pod that the other CNI made.
    Record { del: vec![portmap], backend: Backend::Flannel, ..first.clone() }.store(&paths, true)?;
    refused(&s, &name)?;
    first.store(&paths, true)?;
    let error = cni_spec::Error::new(11, "later", "");
    Pending::note(&paths, "gone", "eth0", None, &error)?;
    refused(&s, "1 DEL still to be done")?;
    s.nodectl(1, &["shim", "reap"])?.expect(0)?;
    std::fs::write(paths.record("torn", "eth0"), "{")?;
    refused(&s, "1 record cannot be read")?;
    std::fs::remove_file(paths.record("torn", "eth0"))?;
    first.remove(&paths)?;
    refused(&s, "records of 1 attachment are lost")?;
    first.store(&paths, true)?;
    // What is shown is what would be done; and nothing is.
    let plan = s.nodectl(1, &["shim", "retire", "--dry-run", "--output", "json"])?.expect(0)?.json()?;
    let steps: Vec<_> = plan["plan"]["steps"].as_array().into_iter().flatten().map(|step| &step["step"]).collect();
    let removals = ["remove-shim-conflist", "hand-over-attachments", "remove-shim-binary", "remove-shim-state"];
    ensure!(removals.iter().all(|step| steps.contains(&&json!(step))), "{plan}");
    ensure!(Record::list(&paths)?.0 == whole && !traces(&s)?.is_empty());
    ensure!(s.nodectl(1, &["shim", "retire"])?.code == 64, "nobody was asked");
    // Without the API server: nothing of this needs it.
    s.cluster.api()?.kill();
    s.nodectl(1, &RETIRE)?.expect(0)?;
    s.restart_api()?;
    s.must_be_on(1, Cni::Calico)?;
    native(&s, "k8s-pod-network-")?;
    let history = s.nodectl(1, &["history"])?.expect(0)?.stdout;
    ensure!(history.contains("shim retired"), "{history}");
    // The way back is that of the switch before it, with the shim put in front again.
    s.nodectl(1, &["revert", "--yes"])?.expect(0)?;
    s.must_be_on(1, Cni::Flannel)?;
    s.settled()
}

#[test]
fn afterwards_the_node_equals_one_that_never_had_the_shim() -> Result<()> {
    let s = scenario()?;
    // Calico's installer has brought its own builds of the common plugins, which stay.
    let others = |_: &str, line: &str| {
        line.contains("/var/lib/nodectl") || line.contains("/opt/cni/bin/") && !line.contains("cni-shim")
    };
    let state = || -> Result<Snapshot> { Ok(s.state(1)?.without(others)) };
    let before = state()?;
    s.migrate(1, Cni::Calico)?;
    s.nodectl(1, &["revert", "--yes"])?.expect(0)?;
    s.must_be_on(1, Cni::Flannel)?;
    s.spread_pods()?;
    s.nodectl(1, &RETIRE)?.expect(0)?;
    s.must_be_on(1, Cni::Flannel)?;
    native(&s, "cbr0-")?;
    until(PATIENCE, || {
        let differences = before.diff(&state()?);
        Ok((!differences.is_empty()).then(|| differences.join("\n")))
    })
}

/// Puts the shim in front again, as a switch's first steps do, without the time that a switch takes.
fn put_in_front(s: &Scenario, conflist: &str) -> Result<()> {
    let node = s.node(1)?;
    node.sh("cp /usr/libexec/nodectl/cni-shim /opt/cni/bin/cni-shim")?;
    State::routed(Backend::Calico).store(&paths(s)?)?;
    std::fs::write(node.path(CONFLIST)?, conflist)?;
    // Pods of now get records by being made anew.
    s.spread_pods()
}

#[test]
fn killed_at_any_point_it_is_finished_or_taken_back() -> Result<()> {
    let s = scenario()?;
    s.migrate(1, Cni::Calico)?;
    s.spread_pods()?;
    let conflist = std::fs::read_to_string(s.node(1)?.path(CONFLIST)?)?;
    let points = s.fault_points(1, |env| s.nodectl_with(1, &RETIRE, env))?;
    native(&s, "k8s-pod-network-")?;
    for (i, n) in Sample::from_environment().of(points.len(), 5).into_iter().enumerate() {
        let what = format!("point {n} of {}, {}", points.len(), points[n - 1]);
        println!("{what}");
        put_in_front(&s, &conflist).with_context(|| what.clone())?;
        let records = Record::list(&paths(&s)?)?.0.len();
        ensure!(records > 0, "{what}: no pod came back");
        s.dies_at(1, &RETIRE, &n.to_string()).with_context(|| what.clone())?;
        let open = s.node(1)?.path("/var/lib/nodectl/open")?.exists();
        let args: &[&str] = match (open, i % 2) {
            (false, _) => &RETIRE,
            (true, 0) => &["resume", "--yes"],
            (true, _) => &["revert", "--yes"],
        };
        s.nodectl(1, args)?.expect(0).with_context(|| what.clone())?;
        if args[0] == "revert" && !traces(&s)?.is_empty() {
            let status = s.nodectl(1, &["shim", "status", "--output", "json"])?.expect(0)?.json()?;
            ensure!(
                status["shim"]["attachments"].as_array().is_some_and(|all| all.len() == records),
                "{what}: {status}"
            );
            ensure!(status["needed_for"] == json!([]), "{what}: {status}");
            s.nodectl(1, &RETIRE)?.expect(0).with_context(|| what.clone())?;
        }
        native(&s, "k8s-pod-network-").with_context(|| what.clone())?;
    }
    s.must_be_on(1, Cni::Calico)
}

/// The order of a roll-out: by then the cluster has taken its label and annotation off the Node.
#[test]
fn after_the_cluster_is_finished_the_shim_can_go() -> Result<()> {
    let workloads = [workloads::web(2), vec![workloads::daemon("probe")]].concat();
    let s = Scenario::start(1, &workloads, |_| {})?;
    s.prepare()?;
    s.migrate(1, Cni::Calico)?;
    s.settled()?;
    s.cluster_command(&["finish"])?.expect(0)?;
    ensure!(s.node_object(1)?["metadata"]["annotations"]["nodectl.io/prepared"].is_null(), "the annotation is gone");
    s.nodectl(1, &RETIRE)?.expect(0)?;
    native(&s, "k8s-pod-network-")
}
