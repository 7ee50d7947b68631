//! Light nodes without an API server: boot, units, the runtime's manner of calling CNI.

mod networks;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use networks::{conflist, network, network_name};
use nodectl_lab::cluster::{Cluster, Network, Options};
use nodectl_lab::cri;
use nodectl_lab::snapshot::Snapshot;
use nodectl_lab::wait::eventually;

/// The pod network of node 1.
const SUBNET: &str = "10.244.1.0/24";

/// Nodes without an API server and without kubelets that meddle.
fn bare(nodes: u8, network: Network) -> Cluster {
    let cluster =
        Cluster::start(Options { nodes, api: false, network, ..Options::default() }).expect("the cluster starts");
    cluster.nodes().for_each(|node| node.stop_unit("kubelet.service").expect("the kubelet stops"));
    cluster
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

/// A container's configuration.
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
    let before = machine();
    let begin = Instant::now();
    let cluster = bare(3, Network::None);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "three nodes took {took:?}");
    let node = cluster.node(1).unwrap();
    node.sh("ping -qc1 -W1 192.168.77.2; ping -qc1 -W1 192.168.77.254").unwrap();
    assert_eq!(node.must(&["hostname"]).unwrap(), "node1\n");
    node.sh("touch /etc/x /var/lib/x /opt/x /run/x /tmp/x-of-node1; iptables -N X; ip link add x type bridge").unwrap();
    assert!(!Path::new("/etc/x").exists() && !Path::new("/tmp/x-of-node1").exists());
    assert_eq!(cluster.node(2).unwrap().exec(&["ls", "/etc/x"]).unwrap().code, 2);
    let folder = cluster.folder().to_owned();
    drop(cluster);
    assert!(!folder.exists(), "{} is still there", folder.display());
    assert_eq!(machine(), before);
}

