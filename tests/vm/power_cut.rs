//! A node that is a virtual machine loses its power in mid-switch: what nobody synced is lost with it. After boot the node is on one
//! CNI, the run closed, and the pods' network whole.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nodectl_lab::cluster::{is_ready, until};
use nodectl_lab::node::Kind;
use nodectl_lab::objects::{self, workloads};
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, Scenario, full, shuffled};
use nodectl_lab::traffic::{Endpoint, matrix_of};
use nodectl_lab::wait::patiently;
use serde_json::Value;

/// About as many fault points as a switch passes; a cut at one that it does not come to is one after its end.
const POINTS: usize = 260;
/// How long a switch may take, on a processor that is emulated.
const LIMIT: Duration = Duration::from_secs(480);
/// The same for its parts.
const LIMITS: &str = "--drain-timeout 90 --agent-timeout 90";
/// The line to the machine's owner that is heard at once, while the other one is busy.
const HEARD: &str = "/dev/ttyS2";

/// Two nodes on flannel, prepared; the first is a machine.
fn start() -> Result<Scenario> {
    let mut pods = workloads::web(2);
    pods.push(workloads::daemon("stays"));
    let scenario = Scenario::start(2, &[], |options| {
        options.kinds = vec![Kind::Machine];
        options.boot_units();
    })?;
    objects::install(&scenario.client, &pods)?;
    patiently(|| scenario.settled())?;
    patiently(|| scenario.prepare())?;
    Ok(scenario)
}

/// What a switch has told until now: the fault points that it has passed, and its exit code if it has ended.
fn heard(told: &str) -> (usize, Option<i32>) {
    let ended = told.lines().find_map(|line| line.strip_prefix("ended ")?.trim().parse().ok());
    (told.lines().filter(|line| !line.starts_with("ended")).count(), ended)
}

