//! SIGKILL and power cuts at every place of a switch: the node ends on one CNI, whole, and nothing of others' has changed.
//!
//! By default a seeded sample of the places; all of them with NODECTL_TESTS_FULL=1.

#[path = "crash/bench.rs"]
mod bench;

use std::time::Duration;

use anyhow::{Context, Result};
use bench::{Bench, revert};
use nodectl_lab::cluster::until;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, PATIENCE, full};

/// The arguments of the switch that is disturbed.
const MIGRATE: [&str; 6] = ["migrate", "--yes", "--drain-timeout", "60", "--agent-timeout", "60"];

/// A switch that is killed at any point, at any time, and again while it is resumed or taken back.
#[test]
fn a_switch_killed_anywhere_is_finished_or_taken_back() -> Result<()> {
    let (mut bench, points) = Bench::start()?;
    at_any_point(&mut bench, &points)?;
    at_any_time(&mut bench)?;
    again_and_again(&mut bench, &points)?;
    bench.verdict()
}

/// Where nothing is open yet, where the journal's own lines are torn, and where a probe's attachment is left.
#[test]
fn a_switch_killed_at_an_edge_is_finished_or_taken_back() -> Result<()> {
    let (mut bench, points) = Bench::start()?;
    what_is_killed_before_its_run_is_open_was_no_run(&mut bench, &points)?;
    the_edges_of_the_journal_are_no_trap(&mut bench, &points)?;
    a_probe_that_was_killed_leaves_no_attachment(&mut bench, &points)?;
    bench.verdict()
}

/// The way back of a closed run, and of one that was killed before.
#[test]
fn a_way_back_killed_at_any_point_is_finished_or_taken_back() -> Result<()> {
    let (mut bench, points) = Bench::start()?;
    the_way_back_at_any_point(&mut bench)?;
    pods_that_came_while_a_way_back_was_dead_go_back_too(&mut bench, &points)?;
    bench.verdict()
}

/// The power fails: the boot-time units bring the node to one CNI before pods start, and settle the rest.
#[test]
fn a_power_cut_at_any_point_ends_on_one_cni() -> Result<()> {
    let (mut bench, points) = Bench::start()?;
    the_power_fails_at_any_point(&mut bench, &points)?;
    bench.verdict()
}

/// The API server goes away in mid-switch and comes back, with and without a reboot meanwhile.
#[test]
fn what_is_owed_is_paid_by_itself() -> Result<()> {
    let (mut bench, _) = Bench::start()?;
    a_reboot_while_it_owes_changes_nothing_about_the_end(&mut bench)?;
    // Its last round takes the units away.
    the_units_are_there_until_all_is_paid(&mut bench)?;
    bench.verdict()
}

/// Killed at a point of the way there; then `resume` ends on Calico, and `revert` on flannel.
fn at_any_point(bench: &mut Bench, points: &[String]) -> Result<()> {
    for (i, n) in Sample::from_environment().of(points.len(), 6).into_iter().enumerate() {
        let what = format!("point {n} of {}, {}", points.len(), points[n - 1]);
        bench.round(&what, |bench| {
            if !bench.s.dies_at(1, &MIGRATE, &n.to_string())? {
                return bench.back_to_the_start();
            }
            if i % 2 == 0 { bench.resume_to_calico() } else { bench.revert_to_flannel() }
        })?;
    }
    Ok(())
}

/// Killed on the way back of a closed run, which is a switch of its own.
fn the_way_back_at_any_point(bench: &mut Bench) -> Result<()> {
    bench.s.migrate(1, Cni::Calico)?;
    let points = bench.s.fault_points(1, |env| bench.s.nodectl_with(1, &revert(), env))?;
    bench.must_be(Cni::Flannel)?;
    for (i, n) in Sample::from_environment().of(points.len(), 4).into_iter().enumerate() {
        let what = format!("point {n} of {} of the way back, {}", points.len(), points[n - 1]);
        bench.round(&what, |bench| {
            bench.s.migrate(1, Cni::Calico)?;
            bench.must_be(Cni::Calico)?;
            if bench.s.dies_at(1, &revert(), &n.to_string())? && bench.is_open()? {
                let (args, end) = match (i % 2 == 0, bench.has_ended()?) {
                    (true, _) => (vec!["resume", "--yes"], Cni::Flannel),
                    (false, false) => (revert(), Cni::Calico),
                    // Asked again for what has ended: a way back does not become the way there.
                    (false, true) => (revert(), Cni::Flannel),
                };
                bench.s.nodectl(1, &args)?.expect(0)?;
                bench.must_be(end)?;
            }
            bench.back_to_the_start()
        })?;
    }
    Ok(())
}

