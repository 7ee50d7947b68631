//! Pods of every kind on a node that is switched in place: adopted and deleted, born on the way, crashing, half begun, with limits
//! and ports, with more interfaces than one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use nodectl_lab::cluster::{is_ready, until};
use nodectl_lab::objects::{self, Manifest, workloads};
use nodectl_lab::scenario::in_place::{BACK, in_place, nothing_lost};
use nodectl_lab::scenario::{Cni, Driven, PATIENCE, Scenario};
use nodectl_lab::traffic::{Endpoint, Traffic};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(scenario: &Scenario, name: &str) -> Value {
    scenario.client.get(&format!("{PODS}/{name}")).unwrap()
}

fn ip(scenario: &Scenario, name: &str) -> String {
    pod(scenario, name)["status"]["podIP"].as_str().unwrap().to_owned()
}

/// The id of the pod's sandbox on node 1.
fn sandbox(scenario: &Scenario, name: &str) -> String {
    let uid = pod(scenario, name)["metadata"]["uid"].as_str().unwrap().to_owned();
    let sandboxes = scenario.node(1).unwrap().cri().unwrap().list_pod_sandbox().unwrap();
    let is_it = |labels: &std::collections::HashMap<String, String>| labels.get("io.kubernetes.pod.uid") == Some(&uid);
    sandboxes.into_iter().find(|sandbox| is_it(&sandbox.labels)).unwrap().id
}

/// Everything on node 1 and in Calico's address management that knows this sandbox or this address; and the devices of limits.
fn traces(scenario: &Scenario, sandbox: &str, ip: &str) -> Vec<String> {
    let script = format!(
        "grep -rlF {sandbox} /var/lib/cni /var/lib/cni-shim 2>/dev/null | sed 's/^/holds its id: /'; \
         find /var/lib/cni /var/lib/cni-shim /run/netns -name '*{sandbox}*' | sed 's/^/is named after it: /'; \
         ls /var/lib/cni/networks/*/{ip} 2>/dev/null | sed 's/^/lease: /'; \
         (ip route show table all; ip neigh show nud permanent) | grep -wF {ip} | sed 's/^/network: /'; \
         (iptables-nft-save; ipset save) | grep -wF -e {ip} -e {sandbox} | sed 's/^/rule: /'; \
         ip -o link | grep -o ' bwp[^:]*' | sed 's/^/device of limits: /'; true"
    );
    let mut found: Vec<String> = scenario.node(1).unwrap().sh(&script).unwrap().lines().map(str::to_owned).collect();
    for plural in ["ipamhandles", "ipamblocks"] {
        let objects = scenario.client.list(&format!("{}/{plural}", objects::calico::GROUP)).unwrap();
        let naming = objects.iter().filter(|object| object.to_string().contains(sandbox));
        found.extend(naming.map(|object| format!("{plural}: {}", object["metadata"]["name"])));
    }
    found
}

/// Deletes the pod, of which there must be traces of these kinds before, and none afterwards.
fn deleted_leaves_nothing(scenario: &Scenario, name: &str, kinds: &[&str]) {
    let (id, ip) = (sandbox(scenario, name), ip(scenario, name));
    let before = traces(scenario, &id, &ip);
    for kind in kinds {
        assert!(before.iter().any(|line| line.contains(kind)), "no {kind} while {name} lives: {before:#?}");
    }
    scenario.client.delete(&format!("{PODS}/{name}")).unwrap();
    until(PATIENCE, || {
        let mut left = traces(scenario, &id, &ip);
        left.extend(scenario.client.find(&format!("{PODS}/{name}"))?.map(|_| "its object".to_owned()));
        Ok((!left.is_empty()).then(|| format!("left of {name}: {left:#?}")))
    })
    .unwrap();
}

/// The same for the other pods, of Deployments and without a port, which go while node 1 is on this CNI.
#[track_caller]
fn the_others_leave_nothing(scenario: &Scenario, cni: Cni) {
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, cni).unwrap();
    scenario.must_leave_nothing().unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}

/// A pod on node 1 with a port of the node and limits of its bandwidth.
fn limited(name: &str) -> Manifest {
    let mut manifest = workloads::bare(name, Some("node1"));
    manifest.object["metadata"]["annotations"] =
        json!({"kubernetes.io/ingress-bandwidth": "50M", "kubernetes.io/egress-bandwidth": "50M"});
    manifest.object["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": workloads::ECHO_PORT, "hostPort": 8090, "protocol": "UDP"}]);
    manifest
}

fn lab(workloads: &[Manifest]) -> Scenario {
    let scenario = Scenario::start(2, workloads, |_| {}).unwrap();
    scenario.prepare().unwrap();
    scenario
}

