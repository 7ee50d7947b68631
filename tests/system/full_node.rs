//! Full nodes: a booted systemd, containerd and runc of Debian 12; and that light nodes' stand-in for containerd behaves as the real one does.

mod networks;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use networks::{conflist, network, network_name};
use nodectl_lab::cluster::{Cluster, Network, Options};
use nodectl_lab::cri;
use nodectl_lab::node::Kind;
use nodectl_lab::objects::workloads;
use nodectl_lab::traffic::matrix;
use nodectl_lab::wait::{PATIENCE, eventually};

/// A subnet that no network of the lab has.
const SUBNET: &str = "10.244.9.0/24";

/// A cluster of nodes of these kinds.
fn cluster(kinds: &[Kind], network: Network, api: bool) -> Cluster {
    let nodes = u8::try_from(kinds.len()).unwrap();
    let options = Options { nodes, kinds: kinds.to_vec(), network, api, ..Options::default() };
    Cluster::start(options).expect("the cluster starts")
}

/// One node of each kind, without kubelets that meddle.
fn one_of_each(network: Network) -> Cluster {
    let cluster = cluster(&[Kind::Light, Kind::Full], network, false);
    cluster.nodes().for_each(|node| node.stop_unit("kubelet.service").expect("the kubelet stops"));
    cluster
}

/// A sandbox's configuration.
fn pod(name: &str) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: name.into(),
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        attempt: 0,
    };
    cri::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: format!("/var/log/pods/{name}"),
        linux: Some(cri::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// A container's configuration.
fn container(name: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: "lab/pod".into(), ..Default::default() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

/// Prints the nodes' journals and containers' logs when a test fails.
struct Journal<'a>(&'a Cluster);

impl Drop for Journal<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in self.0.nodes().filter(|node| node.kind() == Kind::Full) {
            let script = "journalctl -b -n 100 --no-pager -u kubelet; journalctl -b -p warning -n 30 --no-pager; tail -vn 20 /var/log/pods/*/*/*; ip -br a";
            println!("{}: {:?}", node.name(), node.sh(script));
        }
    }
}

