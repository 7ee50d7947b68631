//! Light nodes: namespaces, units, runtime, kubelet, pods.

use std::time::Instant;

use nodectl_lab::cluster::{Cluster, Options};
use nodectl_lab::cri;
use nodectl_lab::kubelet::Cri;
use nodectl_lab::node::Node;

const BRIDGE: &str = r#"{"cniVersion":"0.4.0","name":"lab","plugins":[
  {"type":"bridge","bridge":"cni0","isDefaultGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}]]}},
  {"type":"portmap","capabilities":{"portMappings":true}}]}"#;

/// Nodes without an API server.
fn bare(nodes: u8) -> Cluster {
    Cluster::start(Options { nodes, api: false, ..Options::default() }).expect("the cluster starts")
}

/// A client of a node's CRI socket.
fn cri_of(node: &dyn Node) -> Cri {
    Cri::new(&node.path("/run/containerd/containerd.sock").unwrap()).unwrap()
}

/// A sandbox's configuration.
fn pod(name: &str, host_port: i32) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: format!("/var/log/pods/{name}"),
        port_mappings: vec![cri::PortMapping { protocol: 0, container_port: 7777, host_port, host_ip: String::new() }],
        ..Default::default()
    }
}

fn container(image: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
        log_path: "c/0.log".into(),
        ..Default::default()
    }
}

#[test]
fn nodes_boot_fast_see_each_other_and_nothing_of_the_machine() {
    let begin = Instant::now();
    let cluster = bare(3);
    println!("3 nodes up after {:?}", begin.elapsed());
    let node = cluster.node(1).unwrap();
    node.sh("ping -c1 -W1 192.168.77.2; ping -c1 -W1 192.168.77.254").unwrap();
    assert_eq!(node.sh("hostname").unwrap(), "node1\n");
    println!("{}", node.sh("SYSTEMD_LOG_LEVEL=debug systemctl is-active containerd").unwrap_or_else(|e| e.to_string()));
    println!("{:?}", node.unit_state("containerd.service"));
    println!("{:?}", node.unit_state("kubelet.service"));
}

#[test]
fn a_sandbox_is_attached_and_detached_as_containerd_does() {
    let cluster = bare(1);
    let node = cluster.node(1).unwrap();
    let cri = cri_of(node);
    let ready = |cri: &Cri| cri.status().unwrap().status.unwrap().conditions[1].clone();
    assert!(ready(&cri).message.contains("cni plugin not initialized"), "{:?}", ready(&cri));
    std::fs::write(node.path("/etc/cni/net.d/10-lab.conflist").unwrap(), BRIDGE).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(ready(&cri).status, "{:?}", ready(&cri));
    let begin = Instant::now();
    let id = cri.run_pod_sandbox(pod("a", 8080)).unwrap();
    println!("RunPodSandbox {:?}", begin.elapsed());
    let status = cri.pod_sandbox_status(&id).unwrap();
    let ip = status.network.unwrap().ip;
    assert_eq!(ip, "10.244.1.2");
    let c = cri.create_container(&id, container("lab/pod"), pod("a", 8080)).unwrap();
    cri.start_container(&c).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    println!("{}", node.sh("ip -br a; ls /var/lib/cni/results; cat /var/log/pods/a/c/0.log; ping -c1 -W1 10.244.1.2; ps ax; echo hi | timeout 1 bash -c 'exec 3<>/dev/tcp/10.244.1.2/7777; cat <&3' || true").unwrap());
    println!("{}", node.sh("iptables-save -t nat | grep CNI").unwrap());
    println!("{:?}", cri.container_status(&c).unwrap());
    let begin = Instant::now();
    cri.stop_pod_sandbox(&id).unwrap();
    println!("StopPodSandbox {:?}", begin.elapsed());
    cri.remove_pod_sandbox(&id).unwrap();
    println!("{}", node.sh("ip -br a; ls -R /var/lib/cni; iptables-save -t nat | grep CNI; ls /run/netns").unwrap());
}