#[test]
fn a_pod_adopted_then_deleted_leaves_nothing_on_either_side() {
    let scenario = lab(&Scenario::workloads(3));
    // flannel's own conflist has no limits; an administrator's may.
    scenario
        .node(1)
        .unwrap()
        .sh("cd /etc/cni/net.d && jq '.plugins += [{type: \"bandwidth\", capabilities: {bandwidth: true}}]' 10-flannel.conflist > /run/new \
             && cat /run/new > 10-flannel.conflist")
        .unwrap();
    objects::install(&scenario.client, &[limited("limited")]).unwrap();
    scenario.settled().unwrap();
    let limits = || scenario.node(1).unwrap().sh("tc qdisc show | grep -c tbf || true").unwrap();
    assert_eq!(limits().trim(), "2", "both directions have their limit");
    let before = scenario.identities().unwrap();
    scenario.switched_in_place(&in_place("calico")).unwrap();
    assert_eq!((scenario.identities().unwrap(), limits().trim()), (before, "2"));
    scenario.must_be_whole().unwrap();
    deleted_leaves_nothing(&scenario, "limited", &["attachments", "network", "CNI-DN", "limits", "ipam"]);
    the_others_leave_nothing(&scenario, Cni::Calico);
}

#[test]
fn a_pod_created_by_calico_then_reverted_then_deleted_leaves_nothing_on_either_side() {
    let scenario = lab(&Scenario::workloads(4));
    scenario.nodectl(1, &in_place("calico")).unwrap().expect(0).unwrap();
    scenario.spread_pods().unwrap();
    objects::install(&scenario.client, &[limited("limited")]).unwrap();
    scenario.settled().unwrap();
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 50).unwrap();
    scenario.switched_in_place(&BACK).unwrap();
    nothing_lost(traffic).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_whole().unwrap();
    deleted_leaves_nothing(&scenario, "limited", &["attachments", "lease", "flannel", "CNI-DN", "limits"]);
    the_others_leave_nothing(&scenario, Cni::Flannel);
}

/// Stops nodectl as a step begins, deletes a pod meanwhile, lets nodectl go on. Where it was stopped while it worked on that very
/// pod, the pod's DEL waits for it.
fn deletes_at(scenario: &Scenario, run: &mut Driven, step: &str, name: &str) {
    assert!(run.until("step", step).unwrap(), "{step}");
    run.pause().unwrap();
    scenario.client.delete(&format!("{PODS}/{name}")).unwrap();
    let patience = Instant::now() + Duration::from_secs(4);
    let is_there = || scenario.pods().unwrap().iter().any(|pod| pod["metadata"]["name"] == name);
    while is_there() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{name} was deleted at {step}{}", if is_there() { ", its DEL waits" } else { "" });
    run.go_on().unwrap();
}

/// A switch during which a pod is deleted at each of these steps, and new ones are asked for at its beginning.
fn with_pods_that_come_and_go(scenario: &Scenario, args: &[&str], steps: &[&str], way: &str) {
    let born = |n: usize| workloads::bare(&format!("born-{way}-{n}"), Some("node1"));
    // Being created while the plan is made, and while the hold begins.
    objects::install(&scenario.client, &(0..4).map(born).collect::<Vec<_>>()).unwrap();
    let mut run = scenario.drive(1, args).unwrap();
    assert!(run.until("step", "hold").unwrap());
    objects::install(&scenario.client, &(4..6).map(born).collect::<Vec<_>>()).unwrap();
    for step in steps {
        deletes_at(scenario, &mut run, step, &format!("victim-{way}-{step}"));
    }
    run.finish().unwrap().expect(0).unwrap();
}

#[test]
fn pods_that_come_and_go_under_the_run_end_whole_on_one_side() {
    const THERE: [&str; 4] = ["guide-pod", "detach-pod", "claim-pod", "release"];
    const BACK_STEPS: [&str; 4] = ["disclaim-pod", "lease-pod", "attach-pod", "unguide-pod"];
    let mut pods = workloads::web(3);
    pods.push(workloads::daemon_with_port("edge", 8081));
    let victims = |way: &str, steps: &[&str]| {
        steps.iter().map(|step| workloads::bare(&format!("victim-{way}-{step}"), Some("node1"))).collect::<Vec<_>>()
    };
    pods.extend(victims("there", &THERE));
    let scenario = lab(&pods);
    let stays = |scenario: &Scenario| {
        let mut pods = scenario.identities().unwrap();
        pods.retain(|_, [name, ..]| name.starts_with("web") || name.starts_with("edge"));
        pods
    };
    let before = stays(&scenario);
    let mut pairs = scenario.pairs_in_place().unwrap();
    let passes = |end: &Endpoint| !end.to_string().starts_with("victim");
    pairs.retain(|(from, to)| passes(from) && passes(to));
    let traffic = Traffic::start(&scenario.cluster, &pairs, 20).unwrap();
    with_pods_that_come_and_go(&scenario, &in_place("calico"), &THERE, "there");
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    scenario.must_leave_nothing().unwrap();
    assert_eq!(stays(&scenario), before);
    objects::install(&scenario.client, &victims("back", &BACK_STEPS)).unwrap();
    scenario.settled().unwrap();
    with_pods_that_come_and_go(&scenario, &BACK, &BACK_STEPS, "back");
    nothing_lost(traffic).unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    scenario.must_leave_nothing().unwrap();
    assert_eq!(stays(&scenario), before);
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
    scenario.must_be_whole().unwrap();
}