/// The cgroups that labs have made.
fn cgroups() -> Vec<String> {
    let script = "find /sys/fs/cgroup -maxdepth 2 -type d -name 'nodectl-lab*'";
    let found = Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_full_node_boots_fast_and_is_a_debian_with_systemd() {
    let cluster = cluster(&[Kind::Full], Network::None, false);
    let node = cluster.node(1).unwrap();
    assert_eq!(node.kind(), Kind::Full);
    let boot = node.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(
        node.sh("hostname; cat /proc/1/comm; systemctl is-system-running").unwrap(),
        "node1\nsystemd\nrunning\n"
    );
    assert_eq!(node.sh("ls -A /sys/class/net").unwrap(), "eth0\nlo\n");
    node.sh("ping -qc1 -W1 192.168.77.254; test -x /usr/libexec/nodectl/cni-shim; nodectl --version").unwrap();
    for unit in ["nodectl-boot.service", "nodectl-settle.service"] {
        let state = node.unit_state(unit).unwrap();
        assert_eq!(
            (state.load.as_str(), state.file.as_str(), state.active.as_str()),
            ("loaded", "disabled", "inactive")
        );
    }
    assert!(node.start_unit("nothing.service").unwrap_err().to_string().contains("refused"));
    // What is no network of the node's own stays as the machine has it.
    node.sh("! echo 1 > /proc/sys/kernel/panic; echo 1 > /proc/sys/net/ipv4/ip_forward").unwrap();
    node.sh("echo kept > /etc/kept; echo lost > /run/lost; ip link add lost type bridge").unwrap();
    for cut in [false, true] {
        let begin = Instant::now();
        if cut { node.power_cut() } else { node.shutdown() }.unwrap();
        let name = format!("{}-", cluster.folder().file_name().unwrap().display());
        assert!(!node.is_on() && !cgroups().iter().any(|path| path.contains(&name)), "the cgroup is still there");
        let off = begin.elapsed();
        node.start().unwrap();
        let on = begin.elapsed() - off;
        println!("off (cut: {cut}) after {off:?}, on after {on:?}");
        assert!(on < Duration::from_secs(5), "the boot took {on:?}");
        assert_ne!(node.sh("cat /proc/sys/kernel/random/boot_id").unwrap(), boot);
        assert_eq!(node.sh("cat /etc/kept; ls -A /sys/class/net").unwrap(), "kept\neth0\nlo\n");
        assert!(!node.exec(&["ls", "/run/lost"]).unwrap().ok());
    }
}

#[test]
fn a_killed_owner_and_a_killed_launcher_leave_nothing() {
    let binary = Options::default().binary;
    let mut up = Command::new(binary)
        .args(["up", "1", "--bare", "--full"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let name = format!("lab{}-0", up.id());
    let is_up = || cgroups().iter().any(|path| path.contains(&name));
    eventually("the lab is up", is_up);
    std::thread::sleep(Duration::from_secs(1));
    // Without its launcher nothing hears of the owner's end but the guard.
    let launcher =
        Command::new("pgrep").args(["-f", &format!("launch-full /dev/shm/nodectl-lab/{name}/")]).output().unwrap();
    let launcher = String::from_utf8(launcher.stdout).unwrap();
    Command::new("kill").arg("-KILL").args(launcher.split_whitespace()).status().unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    let folder = format!("/dev/shm/nodectl-lab/{name}");
    eventually("the lab is gone", || !is_up() && !Path::new(&folder).exists());
    assert!(!Path::new(&format!("/run/netns/{name}-ul")).exists());
}

#[test]
fn full_and_light_nodes_share_a_flannel_network_through_restarts_and_reboots() {
    let begin = Instant::now();
    let cluster = cluster(&[Kind::Full, Kind::Light, Kind::Full], Options::default().network, true);
    cluster.wait_nodes_ready(PATIENCE).unwrap();
    println!("three nodes Ready after {:?}", begin.elapsed());
    cluster.install(&[workloads::deployment("web", 3), workloads::daemon("each")]).unwrap();
    let is_whole = |when: &str| {
        cluster.wait_nodes_ready(PATIENCE).unwrap();
        // The three pods of flannel, and six of users.
        let _journal = Journal(&cluster);
        cluster.wait_pods_ready(9, PATIENCE).unwrap_or_else(|error| panic!("{when}: {error:#}"));
        let broken: Vec<_> = matrix(&cluster).unwrap().into_iter().filter(|pair| !pair.is_whole()).collect();
        assert!(broken.is_empty(), "{when}: {broken:#?}");
        println!("{when}: whole after {:?}", begin.elapsed());
    };
    is_whole("from the start");
    let node = cluster.node(1).unwrap();
    let processes = "pgrep -f '^/bin/(pod|flanneld)'";
    let before = node.sh(processes).unwrap();
    assert!(before.lines().count() >= 2, "{before}");
    node.restart_unit("containerd.service").unwrap();
    node.restart_unit("kubelet.service").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    is_whole("after restarts");
    assert_eq!(node.sh(processes).unwrap(), before, "containers were started again");
    node.reboot().unwrap();
    println!("rebooted: {:?}", begin.elapsed());
    eventually("the node's pods are looked at again", || node.sh(processes).is_ok_and(|now| now.lines().count() >= 2));
    println!("pods run: {:?}", begin.elapsed());
    is_whole("after a reboot");
    let leases = node.sh("ls /var/lib/cni/networks/cbr0 | grep -c ^10").unwrap();
    let pods = cluster.client().unwrap().list("/api/v1/pods").unwrap();
    let here =
        pods.iter().filter(|pod| pod["spec"]["nodeName"] == "node1" && pod["spec"]["hostNetwork"] != true).count();
    assert_eq!(leases.trim(), here.to_string(), "the leases of dead sandboxes are still there");
    cluster.node(3).unwrap().power_cut().unwrap();
    cluster.node(3).unwrap().start().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    is_whole("after a power cut");
}

#[test]
fn the_conflist_is_read_again_the_same_way_on_both_kinds() {
    let cluster = one_of_each(Network::None);
    for node in cluster.nodes() {
        let cri = node.cri().unwrap();
        let kind = node.kind();
        let file = |name: &str| node.path(&format!("/etc/cni/net.d/{name}")).unwrap();
        let stays = |name: &str, why: &str| {
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(network_name(&cri), name, "{kind:?}: {why}");
        };
        assert!(network(&cri).unwrap_err().contains("cni plugin not initialized"));
        fs::write(file("20-b.conflist"), conflist("b", "bridge", SUBNET)).unwrap();
        eventually("a write is seen", || network_name(&cri) == "b");
        fs::write(node.path("/etc/cni/a").unwrap(), conflist("a", "bridge", SUBNET)).unwrap();
        node.sh("mv /etc/cni/a /etc/cni/net.d/10-a.conflist").unwrap();
        stays("b", "a file moved in from another folder was seen");
        node.sh("chmod 600 /etc/cni/net.d/10-a.conflist").unwrap();
        stays("b", "chmod was seen");
        node.sh("ln /etc/cni/net.d/20-b.conflist /etc/cni/net.d/05-link.conflist").unwrap();
        stays("b", "a hard link was seen");
        node.sh("rm /etc/cni/net.d/05-link.conflist").unwrap();
        eventually("a removal is seen", || network_name(&cri) == "a");
        node.sh("cp /etc/cni/net.d/10-a.conflist /etc/cni/net.d/.t; sed -i s/a/a/ /etc/cni/net.d/.t").unwrap();
        fs::write(file(".t"), conflist("c", "missing", SUBNET)).unwrap();
        node.sh("mv /etc/cni/net.d/.t /etc/cni/net.d/00-c.conflist").unwrap();
        eventually("a rename in the folder is seen, its plugin not looked for", || network_name(&cri) == "c");
        fs::write(file("00-c.conflist"), "{").unwrap();
        eventually("a bad first file leaves nothing", || network(&cri).is_err());
        node.sh("rm /etc/cni/net.d/00-c.conflist").unwrap();
        eventually("the next file is used", || network_name(&cri) == "a");
        fs::write(file("00-d.conflist"), conflist("d", "bridge", SUBNET)).unwrap();
        eventually("a write is seen again", || network_name(&cri) == "d");
        node.restart_unit("containerd.service").unwrap();
        eventually("a restart reads the folder", || network_name(&node.cri().unwrap()) == "d");
    }
}

#[test]
fn sandboxes_end_and_fail_the_same_way_on_both_kinds() {
    let cluster = one_of_each(Network::None);
    for node in cluster.nodes() {
        let (cri, kind) = (node.cri().unwrap(), node.kind());
        let list = node.path("/etc/cni/net.d/10-lab.conflist").unwrap();
        let use_list = |name: &str, plugin: &str| {
            fs::write(&list, conflist(name, plugin, SUBNET)).unwrap();
            eventually("the list is read", || network_name(&cri) == name);
        };
        use_list("first", "bridge");
        let id = cri.run_pod_sandbox(pod("a")).unwrap();
        let ip = cri.pod_sandbox_status(&id).unwrap().network.unwrap().ip;
        assert_eq!(ip, "10.244.9.2", "{kind:?}");
        let runs = cri.create_container(&id, container("runs", &[]), pod("a")).unwrap();
        cri.start_container(&runs).unwrap();
        let fails =
            cri.create_container(&id, container("fails", &["sh", "-c", "echo words; exit 7"]), pod("a")).unwrap();
        cri.start_container(&fails).unwrap();
        eventually("the end is seen", || cri.container_status(&fails).is_ok_and(|status| status.exit_code == 7));
        eventually("the pod answers", || {
            let ask = format!("exec 3<>/dev/tcp/{ip}/7777; head -n1 <&3");
            node.exec(&["timeout", "1", "bash", "-c", &ask]).is_ok_and(|answer| answer.stdout == "10.244.9.1\n")
        });
        // A list whose plugin is not there: both ADD and DEL fail, and the sandbox stays.
        use_list("other", "missing");
        let error = format!("{:#}", cri.stop_pod_sandbox(&id).unwrap_err());
        for words in ["failed to destroy network for sandbox", "failed to find plugin \"missing\""] {
            assert!(error.contains(words), "{kind:?}: {error}");
        }
        let error = format!("{:#}", cri.run_pod_sandbox(pod("b")).unwrap_err());
        assert!(error.contains("failed to setup network for sandbox"), "{kind:?}: {error}");
        // The list of another network: the DEL ends well, and the lease stays behind.
        use_list("third", "bridge");
        cri.stop_pod_sandbox(&id).unwrap();
        assert_eq!(cri.container_status(&runs).unwrap().state(), cri::ContainerState::ContainerExited, "{kind:?}");
        cri.remove_pod_sandbox(&id).unwrap();
        assert!(node.sh("ls /var/lib/cni/networks/first").unwrap().contains("10.244.9.2"), "{kind:?}");
    }
}
