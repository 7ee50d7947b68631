//! The Ansible collection with Debian's Ansible, on three booted nodes: installed, checked, a roll-out that takes back a node that
//! hangs and goes no further, one that goes through although the connection is lost in the middle, and the way back. What is done
//! is not done twice. And the other package, with Debian's dnf.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nodectl_lab::cluster::{Cluster, Network, Options};
use nodectl_lab::command;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::package::{self, Packages};
use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::wait::{PATIENCE, eventually, within};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The machine that Ansible runs on: a home with the collection, and an inventory.
struct Controller {
    home: tempfile::TempDir,
}

/// How a playbook ended.
struct Played {
    code: i32,
    text: String,
}

impl Controller {
    /// Workers node1 and node2, control plane node3. What hangs on node1 hangs for a quarter of a minute.
    fn new(scenario: &Scenario) -> Controller {
        let pid = |index| scenario.node(index).unwrap().pid().unwrap();
        let hosts = format!(
            "[kube_node]\nnode1 lab_pid={} nodectl_run_minutes=0.25\nnode2 lab_pid={}\nnode3 lab_pid={}\n\
             [kube_control_plane]\nnode3\n",
            pid(1),
            pid(2),
            pid(3)
        );
        Controller::of(&hosts, &Packages::under_test().unwrap().deb)
    }

    /// These hosts, which get this package.
    fn of(hosts: &str, package: &Path) -> Controller {
        let controller = Controller { home: tempfile::tempdir().unwrap() };
        let hosts = format!(
            "{hosts}[all:vars]\nansible_connection=lab\nansible_python_interpreter=/usr/bin/python3\nnodectl_package={}\n\
             nodectl_poll_seconds=1\n",
            package.display()
        );
        std::fs::write(controller.home.path().join("hosts"), hosts).unwrap();
        let installed =
            controller.run(&["ansible-galaxy", "collection", "install", &format!("{ROOT}/packaging/ansible")]);
        assert_eq!(installed.code, 0, "{}", installed.text);
        let described = controller.run(&["ansible-doc", "nodectl.cni.run"]);
        assert!(described.code == 0 && described.text.contains("cni-migrate.service"), "{}", described.text);
        controller
    }

    fn run(&self, argv: &[&str]) -> Played {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir(self.home.path());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.home.path());
        command
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_PIPELINING", "1");
        command.env("ANSIBLE_CONNECTION_PLUGINS", Path::new(ROOT).join("tests/system/ansible/connection"));
        let begin = Instant::now();
        let done = command::output(&mut command, "").unwrap();
        println!("{}: exit {} after {:?}", argv.join(" "), done.code, begin.elapsed());
        Played { code: done.code, text: format!("{}{}", done.stdout, done.stderr) }
    }

    /// A playbook of the collection.
    fn play(&self, name: &str, more: &[&str]) -> Played {
        let name = format!("nodectl.cni.{name}");
        self.run(&[&["ansible-playbook", "-i", "hosts", &name], more].concat())
    }
}

impl Played {
    /// It must have ended well, with so many changes on each node.
    #[track_caller]
    fn changed<const N: usize>(self, nodes: [usize; N]) -> Played {
        assert_eq!(self.code, 0, "{}", self.text);
        for (node, changes) in ["node1", "node2", "node3"].into_iter().zip(nodes) {
            let recap = self.recap(node);
            assert!(recap.contains(&format!(" changed={changes} ")), "not {changes} changes: {recap}\n{}", self.text);
        }
        self
    }

