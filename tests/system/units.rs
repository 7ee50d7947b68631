//! nodectl's units under a real systemd: what they may do, a switch as a unit, and the dead-man timer.

use std::time::Duration;

use nodectl_lab::cluster::{Cluster, Network, Options, until};
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::wait::{PATIENCE, eventually};
use serde_json::Value;

const UNITS: [&str; 6] = [
    "cni-migrate.service",
    "nodectl-boot.service",
    "nodectl-deadman.service",
    "nodectl-reap.service",
    "nodectl-reap.timer",
    "nodectl-settle.service",
];
const MOTD: &str = "/run/motd.d/85-nodectl.motd";

/// A full and a light node with flannel and pods, the cluster prepared.
fn scenario() -> Scenario {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full]).unwrap();
    scenario.settled().unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// What the node's configuration file says.
fn configure(node: &dyn Node, text: &str) {
    let usual = "drain_timeout = 60\nagent_timeout = 60\n";
    let script = format!("mkdir -p /etc/nodectl && cat > /etc/nodectl/config.toml <<'END'\n{usual}{text}\nEND");
    node.sh(&script).unwrap();
}

/// A property of a unit.
fn property(node: &dyn Node, unit: &str, name: &str) -> String {
    node.must(&["systemctl", "show", "--value", "-p", name, unit]).unwrap().trim().to_owned()
}

