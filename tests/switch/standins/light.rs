//! The stand-ins where they belong: as containers of DaemonSets on light nodes, one node switched by hand.

use nodectl_lab::agent::family::Family;
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::cluster::{Cluster, Options, until};
use nodectl_lab::objects::{self, workloads};
use nodectl_lab::traffic::matrix_in;
use nodectl_lab::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

use crate::prepared::prepare;

/// Says which network a node is to have.
pub fn label(client: &Client, node: &str, cni: &str) {
    let patch = json!({"metadata": {"labels": {"nodectl.io/cni": cni}}});
    client.patch(&format!("/api/v1/nodes/{node}"), Patch::Merge, &patch).unwrap();
}

/// The pods of a namespace whose names begin so, on a node.
pub fn pods(client: &Client, namespace: &str, name: &str, node: &str) -> Vec<Value> {
    let all =
        client.list(&format!("/api/v1/namespaces/{namespace}/pods?fieldSelector=spec.nodeName%3D{node}")).unwrap();
    all.into_iter().filter(|pod| pod["metadata"]["name"].as_str().unwrap().starts_with(name)).collect()
}

/// Every pair of pods reaches each other under its own address.
pub fn whole(cluster: &Cluster, family: Family) {
    until(PATIENCE, || {
        let broken: Vec<_> = matrix_in(cluster, family)?.into_iter().filter(|pair| !pair.is_whole()).collect();
        Ok((!broken.is_empty()).then(|| format!("{broken:?}")))
    })
    .unwrap();
}

/// Status and reason of a Node's NetworkUnavailable.
pub fn condition(client: &Client, node: &str) -> (String, String) {
    let object = client.get(&format!("/api/v1/nodes/{node}")).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

#[test]
fn a_node_switched_by_hand_talks_to_the_one_that_was_not() {
    let cluster = Cluster::start(Options { nodes: 2, ..Options::default() }).unwrap();
    let client = cluster.client().unwrap();
    cluster.install(&objects::calico_crds::manifests()).unwrap();
    cluster.install(&objects::calico::manifests(&objects::calico::Calico::default())).unwrap();
    cluster.install(&[workloads::daemon("everywhere"), workloads::deployment("web", 4)]).unwrap();
    cluster.wait_pods_ready(8, PATIENCE).unwrap();
    whole(&cluster, Family::V4);

    prepare(&client, &["node1", "node2"], 26);
    label(&client, "node1", "flannel");
    label(&client, "node2", "flannel");
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"nodectl.io/cni": "flannel"}}}}});
    client.patch("/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds", Patch::Merge, &selector).unwrap();
    cluster.wait_pods_ready(8, PATIENCE).unwrap();

    let node = cluster.node(1).unwrap();
    label(&client, "node1", "none");
    eventually("flannel leaves", || pods(&client, "kube-flannel", "kube-flannel-ds", "node1").is_empty());
    node.sh("ip link set flannel.1 name vxlan.calico; ip link delete cni0; iptables-nft -t nat -F FLANNEL-POSTRTG")
        .unwrap();
    label(&client, "node1", "calico");
    let ready = || condition(&client, "node1") == ("False".to_owned(), "CalicoIsUp".to_owned());
    eventually("Calico is up", ready);
    for pod in pods(&client, "default", "", "node1") {
        client
            .delete(&format!("/api/v1/namespaces/default/pods/{}", pod["metadata"]["name"].as_str().unwrap()))
            .unwrap();
    }
    cluster.wait_pods_ready(8, PATIENCE).unwrap();
    let routes = node.sh("ip route").unwrap();
    assert!(routes.contains("dev cali") && !routes.contains("cni0"), "{routes}");
    for pod in pods(&client, "default", "", "node1") {
        assert!(pod["metadata"]["annotations"]["cni.projectcalico.org/podIP"].is_string(), "{pod}");
    }
    whole(&cluster, Family::V4);

    label(&client, "node1", "none");
    eventually("Calico leaves", || pods(&client, "kube-system", "calico-node", "node1").is_empty());
    assert!(
        node.sh("ip route; iptables-nft-save; ip link show vxlan.calico").unwrap().contains("cali-FORWARD"),
        "and leaves everything behind"
    );
}
