//! A cluster of light nodes with an API server and flannel.

use std::time::{Duration, Instant};

use nodectl_lab::cluster::{Cluster, Options};
use nodectl_lab::objects::workloads;
use nodectl_lab::traffic::{Endpoint, Traffic, matrix};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn pods_of_three_nodes_reach_each_other_through_flannel() {
    let begin = Instant::now();
    let cluster = Cluster::start(Options::default()).expect("the cluster starts");
    cluster.wait_nodes_ready(LIMIT).unwrap();
    cluster.install(&[workloads::deployment("web", 6), workloads::daemon("each")]).unwrap();
    let pods = cluster.wait_pods_ready(12, LIMIT).unwrap();
    println!("pods {:?}", begin.elapsed());
    let t = Instant::now();
    let pairs = matrix(&cluster).unwrap();
    println!("matrix of {} {:?}", pairs.len(), t.elapsed());
    for p in &pairs { if !p.is_whole() { println!("{p:?}"); } }
    assert_eq!(pairs.len(), 9*8);
    assert!(pairs.iter().all(|p| p.is_whole()));
    let each: Vec<Endpoint> = pods.iter().filter(|p| p["metadata"]["labels"]["app"] == "each").map(|p| Endpoint::parse(p["metadata"]["name"].as_str().unwrap())).collect();
    let mut flows = Vec::new();
    for a in &each { for b in &each { if a != b { flows.push((a.clone(), b.clone())); } } }
    let traffic = Traffic::start(&cluster, &flows, 250).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    cluster.node(1).unwrap().restart_unit("containerd.service").unwrap();
    cluster.node(1).unwrap().restart_unit("kubelet.service").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    println!("at {:?}", begin.elapsed());
    let flows = traffic.finish();
    println!("finished {:?}", begin.elapsed());
    for f in flows { println!("{f} {:?}", f.seen); }
    let t = Instant::now();
    cluster.node(2).unwrap().power_cut().unwrap();
    println!("cut {:?}", t.elapsed());
    cluster.node(2).unwrap().start().unwrap();
    println!("booted {:?}", t.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    cluster.wait_nodes_ready(LIMIT).unwrap();
    println!("ready {:?}", t.elapsed());
    if let Err(e) = cluster.wait_pods_ready(12, LIMIT) { println!("{e:#}"); 
    let node = cluster.node(2).unwrap();
    println!("{}", node.sh("cat /var/log/kubelet.log /var/log/containerd.log; find /var/log/pods -type f | xargs tail -n +1; ps ax").unwrap());
    panic!() }
    println!("pods {:?}", t.elapsed());
    let pairs = matrix(&cluster).unwrap();
    for p in &pairs { if !p.is_whole() { println!("{p:?}"); } }
    let node = cluster.node(2).unwrap();
    println!("{}", node.sh("cat /var/log/kubelet.log /var/log/containerd.log; ls -R /var/lib/cni; ls /run/netns").unwrap());
    let t = Instant::now();
    println!("at {:?}", begin.elapsed());
    node.reboot().unwrap();
    println!("rebooted {:?}", t.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    cluster.wait_nodes_ready(LIMIT).unwrap();
    cluster.wait_pods_ready(12, LIMIT).unwrap();
    println!("pods {:?}", t.elapsed());
    println!("{}", node.sh("cat /var/log/kubelet.log /var/log/containerd.log; ls -R /var/lib/cni; ls /run/netns").unwrap());
    println!("at {:?}", begin.elapsed());
    drop(cluster);
    println!("gone {:?}", begin.elapsed());
}