/// Entries of the system's journal.
fn entries(node: &dyn Node, filter: &str) -> Vec<Value> {
    let lines = node.sh(&format!("journalctl -q -b -o json --no-pager {filter}")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_open(node: &dyn Node) -> bool {
    node.path("/var/lib/nodectl/open").unwrap().exists()
}

/// The file that a login shows, where there is one.
fn motd(node: &dyn Node) -> Option<String> {
    let text = std::fs::read_to_string(node.path(MOTD).unwrap()).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What the units said, for a message.
fn log(node: &dyn Node) -> String {
    let units = "-u cni-migrate -u nodectl-deadman -u nodectl-settle -u nodectl-boot -u containerd -u kubelet";
    node.sh(&format!("journalctl -b -n 400 --no-pager -o cat {units}")).unwrap_or_default()
}

#[test]
fn the_units_are_well_formed_and_closed_as_far_as_they_can_be() {
    let options =
        Options { nodes: 1, kinds: vec![Kind::Full], network: Network::None, api: false, ..Options::default() };
    let cluster = Cluster::start(options).unwrap();
    let node = cluster.node(1).unwrap();
    for unit in UNITS {
        let verified =
            node.exec(&["systemd-analyze", "verify", "--man=no", &format!("/usr/lib/systemd/system/{unit}")]).unwrap();
        assert_eq!((verified.code, verified.stdout.as_str(), verified.stderr.as_str()), (0, "", ""), "{unit}");
        if unit.ends_with(".service") {
            let rated = node.must(&["systemd-analyze", "security", "--no-pager", unit]).unwrap();
            let level = rated.lines().find(|line| line.contains("Overall exposure level")).unwrap();
            let level: f64 = level.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(level <= 4.7, "{unit}: {rated}");
        }
    }
    // What nobody enables is started by hand, or by another unit.
    for (unit, state) in [
        ("cni-migrate.service", "static"),
        ("nodectl-deadman.service", "static"),
        ("nodectl-settle.service", "disabled"),
    ] {
        assert_eq!(property(node, unit, "UnitFileState"), state, "{unit}");
    }
    // No ordering by which a job would wait for one that waits for it.
    for unit in ["cni-migrate.service", "nodectl-deadman.service", "nodectl-settle.service"] {
        let order = format!("{} {}", property(node, unit, "Before"), property(node, unit, "After"));
        assert!(!order.contains("kubelet"), "{unit}: {order}");
    }
    // Without an open run the boot-time units end at once, and a switch that cannot be is a failed start.
    for unit in ["nodectl-boot.service", "nodectl-settle.service", "nodectl-deadman.service"] {
        node.must(&["systemctl", "start", unit]).unwrap();
        assert_eq!(property(node, unit, "ConditionResult"), "no", "{unit}");
    }
    assert_eq!(node.exec(&["systemctl", "start", "cni-migrate"]).unwrap().code, 1);
    assert_eq!(property(node, "cni-migrate.service", "ExecMainStatus"), "3", "{}", log(node));
}

#[test]
fn a_switch_is_a_unit_that_succeeds_or_fails_with_it() {
    let scenario = scenario();
    let node = scenario.node(1).unwrap();
    configure(node, "to = 'calico'");
    node.must(&["systemctl", "start", "--no-block", "cni-migrate"]).unwrap();
    let mut seen = String::new();
    let pod_is_named = || {
        let text = property(node, "cni-migrate.service", "StatusText");
        seen.push_str(&format!("{text}\n"));
        text.starts_with("step ") && text.contains(": default/")
    };
    eventually("systemctl status says step and pod", pod_is_named);
    assert!(motd(node).is_some_and(|text| text.contains("flannel -> Calico")), "{:?}", motd(node));
    eventually_within(Duration::from_secs(180), "the unit has ended", || {
        property(node, "cni-migrate.service", "ActiveState") != "activating"
    });
    assert_eq!(property(node, "cni-migrate.service", "Result"), "success", "{seen}\n{}", log(node));
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    assert!(!is_open(node) && motd(node).is_none());
    // The journal: every step by name, and the end by its id.
    let history = scenario.nodectl(1, &["history", "--output", "json"]).unwrap().json().unwrap();
    let run = &history["runs"][0];
    assert_eq!((run["outcome"].as_str(), run["by"].as_str()), (Some("switched"), Some("cni-migrate.service")), "{run}");
    assert_eq!(run["plan"].as_str().map(str::len), Some(64), "{run}");
    let told = entries(node, &format!("NODECTL_RUN={}", run["run"].as_str().unwrap()));
    let has = |name: &str, value: &str| told.iter().any(|entry| entry[name] == value);
    assert!(has("NODECTL_STEP", "stop-agent") && has("NODECTL_STEP", "clean"), "{told:#?}");
    assert!(told.iter().any(|entry| entry["NODECTL_POD"].as_str().is_some_and(|pod| pod.starts_with("default/"))));
    assert!(has("MESSAGE_ID", nodectl::events::Event::Switched.id()), "{told:#?}");
    // Stopped in its middle: it takes itself back, and the unit has failed.
    configure(node, "to = 'flannel'");
    node.must(&["systemctl", "start", "--no-block", "cni-migrate"]).unwrap();
    eventually("it is at work", || property(node, "cni-migrate.service", "StatusText").contains("stop Calico"));
    node.must(&["systemctl", "stop", "cni-migrate"]).unwrap();
    assert_eq!(property(node, "cni-migrate.service", "ExecMainStatus"), "4", "{}", log(node));
    assert!(!is_open(node), "{}", log(node));
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    // Killed in its middle: the hook takes it back.
    node.must(&["systemctl", "start", "--no-block", "cni-migrate"]).unwrap();
    eventually("it is at work again", || property(node, "cni-migrate.service", "StatusText").contains("stop Calico"));
    node.must(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "cni-migrate"]).unwrap();
    eventually("the hook has closed the run", || !is_open(node));
    until(PATIENCE, || Ok(scenario.must_be_on(1, Cni::Calico).err().map(|error| format!("{error:#}"))))
        .unwrap_or_else(|error| panic!("{error:#}; the units said: {}", log(node)));
}

#[test]
fn a_switch_that_nobody_confirms_is_taken_back() {
    let scenario = scenario();
    let node = scenario.node(1).unwrap();
    // Confirmed: it is kept.
    configure(node, "to = 'calico'\nconfirm_timeout = '10m'");
    node.must(&["systemctl", "start", "cni-migrate"]).unwrap_or_else(|error| panic!("{error:#}: {}", log(node)));
    node.must(&["ip", "link", "show", "dev", "vxlan.calico"]).unwrap();
    assert_eq!(property(node, "nodectl-deadman.timer", "ActiveState"), "active");
    assert!(motd(node).is_some_and(|text| text.contains("nodectl confirm")), "{:?}", motd(node));
    let status = scenario.nodectl(1, &["status"]).unwrap().expect(5).unwrap();
    assert!(status.stdout.contains("done and unconfirmed"), "{}", status.stdout);
    // Who rolls the cluster sees it too, and does not finish what may be taken back.
    assert_eq!(scenario.run_note(1).unwrap()["state"], "unconfirmed");
    let cluster = scenario.cluster_command(&["status"]).unwrap();
    assert!(cluster.stdout.contains("done, UNCONFIRMED, since"), "{}", cluster.all());
    let finish = scenario.cluster_command(&["finish"]).unwrap();
    assert!(finish.code == 3 && finish.all().contains("UNCONFIRMED"), "{}", finish.all());
    // The unit that finishes interrupted runs leaves it alone, and so does a second switch.
    scenario.nodectl(1, &["resume", "--at-boot", "settle", "--yes"]).unwrap().expect(0).unwrap();
    scenario.nodectl(1, &["migrate", "--yes"]).unwrap().expect(3).unwrap();
    assert!(is_open(node));
    scenario.nodectl(1, &["confirm", "another"]).unwrap().expect(3).unwrap();
    scenario.nodectl(1, &["confirm"]).unwrap().expect(0).unwrap();
    assert_eq!(scenario.run_note(1).unwrap()["state"], "switched");
    assert_eq!(property(node, "nodectl-deadman.timer", "ActiveState"), "inactive");
    scenario.must_be_on(1, Cni::Calico).unwrap();
    assert!(!is_open(node) && motd(node).is_none());
    assert_eq!(property(node, "nodectl-boot.service", "UnitFileState"), "disabled");
    scenario.nodectl(1, &["confirm"]).unwrap().expect(0).unwrap();
    scenario.settled().unwrap();
    // Not confirmed.
    let args = ["migrate", "--to", "flannel", "--confirm-timeout", "60s", "--yes"];
    scenario.nodectl(1, &args).unwrap().expect(0).unwrap();
    node.must(&["ip", "link", "show", "dev", "flannel.1"]).unwrap();
    let elapsed = || entries(node, &format!("MESSAGE_ID={}", nodectl::events::Event::NotConfirmed.id())).len();
    eventually_within(Duration::from_secs(120), "the timer has elapsed", || elapsed() > 0);
    must_be_back(&scenario, Cni::Calico);
    scenario.settled().unwrap();
    let before = elapsed();
    // Nor this one, and the node is cut off meanwhile: it goes back as far as it can alone, and to the end with the API server.
    scenario.nodectl(1, &args).unwrap().expect(0).unwrap();
    node.must(&["ip", "link", "show", "dev", "flannel.1"]).unwrap();
    node.sh("ip -j route show dev eth0 default > /run/default; ip link set eth0 down").unwrap();
    eventually_within(Duration::from_secs(120), "the timer has elapsed", || elapsed() > before);
    eventually_within(Duration::from_secs(120), "it is back as far as it can be", || {
        motd(node).is_some_and(|text| text.contains("taken back; something is owed"))
    });
    node.sh("ip link set eth0 up; ip route replace default via 192.168.77.254").unwrap();
    must_be_back(&scenario, Cni::Calico);
    // A reboot before it was confirmed.
    scenario.settled().unwrap();
    let args = ["migrate", "--to", "flannel", "--confirm-timeout", "1h", "--yes"];
    scenario.nodectl(1, &args).unwrap().expect(0).unwrap();
    node.must(&["ip", "link", "show", "dev", "flannel.1"]).unwrap();
    node.power_cut().unwrap();
    node.start().unwrap();
    must_be_back(&scenario, Cni::Calico);
}

fn eventually_within(limit: Duration, what: &str, mut is: impl FnMut() -> bool) {
    until(limit, || Ok((!is()).then(|| format!("not yet: {what}")))).unwrap();
}

/// The run is closed and the node is on the CNI that it was on.
fn must_be_back(scenario: &Scenario, cni: Cni) {
    let node = scenario.node(1).unwrap();
    let fault = || match is_open(node) {
        true => Some("the run is open".to_owned()),
        false => scenario.must_be_on(1, cni).err().map(|error| format!("{error:#}")),
    };
    until(Duration::from_secs(180), || Ok(fault())).unwrap_or_else(|error| {
        let remembered = node.sh("nodectl shim status").unwrap_or_default();
        panic!("{error:#}; the units said: {}\n{remembered}", log(node))
    });
    assert_eq!(property(node, "nodectl-settle.service", "UnitFileState"), "disabled");
    scenario.settled().unwrap();
}
