//! Being told to stop: signals at each step, the deadline, a failed verification, a take-over, the lock.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cni_store::record::Record;
use nix::sys::signal::Signal;
use nodectl_lab::cluster::until;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, PATIENCE, Scenario, sample};

/// Drops what peers send over the overlay, and what this node sends them, whichever device carries it.
const CUT: &str = "iptables-nft -t raw -I PREROUTING -p udp --dport 8472 -j DROP";
const MEND: &str = "iptables-nft -t raw -D PREROUTING -p udp --dport 8472 -j DROP";

fn start() -> Result<Scenario> {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {})?;
    scenario.prepare()?;
    Ok(scenario)
}

/// The Node tells the whole cluster where the run stands.
fn said(scenario: &Scenario, state: &str) -> Result<()> {
    let note = scenario.run_note(1)?;
    ensure!(note["state"] == state, "the Node does not say {state}: {note}");
    Ok(())
}

/// A run that gets a signal as a step begins: taken back, exit 4; a second signal on the way back changes nothing.
fn stopped_at(scenario: &Scenario, signal: Signal, step: &str) -> Result<()> {
    scenario.spread_pods()?;
    let begun = Instant::now();
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
    ensure!(run.until("step", step)?, "the run ended before {step}: {}", run.finish()?.all());
    run.signal(signal)?;
    if run.until("undo", "set-shim-state")? {
        run.signal(Signal::SIGINT)?;
        run.signal(Signal::SIGTERM)?;
    }
    let done = run.finish()?.expect(4)?;
    let name = if signal == Signal::SIGINT { "stopped by Ctrl-C" } else { "stopped by SIGTERM" };
    ensure!(done.stderr.contains(name), "it does not say what stopped it: {}", done.all());
    scenario.must_be_settled(1, Cni::Flannel).with_context(|| done.all())?;
    said(scenario, "put-back")?;
    println!("{signal} at {step}: put back, {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// A run that is told to stay open: exit 5, named by status, finished by resume.
fn open_at(scenario: &Scenario, signal: Signal, step: &str) -> Result<()> {
    scenario.spread_pods()?;
    let begun = Instant::now();
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &["--on-stop", "resume"]))?;
    ensure!(run.until("step", step)?, "the run ended before {step}: {}", run.finish()?.all());
    run.signal(signal)?;
    let done = run.finish()?.expect(5)?;
    ensure!(done.stderr.contains("nodectl resume"), "it does not say how to go on: {}", done.all());
    scenario.nodectl(1, &["status"])?.expect(5)?;
    said(scenario, "open")?;
    // It still has to go one way or the other, and needs flannel's side of the cluster for it.
    let aborted = scenario.cluster_command(&["abort"])?.expect(3)?;
    ensure!(aborted.stdout.contains("refused  abort-runs"), "{}", aborted.all());
    let refused = scenario.nodectl(1, &["migrate", "--yes"])?.expect(3)?;
    ensure!(refused.stdout.contains("open-run"), "{}", refused.all());
    scenario.nodectl(1, &["resume", "--yes"])?.expect(0).with_context(|| done.all())?;
    scenario.must_be_settled(1, Cni::Calico)?;
    said(scenario, "switched")?;
    scenario.nodectl(1, &["resume", "--yes"])?.expect(0)?;
    scenario.nodectl(1, &["revert", "--yes"])?.expect(0)?;
    scenario.must_be_settled(1, Cni::Flannel)?;
    println!("{signal} at {step}: left open, resumed, reverted, {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

#[test]
fn a_signal_at_any_step_puts_the_node_back_or_leaves_it_open() {
    let scenario = start().unwrap();
    let steps = until_it_serves(scenario.steps(1, "calico").unwrap());
    for (at, step) in sample(&steps, 4, 1).iter().enumerate() {
        let signal = if at % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT };
        stopped_at(&scenario, signal, step).with_context(|| format!("{signal} at {step}")).unwrap();
    }
    for (at, step) in sample(&steps, 2, 2).iter().enumerate() {
        let signal = if at % 2 == 0 { Signal::SIGINT } else { Signal::SIGTERM };
        open_at(&scenario, signal, step).with_context(|| format!("{signal} at {step}")).unwrap();
    }
}

/// The steps at which a stop takes all back. From the uncordon on the node serves its pods, and a stop leaves the run open; during
/// the last step of all it comes too late.
fn until_it_serves(steps: Vec<String>) -> Vec<String> {
    steps.into_iter().take_while(|step| step != "uncordon").collect()
}

/// The way back from Calico, stopped: the node stays on Calico.
#[test]
fn a_signal_on_the_way_to_flannel_puts_the_node_back_on_calico() {
    let scenario = start().unwrap();
    scenario.migrate(1, Cni::Calico).unwrap();
    let steps = until_it_serves(scenario.steps(1, "flannel").unwrap());
    for step in sample(&steps, 2, 3) {
        scenario.spread_pods().unwrap();
        let mut run = scenario.drive(1, &Scenario::switch_args("flannel", &[])).unwrap();
        assert!(run.until("step", &step).unwrap());
        run.signal(Signal::SIGTERM).unwrap();
        let done = run.finish().unwrap().expect(4).with_context(|| step.clone()).unwrap();
        scenario.must_be_settled(1, Cni::Calico).with_context(|| format!("{step}: {}", done.all())).unwrap();
        println!("SIGTERM at {step} on the way to flannel: put back on Calico");
    }
}

#[test]
fn the_deadline_undoes_what_is_not_finished() {
    let scenario = start().unwrap();
    // A budget that allows nothing holds the drain up until the deadline has passed.
    let mut stuck = workloads::guarded("stuck", 2, 2);
    // On this node and no other: the drain must meet them, every time.
    stuck[0].object["spec"]["template"]["spec"]["nodeSelector"] =
        serde_json::json!({"kubernetes.io/hostname": "node1"});
    nodectl_lab::objects::install(&scenario.client, &stuck).unwrap();
    scenario.settled().unwrap();
    let begun = Instant::now();
    let done = scenario.nodectl(1, &Scenario::switch_args("calico", &["--deadline", "8s"])).unwrap().expect(4).unwrap();
    assert!(done.stderr.contains("stopped by its deadline"), "{}", done.all());
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    // One that has passed already: nothing is begun.
    let args = Scenario::switch_args("calico", &["--deadline", "2020-01-01T00:00:00Z"]);
    let done = scenario.nodectl(1, &args).unwrap().expect(3).unwrap();
    assert!(done.stderr.contains("To fix it:") && done.stderr.contains("nothing was changed"), "{}", done.all());
    scenario.nodectl(1, &Scenario::switch_args("calico", &["--deadline", "soon"])).unwrap().expect(64).unwrap();
    // One that no switch can keep: nor is that.
    let done = scenario.nodectl(1, &Scenario::switch_args("calico", &["--deadline", "3s"])).unwrap().expect(3).unwrap();
    assert!(
        done.stderr.contains("cannot end in time") && done.stderr.contains("nothing was changed"),
        "{}",
        done.all()
    );
    // The drain's own limit: the pods in the way are named, with the budget's words.
    let args = ["migrate", "--yes", "--drain-timeout", "6"];
    let done = scenario.nodectl(1, &args).unwrap().expect(4).unwrap();
    assert!(
        done.stderr.contains("default/stuck-") && done.stderr.contains("allows no disruption now"),
        "{}",
        done.all()
    );
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
}

#[test]
fn a_failed_verification_reverts_by_itself() {
    let scenario = start().unwrap();
    let node = scenario.node(1).unwrap();
    for (more, code) in [(None, 4), (Some("--no-auto-revert"), 5)] {
        let more: Vec<&str> = more.into_iter().collect();
        let mut run = scenario.drive(1, &Scenario::switch_args("calico", &more)).unwrap();
        assert!(run.until("step", "start-agent").unwrap());
        node.sh(CUT).unwrap();
        if code == 4 {
            assert!(run.until("undo", "stop-agent").unwrap());
            run.signal(Signal::SIGINT).unwrap();
        }
        let done = run.finish();
        node.sh(MEND).unwrap();
        let done = done.unwrap().expect(code).unwrap();
        assert!(done.stderr.contains("does not answer any more"), "{}", done.all());
        if code == 4 {
            assert!(done.stderr.contains("Ctrl-C was heard, but the way back goes on"), "{}", done.all());
            scenario.must_be_settled(1, Cni::Flannel).with_context(|| done.all()).unwrap();
        }
    }
    scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
}

#[test]
fn what_is_under_way_and_what_serves_is_not_torn_down() {
    let scenario = start().unwrap();
    an_add_under_way_outlives_no_shim(&scenario).unwrap();
    files_of_an_earlier_calico_are_put_back(&scenario).unwrap();
    for step in ["uncordon", "clean"] {
        a_stop_that_comes_late_takes_nothing_from_pods(&scenario, step).with_context(|| step).unwrap();
    }
    a_node_that_serves_stays_switched(&scenario).unwrap();
}

/// What lay about before the run is no leftover of it: after the way back it is what it was.
fn files_of_an_earlier_calico_are_put_back(scenario: &Scenario) -> Result<()> {
    let node = scenario.node(1)?;
    node.sh(
        "mkdir -p /var/lib/calico; echo elsewhere > /var/lib/calico/nodename; ln -s nodename /var/lib/calico/name; \
         echo old > /opt/cni/bin/calico; chmod 700 /opt/cni/bin/calico; echo {} > /etc/cni/net.d/calico-kubeconfig",
    )?;
    let look = "cd /; find var/lib/calico opt/cni/bin etc/cni/net.d \\( -type f -o -type l \\) -printf '%p %M %l ' \
                -exec sha256sum '{}' ';' | sort";
    let before = node.sh(look)?;
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
    ensure!(run.until("step", "probe")?, "the run ended: {}", run.finish()?.all());
    run.signal(Signal::SIGTERM)?;
    let done = run.finish()?.expect(4)?;
    scenario.must_be_settled(1, Cni::Flannel).with_context(|| done.all())?;
    let after = node.sh(look)?;
    ensure!(after == before, "before:\n{before}after:\n{after}{}", done.all());
    node.sh("rm -r /var/lib/calico /opt/cni/bin/calico /etc/cni/net.d/calico-kubeconfig").map(drop)
}

/// Told to stop when its pods are served again, a run takes none of their sandboxes: it stays open, as after a failure there.
fn a_stop_that_comes_late_takes_nothing_from_pods(scenario: &Scenario, step: &str) -> Result<()> {
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
    ensure!(run.until("step", step)?, "the run ended before {step}: {}", run.finish()?.all());
    let node = scenario.node(1)?;
    let attached = || node.sh("ls /var/lib/cni-shim/attachments | sort");
    let pods = attached()?;
    run.signal(Signal::SIGTERM)?;
    let done = run.finish()?.expect(5)?;
    let told = ["stopped by SIGTERM", "The node serves on Calico; the run stays open", "nodectl resume"];
    ensure!(told.iter().all(|words| done.stderr.contains(words)), "{}", done.all());
    ensure!(scenario.node_object(1)?["spec"]["unschedulable"].is_null(), "it is cordoned: {}", done.all());
    let now = attached()?;
    ensure!(pods.lines().all(|pod| now.contains(pod)), "attached before:\n{pods}now:\n{now}{}", done.all());
    scenario.nodectl(1, &["resume", "--yes"])?.expect(0).with_context(|| done.all())?;
    scenario.must_be_settled(1, Cni::Calico)?;
    scenario.nodectl(1, &["revert", "--yes"])?.expect(0)?;
    scenario.must_be_settled(1, Cni::Flannel)
}

/// A plugin is at work when the run is stopped: the shim that called it is taken away after it has ended.
fn an_add_under_way_outlives_no_shim(scenario: &Scenario) -> Result<()> {
    let node = scenario.node(1)?;
    let slow = r#"printf '#!/bin/sh
[ "$CNI_COMMAND" = ADD ] && sleep 6
exec /opt/cni/bin/bridge.real
' > /opt/cni/bin/slow"#;
    node.sh(&format!("cd /opt/cni/bin; {slow}; chmod +x slow; mv bridge bridge.real; mv slow bridge"))?;
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
    ensure!(run.until("step", "cordon")?, "the run ended: {}", run.finish()?.all());
    for pod in scenario.pods()? {
        if pod["spec"]["nodeName"] == "node1" && pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet" {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            scenario.client.delete(&format!("/api/v1/namespaces/default/pods/{name}"))?;
        }
    }
    let paths = cni_store::Paths::under(node.path("/")?);
    until(PATIENCE, || Ok(Record::in_flight(&paths)?.is_empty().then(|| "no ADD is under way".to_owned())))?;
    run.signal(Signal::SIGTERM)?;
    let done = run.finish()?.expect(4)?;
    scenario.must_be_settled(1, Cni::Flannel).with_context(|| done.all())?;
    node.sh("cd /opt/cni/bin; mv bridge.real bridge")?;
    let left = node.sh("ls -d /var/lib/cni-shim /opt/cni/bin/cni-shim 2>/dev/null || true")?;
    ensure!(left.is_empty(), "the shim is left: {left}{}", done.all());
    Ok(())
}

