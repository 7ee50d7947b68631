//! Faults in what the API server says of the node: its preparation, its annotations, its pods.

use anyhow::{Context, Result};
use nodectl_lab::objects::{self, workloads};
use nodectl_lab::scenario::Scenario;
use serde_json::{Value, json};

use super::provoke::{annotate, annotation, fails, look, patch_node, provoke, start, warns};

const PREPARED: &str = "nodectl.io/prepared";
const BACKEND: &str = "flannel.alpha.coreos.com/backend-type";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
const CALICO_IP: &str = "projectcalico.org/IPv4Address";

#[test]
fn faults_of_the_preparation_are_named() {
    let scenario = start().unwrap();
    let text = annotation(&scenario, PREPARED).unwrap();
    let prepared: Value = serde_json::from_str(&text).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut changed = prepared.clone();
        change(&mut changed);
        json!({PREPARED: changed.to_string()})
    };
    let cases = [
        (fails("prepared", "not prepared"), json!({PREPARED: null})),
        (fails("prepared", "it is not JSON"), json!({PREPARED: "{"})),
        (fails("prepared", "version 9"), with(|p| p["version"] = json!(9))),
        (fails("prepared", "does not parse"), with(|p| p["vtep"] = json!("here"))),
        (fails("prepared", "hours ago"), with(|p| p["prepared_at"] = json!("2026-01-01T00:00:00Z"))),
        (fails("images", "lab/calico-node:v9"), with(|p| p["calico"]["images"] = json!(["lab/calico-node:v9"]))),
        (fails("pod-cidr", "prepare recorded 10.244.9.0/24"), with(|p| p["pod_cidr"] = json!("10.244.9.0/24"))),
        (fails("mtu", "prepared with 1400"), with(|p| p["mtu"] = json!(1400))),
        (fails("public-ip", "is on no device"), with(|p| p["vtep"]["public_ip"] = json!("192.168.77.99"))),
    ];
    for (expected, change) in cases {
        // Where prepare's word on the address is changed, flannel's annotation says the same.
        let moved = expected.cause == "is on no device";
        let make = |s: &Scenario| {
            annotate(s, &change)?;
            if moved { annotate(s, &json!({PUBLIC_IP: "192.168.77.99"})) } else { Ok(()) }
        };
        let mend = |s: &Scenario| annotate(s, &json!({PREPARED: text, PUBLIC_IP: "192.168.77.1"}));
        provoke(&scenario, &expected, make, mend).unwrap();
    }
    let label =
        |value: Value| json!({"metadata": {"labels": {"projectcalico.org/node-network-during-migration": value}}});
    let migration = fails("prepared", "garbage collector");
    provoke(
        &scenario,
        &migration,
        |s| patch_node(s, &label(json!("calico"))),
        |s| patch_node(s, &label(json!("flannel"))),
    )
    .unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
}

#[test]
fn faults_of_the_network_and_the_node_are_named() {
    let scenario = start().unwrap();
    let set = |name: &'static str, value: &'static str| move |s: &Scenario| annotate(s, &json!({name: value}));
    provoke(&scenario, &fails("scope", "host-gw"), set(BACKEND, "host-gw"), set(BACKEND, "vxlan")).unwrap();
    provoke(&scenario, &fails("public-ip", "10.9.9.9"), set(PUBLIC_IP, "10.9.9.9"), set(PUBLIC_IP, "192.168.77.1"))
        .unwrap();
    let own = annotation(&scenario, CALICO_IP).unwrap();
    let back = |s: &Scenario| annotate(s, &json!({CALICO_IP: own}));
    provoke(&scenario, &fails("public-ip", "Calico would use 10.8.8.8"), set(CALICO_IP, "10.8.8.8/24"), back).unwrap();
    not_ready(&scenario).unwrap();
    pods(&scenario).unwrap();
    scenario.settled().unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
}

fn not_ready(scenario: &Scenario) -> Result<()> {
    let stop = |s: &Scenario| {
        s.node(1)?.stop_unit("kubelet.service")?;
        // What the node lifecycle controller writes after 40 s of silence.
        let conditions: Vec<Value> = s.node_object(1)?["status"]["conditions"]
            .as_array()
            .context("no conditions")?
            .iter()
            .map(|c| {
                let mut c = c.clone();
                if c["type"] == "Ready" {
                    (c["status"], c["reason"]) = (json!("Unknown"), json!("NodeStatusUnknown"));
                }
                c
            })
            .collect();
        let path = format!("{}/status", super::provoke::NODE);
        s.client.patch(&path, nodectl_lab::client::Patch::Merge, &json!({"status": {"conditions": conditions}}))?;
        Ok(())
    };
    let start = |s: &Scenario| {
        s.node(1)?.start_unit("kubelet.service")?;
        s.cluster.wait_nodes_ready(nodectl_lab::scenario::PATIENCE)
    };
    provoke(scenario, &fails("node-ready", "Unknown (NodeStatusUnknown)"), stop, start)
}

/// Pods that a drain cannot move, or that lose something by it.
fn pods(scenario: &Scenario) -> Result<()> {
    let bare = workloads::bare("lonely", Some("node1"));
    let mut scratch = workloads::deployment("scratch", 2);
    scratch.object["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let stuck = workloads::guarded("stuck", 2, 2);
    let remove = |s: &Scenario, path: &str| s.client.delete(path).map(drop).map_err(anyhow::Error::from);

    objects::install(&scenario.client, std::slice::from_ref(&bare))?;
    look(scenario, &fails("bare-pods", "default/lonely"), &[])?;
    look(scenario, &warns("bare-pods", "default/lonely"), &["--force"])?;
    remove(scenario, &bare.path())?;

    objects::install(&scenario.client, std::slice::from_ref(&scratch))?;
    look(scenario, &fails("local-storage", "default/scratch-"), &[])?;
    look(scenario, &warns("local-storage", "default/scratch-"), &["--delete-emptydir-data"])?;
    remove(scenario, &scratch.path())?;

    objects::install(&scenario.client, &stuck)?;
    scenario.cluster.wait_nodes_ready(nodectl_lab::scenario::PATIENCE)?;
    look(scenario, &warns("disruption-budgets", "default/stuck-"), &[])?;
    for manifest in &stuck {
        remove(scenario, &manifest.path())?;
    }
    Ok(())
}

/// The second pod CIDR of a node is nobody's where flannel carries IPv4 alone.
#[test]
fn a_second_pod_cidr_is_no_obstacle_where_flannel_carries_ipv4_alone() {
    let mut scenario = Scenario::start(1, &[], |_| {}).unwrap();
    let mut object = objects::node("node2", "192.168.77.2");
    object["spec"] = json!({"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24", "fd00:244:2::/64"]});
    scenario.client.ensure("/api/v1/nodes", &object).unwrap();
    scenario.cluster.add_node().unwrap();
    scenario.cluster.wait_nodes_ready(nodectl_lab::scenario::PATIENCE).unwrap();
    // flannel writes its annotations a moment after it is there.
    let patience = nodectl_lab::scenario::PATIENCE;
    nodectl_lab::cluster::until(patience, || Ok(scenario.prepare().err().map(|e| format!("{e:#}")))).unwrap();
    let done = scenario.nodectl(2, &["preflight"]).unwrap().expect(0).unwrap();
    assert!(done.stdout.contains("10.244.2.0/24, as prepared"), "{}", done.all());
}