/// Killed on the way there, then killed while it is resumed or taken back, each at some point.
fn again_and_again(bench: &mut Bench, points: &[String]) -> Result<()> {
    let mut sample = Sample::from_environment();
    let before = bench::before_open(points)?;
    for i in 0..if full() { 200 } else { 4 } {
        let n = before + 1 + sample.below(points.len() - before);
        let again: Vec<usize> = (0..3).map(|_| 1 + sample.below(40)).collect();
        let what = format!("point {n}, {}, then points {again:?}", points[n - 1]);
        bench.round(&what, |bench| {
            if !bench.s.dies_at(1, &MIGRATE, &n.to_string())? {
                return bench.back_to_the_start();
            }
            let back = i % 2 == 1;
            let args = if back { revert() } else { vec!["resume", "--yes"] };
            let mut open = true;
            for fault in &again {
                open = open && bench.s.dies_at(1, &args, &fault.to_string())? && bench.is_open()?;
            }
            // Every second way back that was killed is resumed: it goes on back.
            if open && back && i % 4 == 1 {
                bench.s.nodectl(1, &["resume", "--yes"])?.expect(4)?;
                bench.must_be_as_before()?;
                return bench.back_to_the_start();
            }
            match (open, back) {
                (true, true) => bench.revert_to_flannel(),
                (true, false) => bench.resume_to_calico(),
                (false, true) => bench.must_be_as_before(),
                (false, false) => bench.must_be(Cni::Calico).and_then(|()| bench.back_to_the_start()),
            }
        })?;
    }
    Ok(())
}

/// A hold ends with its owner: who came to the new CNI while a way back lay dead is taken along by the next.
fn pods_that_came_while_a_way_back_was_dead_go_back_too(bench: &mut Bench, points: &[String]) -> Result<()> {
    let released = 2 + points.iter().rposition(|point| point == "shim.state").context("nothing was released")?;
    bench.round("the release, then the record that it is undone", |bench| {
        assert!(bench.s.dies_at(1, &MIGRATE, &released.to_string())?);
        // The records of who goes on, that it goes back, and that the release is undone.
        assert!(bench.s.dies_at(1, &revert(), "journal.appended:3")?);
        let come = r#"grep -l '"backend":"calico"' /var/lib/cni-shim/attachments/* 2>/dev/null || true"#;
        until(PATIENCE, || Ok(bench.s.node(1)?.sh(come)?.is_empty().then(|| "no pod has come to Calico".to_owned())))?;
        bench.revert_to_flannel()
    })?;
    Ok(())
}

/// Killed between the ADD and the DEL of the attachment that nodectl probes from.
fn a_probe_that_was_killed_leaves_no_attachment(bench: &mut Bench, points: &[String]) -> Result<()> {
    // The first call is a DEL, of what an earlier run may have left.
    assert!(points.iter().filter(|point| *point == "shim.called").count() >= 3, "{points:?}");
    for back in [true, false] {
        bench.round(&format!("the probe's ADD, {}", if back { "then revert" } else { "then resume" }), |bench| {
            assert!(bench.s.dies_at(1, &MIGRATE, "shim.called:2")?);
            if back { bench.revert_to_flannel() } else { bench.resume_to_calico() }
        })?;
    }
    Ok(())
}