    fn recap(&self, node: &str) -> String {
        let recap = self.text.rsplit("PLAY RECAP").next().unwrap_or_default();
        recap.lines().find(|line| line.starts_with(node)).unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn says(self, words: &str) -> Played {
        assert!(self.text.contains(words), "{words} is not in:\n{}", self.text);
        self
    }
}

/// The node has this file.
fn has(node: &dyn Node, path: &str) -> bool {
    node.path(path).unwrap().exists()
}

/// While the playbook runs: as soon as a run is open on the node, this is done to it.
fn in_mid_run(controller: &Controller, node: &dyn Node, more: &[&str], act: impl FnOnce()) -> Played {
    std::thread::scope(|scope| {
        let played = scope.spawn(|| controller.play("migrate", more));
        let is_open = || has(node, "/var/lib/nodectl/open");
        within(PATIENCE * 2, "a run is open", || is_open() || played.is_finished());
        act();
        played.join().unwrap()
    })
}

/// Installing changes the node's files, once, and not in a check.
fn install(controller: &Controller, node: &dyn Node) {
    let checked = controller.play("install", &["--check", "--diff"]).says("+to = \"calico\"");
    assert!(checked.code == 0 && !checked.recap("node1").contains(" changed=0 "), "{}", checked.text);
    assert!(!has(node, "/var/cache/nodectl") && !has(node, "/etc/nodectl"), "{}", checked.text);
    let unasked = controller.play("preflight", &[]).says("nodectl is not on node1, and cannot be asked. To fix it: ");
    assert_ne!(unasked.code, 0, "{}", unasked.text);
    controller.play("install", &[]).changed([6; 3]);
    controller.play("preflight", &[]).changed([0; 3]).says("may be switched");
}

/// A switch that hangs on one of the first two nodes: it is taken back, the other one goes through, the third never begins.
fn stops_at_a_node_that_hangs(scenario: &Scenario, controller: &Controller) {
    let (node1, node3) = (scenario.node(1).unwrap(), scenario.node(3).unwrap());
    let failed = in_mid_run(controller, node1, &["-e", "nodectl_serial=2"], || {
        node1.must(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", "cni-migrate"]).unwrap();
    });
    assert_ne!(failed.code, 0, "{}", failed.text);
    let failed = failed.says("nodectl migrate --to calico still runs on node1");
    assert!(failed.recap("node1").contains(" rescued=1 "), "{}", failed.text);
    assert!(!has(node1, "/var/lib/nodectl/open"), "{}", failed.text);
    let history = scenario.nodectl(1, &["history", "--output", "json"]).unwrap().json().unwrap();
    assert_eq!(history["runs"][0]["outcome"], "put-back", "{history}");
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_on(2, Cni::Calico).unwrap();
    assert!(!has(node3, "/var/lib/nodectl/journal"), "{}", failed.text);
    scenario.settled().unwrap();
}

/// The connection is lost while a node is switched, and comes back: the switch is confirmed, and the roll-out goes on.
fn goes_on_when_the_connection_is_back(scenario: &Scenario, controller: &Controller) {
    let node = scenario.node(1).unwrap();
    let cut = node.path("/run/cut").unwrap();
    let more = ["-e", "nodectl_run_minutes=30", "-e", r#"{"nodectl_config": {"confirm_timeout": "30m"}}"#];
    let played = in_mid_run(controller, node, &more, || {
        std::fs::write(&cut, "").unwrap();
        let ended = || node.must(&["systemctl", "show", "--value", "-p", "ActiveState", "cni-migrate"]).unwrap();
        eventually("the switch ends without the connection", || ended().trim() != "activating");
        assert!(has(node, "/var/lib/nodectl/open"), "it is to be confirmed");
        eventually("the playbook has met the cut", || has(node, "/run/cut-was-met"));
        std::fs::remove_file(&cut).unwrap();
    });
    // The settings are others than before; the switch where it was not done yet.
    played.changed([2, 1, 2]);
    for index in 1..=3 {
        assert!(!has(scenario.node(index).unwrap(), "/var/lib/nodectl/open"));
        scenario.must_be_on(index, Cni::Calico).unwrap();
    }
    scenario.settled().unwrap();
}

#[test]
fn a_roll_out_stops_goes_through_and_comes_back() {
    let scenario = Scenario::start(3, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full; 3]).unwrap();
    scenario.cluster.nodes().for_each(|node| package::bare(node).unwrap());
    scenario.prepare().unwrap();
    let node = |index| scenario.node(index).unwrap();
    let controller = Controller::new(&scenario);

    install(&controller, node(1));
    controller.play("migrate", &["--check", "--diff"]).changed([1; 3]).says("+rename-overlay");
    assert!((1..=3).all(|index| !has(node(index), "/var/lib/nodectl/journal")));
    stops_at_a_node_that_hangs(&scenario, &controller);
    goes_on_when_the_connection_is_back(&scenario, &controller);
    let config = r#"{"nodectl_config": {"confirm_timeout": "30m"}}"#;
    controller.play("migrate", &["-e", config]).changed([0; 3]);
    let line = "node1: new pods get calico; last run flannel to calico, switched; nothing amiss";
    controller.play("report", &[]).changed([0; 3]).says(line);

    controller.play("revert", &["--check", "--diff"]).changed([1; 3]).says("+rename-overlay");
    scenario.must_be_on(1, Cni::Calico).unwrap();
    controller.play("revert", &["-e", "nodectl_run_minutes=30"]).changed([1; 3]);
    controller.play("revert", &[]).changed([0; 3]);
    (1..=3).for_each(|index| scenario.must_be_on(index, Cni::Flannel).unwrap());
    scenario.settled().unwrap();

    let shims = || (1..=3).filter(|index| has(node(*index), "/etc/cni/net.d/00-cni-shim.conflist")).count();
    controller.play("cleanup", &["--check"]).changed([1; 3]);
    assert_eq!(shims(), 3);
    controller.play("cleanup", &["-e", "nodectl_run_minutes=30"]).changed([1; 3]);
    assert_eq!(shims(), 0);
    controller.play("cleanup", &[]).changed([0; 3]);
}

/// What the .rpm asks for is on the node from Debian's packages; one of rpm's says so, as dnf knows no others.
const STAND_IN: &str = "cat > /root/stand-in.spec <<'END'
Name: stand-in
Version: 1
Release: 1
Summary: What Debian's packages provide
License: Apache-2.0
BuildArch: noarch
Provides: /bin/sh iptables ipset iproute kmod
%description
What Debian's packages provide.
%files
END
rpmbuild --quiet --define '_topdir /root/rpmbuild' -bb /root/stand-in.spec
rpm --force-debian -i /root/rpmbuild/RPMS/noarch/stand-in-1-1.noarch.rpm";

#[test]
fn the_rpm_is_installed_once_by_dnf() {
    let options =
        Options { nodes: 1, kinds: vec![Kind::Full], network: Network::None, api: false, ..Options::default() };
    let cluster = Cluster::start(options).unwrap();
    let node = cluster.node(1).unwrap();
    package::bare(node).unwrap();
    node.sh(STAND_IN).unwrap();
    let hosts = format!("[kube_node]\nnode1 lab_pid={}\n", node.pid().unwrap());
    let controller = Controller::of(&hosts, &Packages::under_test().unwrap().rpm);

    let checked = controller.play("install", &["--check", "--diff"]);
    assert!(checked.code == 0 && !has(node, "/var/cache/nodectl"), "{}", checked.text);
    assert!(!node.exec(&["rpm", "-q", "nodectl"]).unwrap().ok());
    controller.play("install", &[]).changed([6]);
    node.sh("rpm -V nodectl; nodectl --version; systemctl is-enabled nodectl-reap.timer").unwrap();
    controller.play("install", &[]).changed([0]);
    controller.play("install", &["--check"]).changed([0]);
    // A package that has gone comes back, and a check run says that it would.
    node.sh("rpm --force-debian -e nodectl").unwrap();
    let checked = controller.play("install", &["--check"]);
    assert!(checked.code == 0 && checked.recap("node1").contains(" changed=1 "), "{}", checked.text);
    assert!(!has(node, "/usr/bin/nodectl"), "{}", checked.text);
}
