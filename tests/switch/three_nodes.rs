//! Three nodes with thirty pods go from flannel to Calico, node by node, under traffic; and the cluster is finished.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nodectl_lab::cluster::{Options, until};
use nodectl_lab::objects::{Manifest, workloads};
use nodectl_lab::scenario::{Cni, Scenario, sample, touches};
use nodectl_lab::snapshot::Snapshot;
use nodectl_lab::traffic::{Endpoint, Flow, Traffic};

/// The usual workloads and one more Deployment; the static pods come from [`with_static_pods`].
fn thirty_pods() -> Vec<Manifest> {
    let mut all = Scenario::workloads(14);
    all.push(workloads::deployment("api", 6));
    all
}

/// A static pod on every node.
fn with_static_pods(options: &mut Options) {
    options.files.push(("/etc/kubernetes/manifests/fixed.json".into(), workloads::static_pod("fixed")));
}

/// Flows between nodes that are not being switched lose nothing worth a word; the others are cut only for as long as it takes to
/// build a sandbox anew.
fn check_flows(flows: &[Flow], staying: &[(Endpoint, String)], switched: &str) {
    let (cut, bystanders): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(|flow| touches(flow, staying, switched));
    assert!(!cut.is_empty() && !bystanders.is_empty());
    for flow in bystanders {
        assert!(
            flow.longest_gap < Duration::from_secs(1) && flow.lost * 50 <= flow.sent,
            "{switched}: a bystander: {flow}"
        );
    }
    let longest = cut.iter().map(|flow| flow.longest_gap).max().unwrap_or_default();
    println!("{switched}: longest gap of a rebuilt pod {longest:?}");
    assert!(longest < Duration::from_secs(45), "{cut:#?}");
    for flow in flows {
        assert!(flow.sent > flow.lost, "never answered: {flow}");
        // A rebuilt pod has another address, and is seen with that one and no node's: never masqueraded.
        assert!(flow.seen.iter().all(|seen| seen.starts_with("10.244.")), "{flow}: seen as {:?}", flow.seen);
    }
}

#[test]
fn three_nodes_with_thirty_pods_go_to_calico_one_by_one() {
    let scenario = Scenario::start(3, &thirty_pods(), with_static_pods).unwrap();
    assert_eq!(scenario.pods().unwrap().len() + 3, 30);
    scenario.must_be_whole_and_tidy("before").unwrap();
    scenario.prepare().unwrap();
    scenario.must_be_whole_and_tidy("prepared").unwrap();
    let blocks = scenario.blocks().unwrap();
    for index in 1..=3 {
        assert_ne!(scenario.cluster_command(&["status", "--to", "calico"]).unwrap().code, 0);
        let staying = scenario.staying().unwrap();
        let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_between_nodes().unwrap(), 50).unwrap();
        scenario.migrate(index, Cni::Calico).unwrap();
        scenario.must_be_on(index, Cni::Calico).unwrap();
        scenario.settled().unwrap();
        check_flows(&traffic.finish(), &staying, &format!("node{index}"));
        scenario.must_be_whole_and_tidy(&format!("{index} of 3 nodes on Calico")).unwrap();
        assert_eq!(scenario.blocks().unwrap(), blocks, "no block changes hands");
    }
    let status = scenario.cluster_command(&["status", "--to", "calico"]).unwrap().expect(0).unwrap();
    println!("{}", status.stdout);
    finish(&scenario);
}

/// Finishing takes flannel out of the cluster and costs no packet; afterwards pods come and go as on any Calico cluster.
fn finish(scenario: &Scenario) {
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_between_nodes().unwrap(), 50).unwrap();
    scenario.cluster_command(&["finish"]).unwrap().expect(0).unwrap();
    for flow in traffic.finish() {
        assert!(flow.longest_gap < Duration::from_secs(1), "finish: {flow}");
    }
    let flannel = scenario.client.find("/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds").unwrap();
    assert!(flannel.is_none(), "flannel's DaemonSet is still there");
    scenario.cluster_command(&["finish"]).unwrap().expect(0).unwrap();
    scenario.must_be_whole_and_tidy("finished").unwrap();
    for name in ["web", "api", "guarded"] {
        scenario.client.delete(&format!("/apis/apps/v1/namespaces/default/deployments/{name}")).unwrap();
    }
    scenario.must_be_whole_and_tidy("most pods deleted").unwrap();
    scenario
        .client
        .create("/apis/apps/v1/namespaces/default/deployments", &workloads::deployment("late", 6).object)
        .unwrap();
    scenario.cluster.wait_pods_ready(3 + 3 + 3 + 1 + 6, Duration::from_secs(60)).unwrap();
    scenario.must_be_whole_and_tidy("new pods").unwrap();
}