/// What fails after the node has been given back to its pods takes nothing from them; nor does a runtime that is restarted.
fn a_node_that_serves_stays_switched(scenario: &Scenario) -> Result<()> {
    let node = scenario.node(1)?;
    node.sh("chattr +i /run/flannel/subnet.env")?;
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
    ensure!(run.until("step", "stop-agent")?, "the run ended: {}", run.finish()?.all());
    node.restart_unit("containerd.service")?;
    let done = run.finish();
    node.sh("chattr -i /run/flannel/subnet.env")?;
    let done = done?.expect(5)?;
    ensure!(done.stderr.contains("The node serves on Calico; the run stays open"), "{}", done.all());
    ensure!(done.stderr.contains("remove what flannel left"), "{}", done.all());
    ensure!(scenario.node_object(1)?["spec"]["unschedulable"].is_null(), "it is cordoned: {}", done.all());
    scenario.nodectl(1, &["resume", "--yes"])?.expect(0).with_context(|| done.all())?;
    scenario.must_be_settled(1, Cni::Calico)
}

#[test]
fn one_nodectl_at_a_time_and_a_take_over() {
    let scenario = start().unwrap();
    // Two switches that are closed: a take-over must not take one of those for the run that it stops.
    scenario.migrate(1, Cni::Calico).unwrap();
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    for (step, more) in [("evict", &[][..]), ("start-agent", &["--on-stop", "resume"][..])] {
        take_over_at(&scenario, step, more).with_context(|| format!("at {step}")).unwrap();
    }
    // A lock whose holder was killed is free.
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[])).unwrap();
    assert!(run.until("step", "hold").unwrap());
    run.kill().unwrap();
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
}

fn take_over_at(scenario: &Scenario, step: &str, more: &[&str]) -> Result<()> {
    scenario.spread_pods()?;
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", more))?;
    ensure!(run.until("step", step)?, "the run ended before {step}: {}", run.finish()?.all());
    for args in [&["migrate", "--yes"][..], &["revert", "--yes"], &["resume", "--yes"]] {
        let busy = scenario.nodectl(1, args)?.expect(75)?;
        if !busy.stderr.contains("another nodectl works on this node (pid") {
            bail!("{}", busy.all());
        }
    }
    // What only looks needs no lock.
    scenario.nodectl(1, &["history"])?.expect(0)?;
    scenario.nodectl(1, &["status"])?.expect(5)?;
    let taken = scenario.nodectl(1, &["revert", "--take-over", "--yes"])?;
    let stopped = run.finish()?;
    let taken = taken.expect(0).with_context(|| stopped.all())?;
    ensure!([4, 5].contains(&stopped.code), "{}", stopped.all());
    scenario.must_be_settled(1, Cni::Flannel).with_context(|| format!("{}{}", taken.all(), stopped.all()))?;
    println!("taken over at {step}: {}", taken.stdout.trim());
    Ok(())
}