/// Killed by the clock: also between points, and inside a system call.
fn at_any_time(bench: &mut Bench) -> Result<()> {
    let mut sample = Sample::from_environment();
    for i in 0..if full() { 200 } else { 4 } {
        let delay = Duration::from_millis(50 + 60 * sample.below(100) as u64);
        bench.round(&format!("after {delay:?}"), |bench| {
            bench.s.dies_after(1, &MIGRATE, delay)?;
            if !bench.is_open()? {
                return bench.back_to_the_start();
            }
            if i % 2 == 0 { bench.resume_to_calico() } else { bench.revert_to_flannel() }
        })?;
    }
    Ok(())
}

/// Every fourth on the way back, which has about as many points.
fn the_power_fails_at_any_point(bench: &mut Bench, points: &[String]) -> Result<()> {
    for (i, n) in Sample::from_environment().of(points.len(), 6).into_iter().enumerate() {
        let back = i % 4 == 2;
        let way = if back { "the way back" } else { "the way there" };
        bench.round(&format!("power cut at point {n} of {way}"), |bench| {
            if back {
                bench.s.migrate(1, Cni::Calico)?;
            }
            if bench.s.dies_at(1, if back { &["revert", "--yes"] } else { &MIGRATE }, &n.to_string())? {
                bench.reboot()?;
            }
            bench.settles_by_itself()?;
            bench.back_to_the_start()
        })?;
    }
    Ok(())
}

/// The API server goes away in mid-switch and comes back. Nobody calls nodectl; the units are there until all is paid.
fn the_units_are_there_until_all_is_paid(bench: &mut Bench) -> Result<()> {
    bench.round("the API server comes back, a kept DEL fails", |bench| {
        let done = bench.owes_at("uncordon")?;
        assert!(done.stderr.contains("finish the DELs"), "{}", done.all());
        assert!(done.stderr.contains("nodectl-settle.service tries again by itself"), "{}", done.all());
        assert_eq!(bench.s.node(1)?.unit_state("nodectl-settle.service")?.file, "enabled");
        bench.s.node(1)?.sh("mv /opt/cni/bin/calico /run/kept-calico")?;
        bench.s.cluster.api()?.control("ok")?;
        bench.only_the_run_is_open()?;
        let done = bench.resume_once_free()?.expect(5)?;
        assert!(
            done.stderr.contains("the node is on flannel again, but still it owes: finish the DELs"),
            "{}",
            done.all()
        );
        assert!(!done.stderr.contains("Failure {") && !done.stderr.contains("uncordon"), "{}", done.all());
        bench.s.node(1)?.sh("mv /run/kept-calico /opt/cni/bin/calico")?;
        bench.settles_by_itself()?;
        bench.must_be_as_before()
    })?;
    bench.round("a reboot while it owes, without units", |bench| {
        bench.s.migrate(1, Cni::Calico)?;
        bench.s.nodectl(1, &revert())?.expect(0)?;
        bench.must_be(Cni::Flannel)?;
        bench.s.node(1)?.sh("rm -f /etc/systemd/system/nodectl-*.service /etc/systemd/system/*.wants/nodectl-*")?;
        let done = bench.owes_at("probe")?;
        assert!(
            done.stderr.contains("nodectl-settle.service, which would do so by itself, is not installed"),
            "{}",
            done.all()
        );
        bench.s.node(1)?.power_cut()?;
        bench.s.cluster.api()?.control("ok")?;
        bench.s.node(1)?.start()?;
        bench.s.crowd(1)?;
        // kubelet runs what the label still asks for.
        until(PATIENCE, || {
            let links = bench.s.node(1)?.sh("ip -o link")?;
            Ok((!links.contains("vxlan.calico")).then(|| "felix has not made its device".to_owned()))
        })?;
        bench.s.nodectl(1, &["resume", "--yes"])?.expect(0)?;
        bench.must_be(Cni::Flannel)?;
        bench.back_to_the_start()
    })?;
    Ok(())
}