/// What a run that was taken back may leave different: nothing that belongs to no pod.
fn differences(scenario: &Scenario, before: &Snapshot) -> Vec<String> {
    let after = Snapshot::take(scenario.node(1).unwrap()).unwrap();
    before.without_pods().without(is_indifferent).diff(&after.without_pods().without(is_indifferent))
}

/// What comes back by other hands, or does nothing.
fn is_indifferent(section: &str, line: &str) -> bool {
    // The kernel's own link-local address; and what the portmap plugin sets on the bridge with each pod that has a port.
    // The bridge's own address in its table stands there as a port's where a port has the same.
    let of_bridge = (section == "addresses" && line.starts_with("cni0 fe80:"))
        || (section == "sysctls" && line.starts_with("cni0/route_localnet"))
        || (section == "fdb" && line.contains(" dev cni0 "));
    // Holds a token, which calico-node renews when it starts.
    let token = section == "sums" && line.starts_with("/etc/cni/net.d/calico-kubeconfig ");
    // Logs stay, to be read.
    let log = section == "modes" && line.contains("/var/log/calico");
    of_bridge || token || log || is_empty_table(section, line)
}

/// Whoever asks iptables for a table makes it (the portmap plugin IPv6's NAT, felix `raw`), and nobody can tell afterwards
/// whose an empty one is: it stays, with its built-in chains that let everything through.
fn is_empty_table(section: &str, line: &str) -> bool {
    let table = |name: &str| ["raw", "nat", "mangle"].contains(&name);
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, chain, "ACCEPT"] => section.ends_with("tables-nft") && table(name) && chain.starts_with(':'),
        ["table", "ip" | "ip6", name] => section == "nft" && table(name),
        _ => false,
    }
}

/// The run is stopped after each step (a sample of them by default), and taken back.
fn revert_at_every_step(scenario: &Scenario, to: Cni, count: usize) {
    let steps = scenario.plan(1, to, 60).unwrap().names();
    let stops: Vec<usize> = sample(&(1..=steps.len()).collect::<Vec<_>>(), count, to as u64);
    let before = Snapshot::take(scenario.node(1).unwrap()).unwrap();
    for stop in stops {
        let case = format!("to {}, stopped after step {stop} ({})", to.name(), steps[stop - 1]);
        scenario.settled().unwrap();
        let plan = scenario.plan(1, to, 60).unwrap().broken_at(stop).unwrap();
        let done = scenario.carry_out(1, &plan, &["--no-auto-revert"]).unwrap();
        assert!(done.code == 5 && done.stderr.contains("/nonexistent"), "{case}: {}", done.all());
        taken_back(scenario, to.other(), &before, &case);
    }
}

/// SIGTERM with --on-stop resume leaves the run open where it stands.
fn revert_after_a_signal(scenario: &Scenario, to: Cni, steps: &[&str]) {
    let before = Snapshot::take(scenario.node(1).unwrap()).unwrap();
    for step in steps {
        let case = format!("to {}, told to stop in {step}", to.name());
        scenario.settled().unwrap();
        let mut run = scenario.drive(1, &Scenario::switch_args(to.name(), &["--on-stop", "resume"])).unwrap();
        assert!(run.until("step", step).unwrap(), "{case}: it ended before");
        run.signal(Signal::SIGTERM).unwrap();
        let done = run.finish().unwrap();
        assert_eq!(done.code, 5, "{case}: {}", done.all());
        taken_back(scenario, to.other(), &before, &case);
    }
}

fn taken_back(scenario: &Scenario, cni: Cni, before: &Snapshot, case: &str) {
    let begin = Instant::now();
    let done = scenario.nodectl(1, &["revert", "--yes"]).unwrap();
    assert_eq!(done.code, 0, "{case}: {}", done.all());
    scenario.must_be_on(1, cni).unwrap_or_else(|e| panic!("{case}: {e:#}"));
    println!("{case}: taken back in {:?}", begin.elapsed());
    scenario.must_be_whole_and_tidy(case).unwrap();
    until(Duration::from_secs(20), || {
        let differences = differences(scenario, before);
        Ok((!differences.is_empty()).then(|| differences.join("\n")))
    })
    .unwrap_or_else(|e| panic!("{case}: the node is not as it was: {e:#}"));
}

#[test]
fn a_run_that_stopped_after_any_step_is_taken_back_whole() {
    let scenario = Scenario::start(2, &Scenario::workloads(4), with_static_pods).unwrap();
    scenario.prepare().unwrap();
    revert_at_every_step(&scenario, Cni::Calico, 5);
    revert_after_a_signal(&scenario, Cni::Calico, &["stop-agent", "start-agent"]);
    scenario.migrate(1, Cni::Calico).unwrap();
    scenario.must_be_whole_and_tidy("on Calico").unwrap();
    revert_at_every_step(&scenario, Cni::Flannel, 4);
    revert_after_a_signal(&scenario, Cni::Flannel, &["start-agent"]);
}