/// Begins a switch, and cuts the power when it has passed this many of its fault points, or has ended. How many it had passed.
fn cut_at(scenario: &Scenario, to: Cni, point: usize) -> Result<usize> {
    let node = scenario.node(1)?;
    let line = node.power().spec().folder.join("heard");
    let told = || std::fs::read_to_string(&line).unwrap_or_default();
    let before = told().len();
    // What was there before is on the disk: only what the switch itself does is lost.
    node.sh("sync")?;
    node.sh(&format!(
        "(code=0; NODECTL_FAULT_LOG={HEARD} nodectl migrate --to {} --yes {LIMITS} >/var/log/switch 2>&1 || code=$?
          echo ended $code >{HEARD}) </dev/null &",
        to.name()
    ))?;
    let end = Instant::now() + LIMIT;
    let (passed, ended) = loop {
        let (passed, ended) = heard(told().get(before..).unwrap_or_default());
        if passed >= point || ended.is_some() || Instant::now() > end {
            break (passed, ended);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    // 4: taken back by itself, as the machine was too slow for it.
    if !matches!(ended, Some(0 | 4)) && passed < point {
        let said = node.sh("cat /var/log/switch; tail -n 20 /var/log/kubelet.log; ps -o pid,args | tail -n 40")?;
        bail!("the switch has passed {passed} of {point} points, and ended with {ended:?}: {said}");
    }
    if ended == Some(4) {
        // Who builds pods after a run that was taken back is in no run's care: flannel's plugin leaves their notes to a power cut.
        patiently(|| scenario.settled())?;
        node.sh("sync")?;
    }
    node.power_cut()?;
    Ok(passed)
}

/// Boots, and waits until the boot-time units have settled what is open; a run that had not come to enable them is taken back by hand.
fn boots_and_settles(scenario: &Scenario) -> Result<Cni> {
    let node = scenario.node(1)?;
    node.start()?;
    until(LIMIT, || {
        if !scenario.is_open(1)? {
            return Ok(None);
        }
        let enabled = node.sh("ls /etc/systemd/system/*.wants/ 2>/dev/null")?.contains("nodectl-settle.service");
        if !enabled {
            let done = scenario.nodectl(1, &["resume", "--yes"])?;
            // 75: on its way back the unit disables itself and still works.
            ensure!(matches!(done.code, 0 | 75), "{}", done.all());
        }
        Ok(Some(node.sh("tail -n 5 /var/log/nodectl-*.log")?))
    })
    .context("the run is open still")?;
    // Nothing is left to be done; what was begun to be written goes.
    let done = scenario.nodectl(1, &["resume", "--yes"])?.expect(0)?;
    ensure!(done.stdout.contains("Nothing to resume"), "{}", done.all());
    scenario.comes_to_one_of_both(1, LIMIT)
}

/// One CNI, nothing of the other one or of pods that are gone, and the pods' network carries.
fn must_be_whole(scenario: &Scenario, cni: Cni) -> Result<()> {
    patiently(|| scenario.settled())?;
    scenario.must_be_on(1, cni)?;
    until(LIMIT, || {
        let strays = scenario.strays(1)?;
        Ok((!strays.is_empty()).then(|| strays.join("; ")))
    })?;
    until(LIMIT, || silent(scenario))
}

/// Pairs of pods between the two nodes without an answer.
fn silent(scenario: &Scenario) -> Result<Option<String>> {
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for pod in scenario.pods()? {
        let end = Endpoint::Pod("default".into(), text(&pod["metadata"]["name"]));
        if pod["spec"]["nodeName"] == "node1" { targets.push(end) } else { sources.push(end) }
    }
    ensure!(!sources.is_empty() && !targets.is_empty(), "a node has no pods");
    let pairs: Vec<_> = sources.iter().flat_map(|from| targets.iter().map(|to| (from.clone(), to.clone()))).collect();
    let broken = matrix_of(&scenario.cluster, &pairs)?.into_iter().filter(|pair| !pair.is_whole());
    let broken: Vec<String> = broken.map(|pair| format!("{} -> {}", pair.source, pair.target)).collect();
    Ok((!broken.is_empty()).then(|| format!("no answer: {}", broken.join(", "))))
}

/// What the node and its pods that are not ready say, after a round that went wrong.
fn said(scenario: &Scenario) -> Result<String> {
    let script = "cd /var/log; tail -n 25 switch nodectl-*.log kubelet.log containerd.log; tail -n 8 pods/*/*/*
        ls -l /var/lib/cni-shim/* /var/lib/cni/networks/* /var/lib/containerd/lab/* /etc/cni/net.d /run/netns
        ip -br address; ip route; ps -o pid,args";
    let node = scenario.node(1)?;
    let pods = scenario.client.list("/api/v1/pods")?.into_iter().filter(|pod| !is_ready(pod));
    let pods = pods.map(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let told = node.exec(&["sh", "-c", &format!("grep -h '{name}' /var/log/*.log | tail -n 12")])?.stdout;
        Ok(format!("{name} since {}: {}\n{told}", pod["metadata"]["creationTimestamp"], pod["status"]))
    });
    let pods: Vec<String> = pods.collect::<Result<_>>()?;
    let object = &scenario.node_object(1)?;
    let of_node = format!("{} {} {}", object["metadata"]["labels"], object["spec"], object["status"]["conditions"]);
    Ok(format!("{}\n{of_node}\n{}", pods.join("\n"), node.exec(&["sh", "-c", script])?.stdout))
}

/// One cut on the way to the other CNI, and its end; where the node is then.
fn round(scenario: &Scenario, from: Cni, point: usize) -> Result<Cni> {
    let begun = Instant::now();
    let to = from.other();
    let passed = cut_at(scenario, to, point)?;
    let what = format!("cut at point {passed} of the way to {}", to.name());
    let cut = begun.elapsed();
    let cni = boots_and_settles(scenario).with_context(|| what.clone())?;
    let settled = begun.elapsed();
    must_be_whole(scenario, cni).with_context(|| what.clone())?;
    let [cut, settled, whole] = [cut, settled, begun.elapsed()].map(|time| time.as_secs_f32());
    println!("{what} after {cut:.1} s: on {} after {settled:.1} s, whole after {whole:.1} s", cni.name());
    Ok(cni)
}

/// Where the power is cut on each way, spread over all of it and in no order.
struct Cuts {
    there: Vec<usize>,
    back: Vec<usize>,
}

impl Cuts {
    /// Twenty, half of them on the way back; without the full counts one in the middle of the way there, where most is under way.
    fn drawn() -> Cuts {
        let mut sample = Sample::from_environment();
        if !full() {
            return Cuts { there: vec![sample.spread(POINTS, 3)[1]], back: Vec::new() };
        }
        let mut drawn = |salt| shuffled(&sample.spread(POINTS, 10), salt);
        Cuts { there: drawn(1), back: drawn(2) }
    }

    /// The next one from where the node is; where all of that way are done, one after its end, so that the other way's can be.
    fn next(&mut self, from: Cni) -> Option<usize> {
        let (own, other) = match from {
            Cni::Flannel => (&mut self.there, &self.back),
            Cni::Calico => (&mut self.back, &self.there),
        };
        own.pop().or_else(|| (!other.is_empty()).then_some(usize::MAX))
    }
}

#[test]
fn a_power_cut_at_any_point_ends_on_one_cni_though_nothing_unsynced_was_kept() -> Result<()> {
    let begun = Instant::now();
    let scenario = start()?;
    println!("started: {:.1} s", begun.elapsed().as_secs_f32());
    let (mut cni, mut cuts) = (Cni::Flannel, Cuts::drawn());
    while let Some(point) = cuts.next(cni) {
        cni = round(&scenario, cni, point).or_else(|error| bail!("{error:#}\n{}", said(&scenario)?))?;
    }
    Ok(())
}