/// The run had installed the shim, and the label asks for Calico still when the node comes up again: no pod gets it, and nothing
/// that its installer writes anew is left.
fn a_reboot_while_it_owes_changes_nothing_about_the_end(bench: &mut Bench) -> Result<()> {
    bench.round("the units pay when the server is back", |bench| {
        bench.owes_at("probe")?;
        bench.reboot()?;
        bench.s.cluster.api()?.control("ok")?;
        bench.settles_by_itself()?;
        bench.must_be_as_before()
    })?;
    bench.round("Calico serves before anything is paid", |bench| {
        bench.owes_at("probe")?;
        let node = bench.s.node(1)?;
        node.sh("rm /etc/systemd/system/*.wants/nodectl-settle.service")?;
        node.power_cut()?;
        bench.s.cluster.api()?.control("ok")?;
        node.start()?;
        bench.s.crowd(1)?;
        until(PATIENCE, || {
            let there = node.sh("ip -o link; ls /etc/cni/net.d")?;
            let all = ["vxlan.calico", "10-calico.conflist"].iter().all(|name| there.contains(name));
            Ok((!all).then(|| "Calico has not come back".to_owned()))
        })?;
        bench.s.nodectl(1, &["resume", "--yes"])?.expect(0)?;
        bench.must_be_as_before()
    })?;
    Ok(())
}

/// Killed before the run is open: that was no run. Whoever looks at the runs is not in trouble for it, and nothing of it is left
/// but a journal in which nothing was done.
fn what_is_killed_before_its_run_is_open_was_no_run(bench: &mut Bench, points: &[String]) -> Result<()> {
    // A snapshot, the journal, the file that names it: each is a file that is written and renamed.
    for n in Sample::from_environment().of(bench::before_open(points)?, 4) {
        bench.round(&format!("point {n}, {}, before the run is open", points[n - 1]), |bench| {
            assert!(bench.s.dies_at(1, &MIGRATE, &n.to_string())? && !bench.is_open()?);
            for look in [&["history"][..], &["revert", "--dry-run"]] {
                bench.s.nodectl(1, look)?.expect(0)?;
            }
            bench.nothing_is_open()
        })?;
    }
    bench.round("a whole switch after all these", |bench| {
        bench.s.migrate(1, Cni::Calico)?;
        bench.must_be(Cni::Calico)?;
        bench.back_to_the_start()
    })?;
    Ok(())
}

/// The journal's own edges: a torn last line, closed but still named as open, or not named any more.
fn the_edges_of_the_journal_are_no_trap(bench: &mut Bench, points: &[String]) -> Result<()> {
    let records = points.iter().filter(|point| *point == "journal.appended").count();
    let last = format!("journal.appended:{records}");
    for args in [vec!["resume", "--yes"], revert()] {
        bench.round(&format!("closed, but still named as open; then {}", args[0]), |bench| {
            bench.s.dies_at(1, &MIGRATE, &last)?;
            assert!(bench.is_open()?);
            bench.s.nodectl(1, &args)?.expect(0)?;
            bench.must_be(if args[0] == "resume" { Cni::Calico } else { Cni::Flannel })?;
            bench.back_to_the_start()
        })?;
    }
    bench.round("its very last change: nothing is open any more", |bench| {
        let removals = points.iter().filter(|point| *point == "files.remove").count();
        bench.s.dies_at(1, &MIGRATE, &format!("files.remove:{removals}"))?;
        bench.resume_to_calico()
    })?;
    for (i, torn) in ["{\"record\":\"done\",\"n\"", "{", "\u{fffd}\u{0}\u{0}"].into_iter().enumerate() {
        bench.round(&format!("the last line is torn: {torn:?}"), |bench| {
            let n = points.iter().position(|p| p == "cri.stop_sandbox").context("no sandbox was stopped")? + i;
            bench.s.dies_at(1, &MIGRATE, &n.to_string())?;
            let script = format!(
                "printf '%s' '{}' >> /var/lib/nodectl/journal/$(cat /var/lib/nodectl/open).jsonl",
                torn.replace('\0', "")
            );
            bench.s.node(1)?.sh(&script)?;
            if i % 2 == 0 { bench.resume_to_calico() } else { bench.revert_to_flannel() }
        })?;
    }
    Ok(())
}