/// What a lab must leave on the machine as it was.
fn machine() -> String {
    let script = "ip -o link | cut -d: -f2; ip route; ls /etc/cni /opt/cni 2>&1; cat /proc/mounts | grep -v /run/netns";
    String::from_utf8(Command::new("sh").args(["-c", script]).output().unwrap().stdout).unwrap()
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let binary = Options::default().binary;
    let mut up =
        Command::new(binary).args(["up", "2", "--bare"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = format!("/dev/shm/nodectl-lab/lab{}-0", up.id());
    eventually("the lab is up", || Path::new(&folder).join("node2/console.log").exists());
    std::thread::sleep(Duration::from_millis(300));
    up.kill().unwrap();
    up.wait().unwrap();
    let underlay = format!("/run/netns/lab{}-0-ul", up.id());
    eventually("the lab is gone", || !Path::new(&folder).exists() && !Path::new(&underlay).exists());
}

#[test]
fn a_power_cut_keeps_the_disk_and_nothing_else() {
    let cluster = bare(1, Network::Bridge);
    let node = cluster.node(1).unwrap();
    let boot = node.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    let cri = node.cri().unwrap();
    let id = cri.run_pod_sandbox(pod("a", 0)).unwrap();
    node.sh("echo kept > /etc/kept; echo lost > /run/lost; ip link add lost type bridge").unwrap();
    node.power_cut().unwrap();
    assert!(!node.is_on());
    node.start().unwrap();
    assert_ne!(node.sh("cat /proc/sys/kernel/random/boot_id").unwrap(), boot);
    assert_eq!(node.sh("cat /etc/kept").unwrap(), "kept\n");
    assert!(
        !node.exec(&["ls", "/run/lost"]).unwrap().ok() && !node.exec(&["ip", "link", "show", "lost"]).unwrap().ok()
    );
    // The sandbox of the last boot is not ready, and its DEL finds no namespace.
    let cri = node.cri().unwrap();
    let status = cri.pod_sandbox_status(&id).unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    assert_eq!(status.network.unwrap().ip, "");
    assert_eq!(node.sh("ls /var/lib/cni/networks/lab").unwrap(), "10.244.1.2\nlast_reserved_ip.0\nlock\n");
    cri.stop_pod_sandbox(&id).unwrap();
    cri.remove_pod_sandbox(&id).unwrap();
    assert_eq!(node.sh("ls /var/lib/cni/networks/lab /var/lib/cni/results").unwrap().matches("10.244").count(), 0);
}

#[test]
fn units_start_stop_and_come_back() {
    let cluster = bare(1, Network::None);
    let node = cluster.node(1).unwrap();
    assert_eq!(node.unit_state("kubelet.service").unwrap().active, "inactive");
    node.start_unit("kubelet.service").unwrap();
    assert_eq!(node.must(&["systemctl", "is-active", "kubelet", "containerd"]).unwrap(), "active\nactive\n");
    assert_eq!(node.unit_state("nothing.service").unwrap().load, "not-found");
    assert!(node.start_unit("nothing.service").unwrap_err().to_string().contains("refused"));
    // Restart=always.
    node.sh("kill -9 $(busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1/unit/kubelet_2eservice \
             org.freedesktop.systemd1.Service MainPID | cut -d' ' -f2)")
        .unwrap();
    eventually("the kubelet is started again", || {
        node.unit_state("kubelet.service").is_ok_and(|unit| unit.sub == "auto-restart")
    });
    eventually("the kubelet runs again", || {
        node.unit_state("kubelet.service").is_ok_and(|unit| unit.active == "active")
    });
    node.must(&["systemctl", "restart", "containerd"]).unwrap();
    assert!(node.cri().unwrap().version().is_ok());
}

#[test]
fn enabled_units_run_at_boot_in_their_order() {
    let cluster = bare(1, Network::None);
    let node = cluster.node(1).unwrap();
    let unit = |name: &str, order: &str, script: &str| {
        let text = format!(
            "[Unit]\n{order}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '{script}'\n[Install]\nWantedBy=multi-user.target\n"
        );
        fs::write(node.path(&format!("/etc/systemd/system/{name}.service")).unwrap(), text).unwrap();
        node.must(&["systemctl", "enable", name]).unwrap();
    };
    unit(
        "first",
        "Before=containerd.service kubelet.service",
        "sleep 0.3; test -e /run/containerd/containerd.sock || echo early > /run/first",
    );
    unit(
        "last",
        "After=network-online.target kubelet.service",
        "test -e /run/containerd/containerd.sock && echo late > /run/last",
    );
    unit("broken", "After=kubelet.service", "exit 3");
    node.reboot().unwrap();
    eventually("the last unit has run", || node.exec(&["test", "-e", "/run/last"]).is_ok_and(|result| result.ok()));
    assert_eq!(node.sh("cat /run/first").unwrap(), "early\n");
    assert_eq!(node.unit_state("first.service").unwrap().sub, "exited");
    eventually("the broken unit has failed", || {
        node.unit_state("broken.service").is_ok_and(|unit| unit.active == "failed")
    });
    node.must(&["systemctl", "disable", "first"]).unwrap();
    assert_eq!(node.unit_state("first.service").unwrap().file, "disabled");
}

#[test]
fn a_oneshot_before_the_kubelet_that_restarts_it_hangs() {
    let cluster = bare(1, Network::None);
    let node = cluster.node(1).unwrap();
    let text = "[Unit]\nBefore=kubelet.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/timeout 2 /bin/systemctl restart kubelet\n";
    fs::write(node.path("/etc/systemd/system/knot.service").unwrap(), text).unwrap();
    assert!(node.start_unit("knot.service").is_err());
}

#[test]
fn a_sandbox_is_attached_and_detached() {
    let cluster = bare(1, Network::Bridge);
    let node = cluster.node(1).unwrap();
    let cri = node.cri().unwrap();
    // The bridge and portmap's own chains stay when the last pod has gone.
    let id = cri.run_pod_sandbox(pod("warm-up", 8080)).unwrap();
    cri.stop_pod_sandbox(&id).unwrap();
    cri.remove_pod_sandbox(&id).unwrap();
    let before = Snapshot::take(node).unwrap();
    let id = cri.run_pod_sandbox(pod("a", 8080)).unwrap();
    assert_eq!(cri.pod_sandbox_status(&id).unwrap().network.unwrap().ip, "10.244.1.3");
    let container = cri.create_container(&id, container("lab/pod"), pod("a", 8080)).unwrap();
    cri.start_container(&container).unwrap();
    let ask = "exec 3<>/dev/tcp/192.168.77.1/8080; head -n1 <&3";
    eventually("the pod answers on its host port", || {
        node.exec(&["timeout", "1", "bash", "-c", ask]).is_ok_and(|answer| answer.ok())
    });
    let during = before.diff(&Snapshot::take(node).unwrap());
    for trace in [
        "+ iptables-nft: nat -A CNI-HOSTPORT-DNAT",
        "+ modes: f 644 /var/lib/cni/networks/lab/10.244.1.3",
        "+ links: veth",
    ] {
        assert!(during.iter().any(|line| line.starts_with(trace)), "{trace} is not in {during:#?}");
    }
    cri.stop_pod_sandbox(&id).unwrap();
    cri.remove_pod_sandbox(&id).unwrap();
    let lines = before.without(|section, line| section == "texts" && line.contains("last_reserved")).diff(
        &Snapshot::take(node).unwrap().without(|section, line| section == "texts" && line.contains("last_reserved")),
    );
    let rest: Vec<_> = lines.iter().filter(|line| !line.contains("last_reserved_ip")).collect();
    assert!(rest.is_empty(), "{rest:#?}");
}

#[test]
fn containers_survive_the_runtime_and_their_ends_are_seen() {
    let cluster = bare(1, Network::Bridge);
    let node = cluster.node(1).unwrap();
    let cri = node.cri().unwrap();
    let id = cri.run_pod_sandbox(pod("a", 0)).unwrap();
    let running = cri.create_container(&id, container("lab/pod"), pod("a", 0)).unwrap();
    cri.start_container(&running).unwrap();
    let mut failing = container("lab/pod");
    failing.metadata = Some(cri::ContainerMetadata { name: "f".into(), attempt: 0 });
    failing.command = ["sh", "-c", "exit 7"].map(str::to_owned).into();
    let failing = cri.create_container(&id, failing, pod("a", 0)).unwrap();
    cri.start_container(&failing).unwrap();
    eventually("the end is seen", || cri.container_status(&failing).is_ok_and(|status| status.exit_code == 7));
    node.restart_unit("containerd.service").unwrap();
    let cri = node.cri().unwrap();
    assert_eq!(cri.container_status(&running).unwrap().state(), cri::ContainerState::ContainerRunning);
    assert_eq!(cri.pod_sandbox_status(&id).unwrap().state(), cri::PodSandboxState::SandboxReady);
    cri.exec_sync(&running, &["true".to_owned()], Duration::from_secs(1)).unwrap();
    assert!(cri.exec_sync(&running, &["false".to_owned()], Duration::from_secs(1)).is_err());
    cri.stop_container(&running, 1).unwrap();
    assert_eq!(cri.container_status(&running).unwrap().state(), cri::ContainerState::ContainerExited);
}

#[test]
fn the_conflist_is_read_again_as_containerd_does() {
    let cluster = bare(1, Network::None);
    let node = cluster.node(1).unwrap();
    let cri = node.cri().unwrap();
    let file = |name: &str| node.path(&format!("/etc/cni/net.d/{name}")).unwrap();
    let settled = || std::thread::sleep(Duration::from_millis(300));
    assert!(network(&cri).unwrap_err().contains("cni plugin not initialized"));
    fs::write(file("20-b.conflist"), conflist("b", "bridge", SUBNET)).unwrap();
    eventually("a write is seen", || network_name(&cri) == "b");
    // Moved in from another folder: not seen.
    fs::write(node.path("/etc/a").unwrap(), conflist("a", "bridge", SUBNET)).unwrap();
    fs::rename(node.path("/etc/a").unwrap(), file("10-a.conflist")).unwrap();
    settled();
    assert_eq!(network_name(&cri), "b");
    // chmod: not seen; a file removed, whatever its name: seen.
    node.sh("chmod 600 /etc/cni/net.d/10-a.conflist").unwrap();
    settled();
    assert_eq!(network_name(&cri), "b");
    node.sh("touch /etc/cni/net.d/x; rm /etc/cni/net.d/x").unwrap();
    eventually("a removal is seen", || network_name(&cri) == "a");
    // Renamed within the folder: seen, by the event of the old name.
    fs::write(file(".tmp"), conflist("c", "bridge", SUBNET)).unwrap();
    fs::rename(file(".tmp"), file("00-c.conflist")).unwrap();
    eventually("a rename is seen", || network_name(&cri) == "c");
    // A bad first file leaves nothing, and the next one is not used.
    fs::write(file("00-c.conflist"), "{").unwrap();
    eventually("a bad file is seen", || network(&cri).is_err());
    assert_ne!(cri.status().unwrap().info["lastCNILoadStatus"], "OK");
    fs::remove_file(file("00-c.conflist")).unwrap();
    eventually("the next file is used", || network_name(&cri) == "a");
}

#[test]
fn del_is_run_with_the_present_list_and_failures_keep_the_sandbox() {
    let cluster = bare(1, Network::Bridge);
    let node = cluster.node(1).unwrap();
    let cri = node.cri().unwrap();
    let id = cri.run_pod_sandbox(pod("a", 0)).unwrap();
    // Another list, whose plugin is not there: ADD and DEL both fail.
    let other = conflist("other", "missing", SUBNET);
    fs::write(node.path("/etc/cni/net.d/10-lab.conflist").unwrap(), other).unwrap();
    eventually("the list is read", || network_name(&cri) == "other");
    let error = format!("{:#}", cri.stop_pod_sandbox(&id).unwrap_err());
    assert!(
        error.contains("failed to destroy network for sandbox") && error.contains("failed to find plugin \"missing\""),
        "{error}"
    );
    let error = format!("{:#}", cri.run_pod_sandbox(pod("b", 0)).unwrap_err());
    assert!(error.contains("failed to setup network for sandbox"), "{error}");
    // Its ADD never ended: that one can be stopped though its DEL fails.
    let left = cri.list_pod_sandbox().unwrap().into_iter().find(|sandbox| sandbox.id != id).unwrap();
    assert_eq!(left.state(), cri::PodSandboxState::SandboxNotready);
    cri.stop_pod_sandbox(&left.id).unwrap();
    // With the list of another network the DEL ends well and the lease is left behind.
    fs::write(node.path("/etc/cni/net.d/10-lab.conflist").unwrap(), conflist("other", "bridge", SUBNET)).unwrap();
    eventually("the plugin is there", || cri.stop_pod_sandbox(&id).is_ok());
    assert!(node.sh("ls /var/lib/cni/networks/lab").unwrap().contains("10.244.1.2"));
}
