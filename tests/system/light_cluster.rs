//! A cluster of light nodes with an API server and flannel: kubelet, pods, probes.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nodectl_lab::client::Client;
use nodectl_lab::cluster::{Cluster, Network, Options, is_ready};
use nodectl_lab::node::Node;
use nodectl_lab::objects::workloads;
use nodectl_lab::traffic::{Endpoint, Traffic, matrix, matrix_of};
use nodectl_lab::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

/// A cluster whose nodes are Ready.
fn ready(nodes: u8, network: Network) -> Cluster {
    let cluster = Cluster::start(Options { nodes, network, ..Options::default() }).expect("the cluster starts");
    cluster.wait_nodes_ready(PATIENCE).expect("the nodes are ready");
    cluster
}

/// A pod of the default namespace, null when it is not there.
fn pod(client: &Client, name: &str) -> Value {
    client.find(&format!("/api/v1/namespaces/default/pods/{name}")).unwrap().unwrap_or_default()
}

/// The id of a pod's ready sandbox.
fn sandbox(node: &dyn Node, name: &str) -> Option<String> {
    let cri = node.cri().unwrap();
    let ready = cri.list_pod_sandbox().unwrap().into_iter().filter(|sandbox| sandbox.state == 0);
    let mut named = ready.filter(|sandbox| sandbox.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
    named.next().map(|sandbox| sandbox.id)
}

#[test]
fn pods_of_three_nodes_reach_each_other_through_restarts_and_a_power_cut() {
    let begin = Instant::now();
    let cluster = ready(3, Network::Flannel(Default::default()));
    cluster.install(&[workloads::deployment("web", 6), workloads::daemon("each")]).unwrap();
    let pods = cluster.wait_pods_ready(12, PATIENCE).unwrap();
    println!("3 nodes and 12 pods after {:?}", begin.elapsed());
    let pairs = matrix(&cluster).unwrap();
    assert_eq!(pairs.len(), 9 * 8);
    assert!(pairs.iter().all(|pair| pair.is_whole()), "{pairs:#?}");
    let each: Vec<Endpoint> = pods
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["app"] == "each")
        .map(|pod| Endpoint::parse(pod["metadata"]["name"].as_str().unwrap()))
        .collect();
    let flows: Vec<_> = each
        .iter()
        .flat_map(|source| {
            each.iter().filter(move |target| *target != source).map(|target| (source.clone(), target.clone()))
        })
        .collect();
    // Restarts of the runtime and the kubelet touch no pod.
    let traffic = Traffic::start(&cluster, &flows, 100).unwrap();
    for unit in ["containerd.service", "kubelet.service"] {
        cluster.node(1).unwrap().restart_unit(unit).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    let lost: Vec<String> = traffic.finish().iter().filter(|flow| flow.lost > 0).map(ToString::to_string).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    // A power cut costs what it must, and the probes follow the pods to their new sandboxes.
    let traffic = Traffic::start(&cluster, &flows, 100).unwrap();
    cluster.node(2).unwrap().power_cut().unwrap();
    cluster.node(2).unwrap().start().unwrap();
    eventually("all probes get through again", || {
        let before = traffic.flows();
        std::thread::sleep(Duration::from_millis(500));
        traffic.flows().iter().zip(&before).all(|(now, then)| now.sent - now.lost > then.sent - then.lost)
    });
    let gaps = traffic.finish();
    assert!(gaps.iter().all(|flow| flow.longest_gap < Duration::from_secs(20)), "{gaps:#?}");
    assert!(gaps.iter().any(|flow| flow.lost > 0), "a power cut was not noticed: {gaps:#?}");
    cluster.wait_pods_ready(12, PATIENCE).unwrap();
}

#[test]
fn a_sandbox_that_was_stopped_is_built_again_with_another_address() {
    let cluster = ready(1, Network::Flannel(Default::default()));
    let (client, node) = (cluster.client().unwrap(), cluster.node(1).unwrap());
    cluster.install(&[workloads::bare("a", Some("node1"))]).unwrap();
    eventually("the pod is ready", || is_ready(&pod(&client, "a")));
    let (old, ip) = (sandbox(node, "a").unwrap(), pod(&client, "a")["status"]["podIP"].clone());
    // A conflist that attaches nothing: the pod has no sandbox for a while, and no address.
    let conflist = node.path("/etc/cni/net.d/10-flannel.conflist").unwrap();
    let good = fs::read_to_string(&conflist).unwrap();
    node.cri().unwrap().stop_pod_sandbox(&old).unwrap();
    fs::write(&conflist, good.replace("\"flannel\"", "\"missing\"")).unwrap();
    eventually("the address is withdrawn or another", || pod(&client, "a")["status"]["podIP"] != ip);
    fs::write(&conflist, &good).unwrap();
    eventually("the pod is ready again", || {
        is_ready(&pod(&client, "a")) && sandbox(node, "a").is_some_and(|new| new != old)
    });
    let now = pod(&client, "a");
    assert_ne!(now["status"]["podIP"], ip);
    // Two, where the kubelet saw the container end before it saw the sandbox stop.
    assert!(
        now["status"]["containerStatuses"][0]["restartCount"].as_i64().is_some_and(|count| (1..=2).contains(&count))
    );
}

#[test]
fn a_pod_whose_del_fails_stays_until_it_ends_well() {
    let cluster = ready(1, Network::Flannel(Default::default()));
    let (client, node) = (cluster.client().unwrap(), cluster.node(1).unwrap());
    cluster.install(&[workloads::bare("a", Some("node1"))]).unwrap();
    eventually("the pod is ready", || is_ready(&pod(&client, "a")));
    let plugin = "/opt/cni/bin/flannel";
    node.must(&["mv", plugin, "/opt/flannel"]).unwrap();
    client.delete("/api/v1/namespaces/default/pods/a").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(!pod(&client, "a")["metadata"]["deletionTimestamp"].is_null(), "{}", pod(&client, "a"));
    node.must(&["mv", "/opt/flannel", plugin]).unwrap();
    eventually("the pod is gone", || pod(&client, "a").is_null());
    let leases = node.sh("ls /var/lib/cni/networks/cbr0").unwrap();
    assert!(!leases.contains("10.244."), "{leases}");
}

#[test]
fn without_an_api_server_pods_go_on_and_come_back() {
    let cluster = ready(2, Network::Flannel(Default::default()));
    cluster.install(&[workloads::daemon("each")]).unwrap();
    cluster.wait_pods_ready(4, PATIENCE).unwrap();
    let node = cluster.node(1).unwrap();
    cluster.api().unwrap().kill();
    let running = || node.sh("pgrep -fc '^pod' || true").unwrap().trim().to_owned();
    node.sh("pkill -f '^pod'").unwrap();
    eventually("the container is started again", || running() == "1");
    cluster.restart_api().unwrap();
    let client = cluster.client().unwrap();
    eventually("the restart is reported", || {
        let pods = client.list("/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dnode1").unwrap();
        pods.first().is_some_and(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    });
    cluster.wait_nodes_ready(PATIENCE).unwrap();
}

#[test]
fn static_pods_have_images_in_the_api_and_follow_their_files() {
    let cluster = ready(1, Network::Bridge);
    let (client, node) = (cluster.client().unwrap(), cluster.node(1).unwrap());
    let file = node.path("/etc/kubernetes/manifests/fixed.yaml").unwrap();
    fs::write(&file, workloads::static_pod("fixed")).unwrap();
    let path = "/api/v1/namespaces/kube-system/pods/fixed-node1";
    let image = client.wait_for(path, PATIENCE, is_ready).unwrap();
    assert!(image["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    // Deleting the image changes nothing for the pod: it comes back.
    let container = image["status"]["containerStatuses"][0]["containerID"].clone();
    client.delete_with(path, &json!({"gracePeriodSeconds": 0})).unwrap();
    let again = client.wait_for(path, PATIENCE, is_ready).unwrap();
    assert_ne!(again["metadata"]["uid"], image["metadata"]["uid"]);
    assert_eq!(again["status"]["containerStatuses"][0]["containerID"], container);
    fs::remove_file(&file).unwrap();
    client.wait_for(path, PATIENCE, Value::is_null).unwrap();
    eventually("its sandbox is gone", || sandbox(node, "fixed-node1").is_none());
}

#[test]
fn a_node_without_a_network_is_not_ready_and_starts_only_host_network_pods() {
    let cluster = Cluster::start(Options { nodes: 1, network: Network::None, ..Options::default() }).unwrap();
    let client = cluster.client().unwrap();
    let mut host = workloads::bare("host", Some("node1"));
    host.object["spec"]["hostNetwork"] = json!(true);
    cluster.install(&[host, workloads::bare("a", Some("node1"))]).unwrap();
    eventually("the host's pod is ready", || is_ready(&pod(&client, "host")));
    assert_eq!(pod(&client, "host")["status"]["podIP"], "192.168.77.1");
    let node = client.get("/api/v1/nodes/node1").unwrap();
    let ready = node["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap()
        .clone();
    assert_eq!(ready["status"], "False");
    assert!(ready["message"].as_str().unwrap().contains("cni plugin not initialized"), "{ready}");
    assert_eq!(pod(&client, "a")["status"]["phase"], "Pending");
    let conflist = r#"{"cniVersion":"0.4.0","name":"late","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
        "ipam":{"type":"host-local","subnet":"10.244.1.0/24"}}]}"#;
    fs::write(cluster.node(1).unwrap().path("/etc/cni/net.d/10-late.conflist").unwrap(), conflist).unwrap();
    eventually("the pod is ready", || is_ready(&pod(&client, "a")));
    cluster.wait_nodes_ready(PATIENCE).unwrap();
}

#[test]
fn a_node_can_join_and_hosts_and_host_ports_are_reached() {
    let mut cluster = ready(1, Network::Flannel(Default::default()));
    cluster.add_node().unwrap();
    cluster.wait_nodes_ready(PATIENCE).unwrap();
    let mut port = workloads::bare("port", Some("node1"));
    port.object["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 7777, "hostPort": 9999, "protocol": "UDP"}]);
    cluster.install(&[port, workloads::bare("b", Some("node2"))]).unwrap();
    cluster.wait_pods_ready(4, PATIENCE).unwrap();
    let (a, b) = (Endpoint::parse("port"), Endpoint::parse("b"));
    let host = Endpoint::parse("host:node2");
    let host_port = Endpoint::parse("192.168.77.1:9999");
    let pairs = matrix_of(
        &cluster,
        &[(a.clone(), b.clone()), (b.clone(), a.clone()), (host.clone(), a.clone()), (b.clone(), host_port.clone())],
    )
    .unwrap();
    let seen: BTreeSet<_> = pairs.iter().map(|pair| (pair.source.to_string(), pair.seen.clone())).collect();
    assert!(pairs.iter().all(|pair| pair.seen.is_some()), "{pairs:#?}");
    // A node speaks to pods of others from its VTEP's address.
    assert!(seen.contains(&("host:node2".to_owned(), Some("10.244.2.0".to_owned()))), "{seen:?}");
}
