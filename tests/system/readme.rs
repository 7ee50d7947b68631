//! The README's commands: those of its blocks one after the other, as a reader would type them, on two booted nodes with the
//! package; for the others, which test runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nodectl_lab::cluster::{Cluster, Options};
use nodectl_lab::command;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::objects::{self, Manifest, calico, calico_crds};
use nodectl_lab::package::{self, Packages};
use nodectl_lab::scenario::{PATIENCE, Scenario};
use serde::Deserialize;
use serde_json::Value;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const README: &str = include_str!("../../README.md");

/// Commands that are run elsewhere: as the README has it, the file that runs it, and by which words.
const ELSEWHERE: [(&str, &str, &str); 26] = [
    ("sudo tests/demo", "tests/system/readme.rs", "fn the_demo_goes_through"),
    ("sudo tests/run", ".ci/run", "tests/run"),
    ("sudo nodectl doctor", "tests/cleanup/doctor.rs", "blackhole-shadows-pods"),
    ("packaging/package", "tests/packages", "packaging/package"),
    ("packaging/build", "packaging/package", "$(packaging/build"),
    // What it leads to, whether it was typed or not.
    ("rustup target add x86_64-unknown-linux-musl", "tests/system/package.rs", "INTERP"),
    ("nodectl report fleet.json node*.json", "tests/kube/prepare/fleet.rs", r#""report""#),
    ("cluster prepare --dry-run --output json", "tests/kube/prepare/fleet.rs", "--dry-run"),
    ("preflight --output json", "tests/switch/contract/documents.rs", "preflight"),
    ("nodectl cluster prepare --pace", "tests/kube/prepare/pace.rs", "--pace"),
    ("nodectl cluster allow NODE...", "tests/kube/prepare/pace.rs", r#""allow""#),
    ("nodectl cluster pause", "tests/kube/prepare/pace.rs", r#""pause""#),
    ("nodectl migrate --when-allowed", "tests/switch/round_trip.rs", "--when-allowed"),
    ("nodectl cluster abort", "tests/kube/prepare/kills.rs", r#""abort""#),
    ("nodectl shim upgrade", "tests/shim/nodes/reap.rs", r#""shim", "upgrade""#),
    ("nodectl cleanup --flannel", "tests/cleanup/hostile.rs", "--flannel"),
    ("nodectl revert --take-over", "tests/switch/signals.rs", "--take-over"),
    ("nodectl migrate --strategy in-place", "tests/lab/src/scenario/in_place.rs", r#""--strategy", "in-place""#),
    ("nodectl revert --strategy in-place", "tests/lab/src/scenario/in_place.rs", r#""revert""#),
    ("nodectl migrate --confirm-timeout 15m", "tests/system/units.rs", "--confirm-timeout"),
    ("nodectl confirm", "tests/system/units.rs", r#""confirm""#),
    ("nodectl probe", "tests/inplace/probe_command.rs", r#""probe""#),
    ("systemctl start cni-migrate", "tests/system/units.rs", r#""start", "cni-migrate""#),
    ("systemctl status cni-migrate", "tests/system/units.rs", "StatusText"),
    ("systemctl stop cni-migrate", "tests/system/units.rs", r#""stop", "cni-migrate""#),
    ("journalctl NODECTL_RUN=...", "tests/system/units.rs", "NODECTL_RUN={}"),
];

/// What a command begins with, in the text between the blocks.
const PROGRAMS: [&str; 9] =
    ["nodectl ", "cluster ", "preflight ", "apt ", "systemctl ", "journalctl ", "rustup ", "packaging/", "tests/"];

/// Of these exit code 2 is an answer, too: nodes are still to be switched, there are findings.
const PENDING: [&str; 2] = ["nodectl cluster status", "nodectl doctor"];

/// Who types a command of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    /// Root of node N.
    Node(usize),
    /// The administrator.
    Admin,
    /// The reader, on a machine of his own.
    Elsewhere,
}

/// The commands of all blocks, in order. A block without prompts holds commands alone; else a line without one is output.
fn typed() -> Vec<(At, &'static str)> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.flat_map(|block| block.lines().skip(1).filter(|line| !line.is_empty()).map_while(command_of)).collect()
}

fn command_of(line: &'static str) -> Option<(At, &'static str)> {
    for (prompt, at) in
        [("node1# ", At::Node(1)), ("node2# ", At::Node(2)), ("admin$ ", At::Admin), ("$ ", At::Elsewhere)]
    {
        if let Some(command) = line.strip_prefix(prompt) {
            return Some((at, command.trim()));
        }
    }
    // What nodectl printed ends the block; it has no command behind it.
    let command = line.split(" #").next().unwrap_or_default().trim();
    command.starts_with("sudo ").then_some((At::Elsewhere, command))
}

/// The commands in the text between the blocks.
fn mentioned() -> BTreeSet<String> {
    let prose: String = README.split("```").step_by(2).collect();
    let spans = prose.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    spans.filter(|span| PROGRAMS.iter().any(|program| span.starts_with(program))).collect()
}

/// Whether a block runs what the text mentions: the same, or the same with `--yes` or an argument, but not its dry run alone.
fn is_typed(mentioned: &str) -> bool {
    let whole = if mentioned.starts_with("cluster ") { format!("nodectl {mentioned}") } else { mentioned.to_owned() };
    typed()
        .iter()
        .filter(|(at, _)| *at != At::Elsewhere)
        .filter_map(|(_, command)| command.strip_prefix(&whole))
        .any(|rest| rest.is_empty() || (rest.starts_with(' ') && !rest.contains("--dry-run")))
}

#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    let blocks = typed().into_iter().filter(|(at, _)| *at == At::Elsewhere).map(|(_, command)| command.to_owned());
    let not_typed: BTreeSet<String> =
        mentioned().into_iter().filter(|command| !is_typed(command)).chain(blocks).collect();
    let listed: BTreeSet<String> = ELSEWHERE.iter().map(|(command, ..)| (*command).to_owned()).collect();
    let unknown: Vec<&String> = not_typed.difference(&listed).collect();
    assert!(
        unknown.is_empty(),
        "no test runs these: put them into a block of the README, or into ELSEWHERE: {unknown:#?}"
    );
    let stale: Vec<&String> = listed.difference(&not_typed).collect();
    assert!(stale.is_empty(), "these are in ELSEWHERE and not in the README, or in a block of it, too: {stale:#?}");
    for (command, file, words) in ELSEWHERE {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(text.contains(words), "{file} runs `{command}` no more: {words} is not in it");
    }
}

#[test]
fn the_demo_goes_through() {
    let script = fs::read_to_string(Path::new(ROOT).join("tests/demo")).unwrap();
    assert!(script.trim_end().ends_with(r#"/debug/nodectl-lab" demo"#), "{script}");
    let done = command::output(Command::new(Options::default().binary).arg("demo"), "").unwrap();
    assert!(done.ok() && done.stdout.contains("Nothing of it is left on this machine."), "{done:?}");
}

/// Two booted nodes on flannel with pods, and nothing of Calico or nodectl.
fn before_the_first_command() -> Scenario {
    let options = Options { nodes: 2, kinds: vec![Kind::Full; 2], ..Options::default() };
    let cluster = Cluster::start(options).unwrap();
    cluster.wait_nodes_ready(PATIENCE).unwrap();
    let client = cluster.client().unwrap();
    objects::install(&client, &Scenario::workloads(3)).unwrap();
    let scenario = Scenario { cluster, client };
    scenario.settled().unwrap();
    scenario.cluster.nodes().for_each(|node| package::bare(node).unwrap());
    scenario
}

/// Calico as it is delivered, in the order of its manifest.
fn calicos() -> Vec<Manifest> {
    [calico_crds::manifests(), calico::manifests(&calico::Calico::default())].concat()
}

/// The administrator works on the second node. kubectl is not packaged by Debian: what it is told to apply is written down, and
/// applied by the test.
fn administrator<'a>(scenario: &'a Scenario, packages: &Packages) -> &'a dyn Node {
    let admin = scenario.node(2).unwrap();
    package::install(admin, &packages.deb).unwrap();
    let put = |path: &str, text: &str| fs::write(admin.path(path).unwrap(), text).unwrap();
    let config = scenario.cluster.api().unwrap().admin_kubeconfig().unwrap();
    let mut config: Value = yaml_serde::from_str(&config).unwrap();
    config["clusters"][0]["cluster"]["server"] = "https://192.168.77.254:6443".into();
    put("/root/admin.conf", &config.to_string());
    put(
        "/root/calico.yaml",
        &calicos().iter().map(|manifest| format!("---\n{}\n", manifest.object)).collect::<String>(),
    );
    put("/usr/local/bin/kubectl", "#!/bin/sh\n[ \"$*\" = 'apply -f -' ] && exec cat >/root/applied.yaml\n");
    admin.sh("chmod 755 /usr/local/bin/kubectl").unwrap();
    admin
}

/// Does what kubectl was told.
fn apply(scenario: &Scenario, text: &str) {
    let documents = yaml_serde::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    let documents: Vec<Value> = documents.filter(|document| !document.is_null()).collect();
    let delivered = calicos();
    assert_eq!(documents.len(), delivered.len(), "{text}");
    let safe = delivered.into_iter().zip(documents).map(|(was, object)| {
        assert_eq!(was.object["metadata"]["name"], object["metadata"]["name"]);
        Manifest { object, ..was }
    });
    objects::install(&scenario.client, &safe.collect::<Vec<_>>()).unwrap();
}

/// A shell on the node, in the folder that holds the downloads; it says yes where it is asked.
#[track_caller]
fn run(node: &dyn Node, line: &str) {
    let script =
        format!("cd /root; export KUBECONFIG=/root/admin.conf DEBIAN_FRONTEND=noninteractive; set -o pipefail; {line}");
    let done = node.exec_with_input(&["bash", "-c", &script], "y\n").unwrap();
    println!("{}# {line}: exit {}", node.name(), done.code);
    let is_answer = done.ok() || (done.code == 2 && PENDING.iter().any(|start| line.starts_with(start)));
    assert!(is_answer, "`{line}` on {}: exit {}\n{}{}", node.name(), done.code, done.stdout, done.stderr);
}

#[test]
fn the_commands_of_the_blocks_work_in_their_order() {
    let packages = Packages::under_test().unwrap();
    let scenario = before_the_first_command();
    package::send(scenario.node(1).unwrap(), &packages.deb).unwrap();
    let admin = administrator(&scenario, &packages);
    let applied = admin.path("/root/applied.yaml").unwrap();

    for (at, line) in typed() {
        let node = match at {
            At::Node(index) => scenario.node(index).unwrap(),
            At::Admin => admin,
            At::Elsewhere => continue,
        };
        run(node, line);
        if let Ok(text) = fs::read_to_string(&applied) {
            apply(&scenario, &text);
            fs::remove_file(&applied).unwrap();
        }
        // What a person does between two commands: look whether all is well.
        scenario.settled().unwrap();
    }
    for index in [1, 2] {
        let object = scenario.node_object(index).unwrap();
        assert!(object["metadata"]["labels"]["nodectl.io/cni"].is_null(), "the cluster was finished: {object}");
    }
    let gone = "test ! -e /usr/bin/nodectl; test ! -e /etc/nodectl; test ! -e /var/lib/nodectl";
    scenario.node(1).unwrap().sh(gone).unwrap();
    for node in scenario.cluster.nodes() {
        node.sh("ip link show vxlan.calico; ! ip link show flannel.1; ! ip link show cni0").unwrap();
    }
}
