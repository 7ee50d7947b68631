//! A cluster of light nodes with an API server and flannel.

use std::time::{Duration, Instant};

use nodectl_lab::cluster::{Cluster, Options};
use nodectl_lab::objects::workloads;

#[test]
fn pods_of_three_nodes_reach_each_other_through_flannel() {
    let begin = Instant::now();
    let cluster = Cluster::start(Options::default()).expect("the cluster starts");
    println!("started {:?}", begin.elapsed());
    if let Err(e) = cluster.wait_nodes_ready(Duration::from_secs(20)) {
        println!("{e:#}");
        let node = cluster.node(1).unwrap();
        println!("{}", node.sh("cat /var/log/kubelet.log /var/log/containerd.log; find /var/log/pods -type f | xargs tail -n +1; ps ax; ls -la /etc/kubernetes /etc/cni/net.d").unwrap());
        println!("{}", cluster.api().unwrap().log());
        for p in cluster.client().unwrap().list("/api/v1/pods").unwrap() { println!("{p}"); }
        panic!();
    }
    println!("ready {:?}", begin.elapsed());
    cluster.install(&[workloads::deployment("web", 6), workloads::daemon("each")]).unwrap();
    if let Err(e) = cluster.wait_pods_ready(12, Duration::from_secs(20)) {
        println!("{e:#}");
        let node = cluster.node(1).unwrap();
        println!("{}", node.sh("cat /var/log/kubelet.log /var/log/containerd.log; find /var/log/pods -type f | xargs tail -n +1; ps ax; ls -la /etc/kubernetes /etc/cni/net.d").unwrap());
        println!("{}", cluster.api().unwrap().log());
        panic!();
    }
    println!("pods {:?}", begin.elapsed());
    for p in cluster.client().unwrap().list("/api/v1/pods").unwrap() { println!("{} {} {}", p["metadata"]["name"], p["status"]["podIP"], p["spec"]["nodeName"]); }
    let node = cluster.node(1).unwrap();
    println!("{}", node.sh("ip -br a; ip r; cat /var/log/kubelet.log /var/log/containerd.log; find /var/log/pods -type f | xargs tail -n +1; ps ax").unwrap());
    drop(cluster);
    println!("gone {:?}", begin.elapsed());
}