/// A container that ends again and again; a pod whose init container has not ended.
fn odd_pods() -> [Manifest; 2] {
    let shell = |script: &str| json!({"name": "shell", "image": "lab/pod", "command": ["sh", "-c", script]});
    let mut crashing = workloads::bare("crashing", Some("node1"));
    crashing.object["spec"]["containers"] = json!([shell("sleep 0.5; exit 1")]);
    let mut beginning = workloads::bare("beginning", Some("node1"));
    beginning.object["spec"]["initContainers"] = json!([shell("until [ -e /run/go ]; do sleep 0.1; done")]);
    [crashing, beginning]
}

#[test]
fn pods_that_crash_or_have_not_begun_keep_their_address_and_leave_nothing() {
    let scenario = lab(&workloads::web(2));
    objects::install(&scenario.client, &odd_pods()).unwrap();
    let addressed = |name: &str| pod(&scenario, name)["status"]["podIP"].is_string();
    until(PATIENCE, || {
        let restarts = &pod(&scenario, "crashing")["status"]["containerStatuses"][0]["restartCount"];
        let ready = restarts.as_u64().unwrap_or(0) > 0 && addressed("crashing") && addressed("beginning");
        Ok((!ready).then(|| "the pods have not come to where they are to be".to_owned()))
    })
    .unwrap();
    let places = || ["crashing", "beginning"].map(|name| (sandbox(&scenario, name), ip(&scenario, name)));
    let before = places();
    scenario.nodectl(1, &in_place("calico")).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    assert_eq!(places(), before);
    deleted_leaves_nothing(&scenario, "crashing", &["attachments", "network", "ipam"]);
    scenario.node(1).unwrap().sh("touch /run/go").unwrap();
    until(PATIENCE, || Ok((!is_ready(&pod(&scenario, "beginning"))).then(|| "it does not begin".to_owned()))).unwrap();
    assert_eq!((sandbox(&scenario, "beginning"), ip(&scenario, "beginning")), before[1]);
    scenario.must_be_whole().unwrap();
    // And back, this time with a pod of Calico's own that crashes.
    objects::install(&scenario.client, &odd_pods()[..1]).unwrap();
    until(PATIENCE, || Ok((!addressed("crashing")).then(|| "it has no address".to_owned()))).unwrap();
    let before = places();
    scenario.nodectl(1, &BACK).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    assert_eq!(places(), before);
    deleted_leaves_nothing(&scenario, "crashing", &["attachments", "lease"]);
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    scenario.must_leave_nothing().unwrap();
}

#[test]
fn pods_with_more_interfaces_or_addresses_are_named_and_rebuilt_where_that_is_asked_for() {
    let scenario = lab(&workloads::web(2));
    let pods: Vec<Manifest> = ["two-links", "two-ips"].map(|name| workloads::bare(name, Some("node1"))).into();
    objects::install(&scenario.client, &pods).unwrap();
    scenario.settled().unwrap();
    let node = scenario.node(1).unwrap();
    for (name, command) in
        [("two-links", "link add net1 up type veth peer name net2"), ("two-ips", "address add 10.99.0.1/24 dev eth0")]
    {
        let netns = node.cri().unwrap().sandbox_netns(&sandbox(&scenario, name)).unwrap().unwrap();
        node.sh(&format!("nsenter --net={netns} ip {command}")).unwrap();
    }
    // To a node that is gone: flannel leaves such routes, and nobody will replace it.
    node.sh("ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink").unwrap();
    let refused = scenario.nodectl(1, &in_place("calico")).unwrap().expect(3).unwrap();
    let told = refused.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "default/two-links: it has more interfaces than eth0: net1",
        "default/two-ips: it has several addresses on eth0",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let before = scenario.identities().unwrap();
    let restart = [in_place("calico"), vec!["--unadoptable", "restart"]].concat();
    scenario.nodectl(1, &restart).unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    // By the container: a pod that is rebuilt may well be given the address that it had.
    for (uid, [name, _, container]) in &scenario.identities().unwrap() {
        let stayed = before[uid][2] == *container;
        assert_eq!(stayed, !name.starts_with("two-"), "{name}: {container}, {:?} before", before[uid]);
    }
    scenario.must_leave_nothing().unwrap();
    scenario.must_be_whole().unwrap();
}
