//! The fleet before anything is changed: what a dry run shows for every node, and `nodectl report` over that and the nodes' own
//! preflight.

use serde_json::{Value, json};

use super::fixture::{Cluster, Done, finished};

/// What a node's `preflight --output json` prints, as far as the report looks at it.
fn preflight(node: &str, failed: &[&str]) -> Value {
    let mut checks: Vec<Value> =
        failed.iter().map(|name| json!({"name": name, "verdict": "fail", "found": "x"})).collect();
    checks.push(json!({"name": "root", "verdict": "pass", "found": "running as root"}));
    json!({"schema_version": 1, "changed": false, "node": node, "ready": failed.is_empty(), "checks": checks})
}

fn report(cluster: &Cluster, documents: &[(&str, String)]) -> Done {
    let mut command = std::process::Command::new(cluster.command(&["status"]).get_program());
    command.args(["report", "--output", "json"]);
    for (name, text) in documents {
        std::fs::write(cluster.fixture.path(name), text).unwrap();
        command.arg(cluster.fixture.path(name));
    }
    finished(command.output().unwrap())
}

#[test]
fn every_node_is_listed_with_what_it_needs_and_what_is_in_its_way() {
    let cluster = Cluster::start(3);
    cluster
        .patch("/api/v1/nodes/node1", &json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}));
    let wrong = json!({"metadata": {"annotations": {"flannel.alpha.coreos.com/backend-type": "host-gw"}}});
    cluster.patch("/api/v1/nodes/node3", &wrong);
    let blocked = cluster.run(&["prepare", "--dry-run"]).exits(3);
    let rows = blocked.json()["fleet"].clone();
    let column = |field: &str| rows.as_array().unwrap().iter().map(|row| row[field].clone()).collect::<Vec<_>>();
    assert_eq!(column("node"), ["node2", "node3", "node1"], "the control plane comes last");
    assert_eq!(column("blocked_by"), [json!([]), json!(["node-flannel"]), json!([])]);
    let right = json!({"metadata": {"annotations": {"flannel.alpha.coreos.com/backend-type": "vxlan"}}});
    cluster.patch("/api/v1/nodes/node3", &right);
    let fleet = cluster.run(&["prepare", "--dry-run"]).exits(0);
    let needs = &fleet.json()["fleet"][0]["needs"];
    assert_eq!(needs, &json!({"BlockAffinity": 4, "IPAMBlock": 4, "IPAMHandle": 2, "Node": 2}));

    let text = |node: &str, failed: &[&str]| preflight(node, failed).to_string();
    let good = [("n1", text("node1", &[])), ("n2", text("node2", &[])), ("n3", text("node3", &[]))];
    let with = |first: &Done, rest: &[(&'static str, String)]| {
        let mut all = vec![("fleet", first.stdout.clone())];
        all.extend(rest.iter().cloned());
        report(&cluster, &all)
    };
    assert_eq!(with(&fleet, &good).exits(0).json()["ready"], true);
    let whole = with(&blocked, &good).exits(3).json();
    assert_eq!(whole["nodes"][1]["ready"], false);
    assert_eq!(whole["nodes"][0]["ready"], true);
    // One was not asked, and one is not ready itself.
    let whole = with(&fleet, &[("n1", text("node1", &["mtu"])), ("n2", text("node2", &[]))]).exits(3).json();
    assert_eq!(whole["nodes"][1]["preflight"], Value::Null);
    assert_eq!(whole["nodes"][2]["preflight"], json!({"ready": false, "failed": ["mtu"]}));
    let odd = report(&cluster, &[("odd", "{}".to_owned())]).exits(64);
    assert!(odd.stderr.contains("To fix it: "), "{}", odd.stderr);
}
