//! Calico's installer and CNI plugins: what they overwrite, what they wait for, what they refuse. The same for the stand-in and
//! for the real plugin, where LAB_CNI_BIN_DIR has it.

use std::time::Duration;

use nodectl_lab::calico::endpoint::interface_name;
use nodectl_lab::client::Patch;
use nodectl_lab::wait::{eventually, within};
use serde_json::{Value, json};

use crate::world::{World, args};

const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// A node with the plugins, and calico-node if asked for.
fn node() -> World {
    let world = World::new(1);
    world.prepare(26, true);
    world.install_cni(1);
    world
}

fn pod_annotation(world: &World, pod: &str, key: &str) -> Option<String> {
    let object = world.admin.get(&format!("/api/v1/namespaces/default/pods/{pod}")).unwrap();
    object["metadata"]["annotations"][format!("cni.projectcalico.org/{key}")].as_str().map(str::to_owned)
}

#[test]
fn the_installer_overwrites_binaries_and_writes_the_conflist_in_halves() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    host.sh("cp /usr/lib/cni/host-local /usr/lib/cni/portmap /opt/cni/bin/");
    let path = format!("/proc/{}/root/etc/cni/net.d/10-calico.conflist", host.pid());
    let half = || std::fs::read_to_string(&path).is_ok_and(|text| serde_json::from_str::<Value>(&text).is_err());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| eventually("a reader sees half a file", half));
        let log = world.install_cni(1);
        assert!(log.contains("Created"), "{log}");
        reader.join().unwrap();
    });
    host.sh(
        "jq -e '.name == \"k8s-pod-network\" and .plugins[0].type == \"calico\"' /etc/cni/net.d/10-calico.conflist",
    );
    assert_eq!(host.sh("stat -c %a /etc/cni/net.d/10-calico.conflist /etc/cni/net.d/calico-kubeconfig"), "600\n600\n");
    assert!(host.try_sh("cmp /usr/lib/cni/host-local /opt/cni/bin/host-local").is_err(), "another build");
    assert!(host.sh("echo '{\"cniVersion\":\"0.3.1\",\"name\":\"x\",\"type\":\"host-local\"}' | CNI_COMMAND=VERSION /opt/cni/bin/host-local").contains("supportedVersions"), "that runs");
    let refused = host.sh("echo '{\"cniVersion\":\"1.1.0\",\"name\":\"x\",\"type\":\"calico\"}' | CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS=/x CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/calico; true");
    let refused: Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused["code"], 1, "{refused}");
}

#[test]
fn an_add_needs_the_node_the_cluster_and_the_pod() {
    let world = node();
    let host = &world.hosts[0];
    host.sh("ip netns add pod");
    let conf = world.conf(1);
    let add = || host.cni("calico", "ADD", &args("pod"), "c1", "/run/netns/pod", &conf);
    assert!(
        add().unwrap_err().contains("check that the calico/node container is running"),
        "before calico-node has started"
    );
    host.sh("mkdir -p /var/lib/calico; echo node1 > /var/lib/calico/nodename");
    let ready = |ready: bool| {
        let patch = json!({"spec": {"datastoreReady": ready}});
        world.admin.patch(&format!("{GROUP}/clusterinformations/default"), Patch::Merge, &patch).unwrap();
    };
    ready(false);
    assert!(add().unwrap_err().contains("not ready to process requests"));
    ready(true);
    assert!(add().unwrap_err().contains(r#"pods \"pod\" not found"#), "there is no such Pod");
    world.pod("pod", "node1");
    let without = host.cni("calico", "ADD", "", "c1", "/run/netns/pod", &conf).unwrap_err();
    assert!(without.contains("unable to determine Pod name"), "{without}");
    let newer = "K8S_POD_NAME=pod;K8S_POD_NAMESPACE=default;K8S_POD_UID=u";
    let unknown = host.cni("calico-ipam", "ADD", newer, "c1", "/run/netns/pod", &conf).unwrap_err();
    assert!(unknown.contains("unknown args"), "{unknown}");
    host.sh("echo twelve > /var/lib/calico/mtu");
    assert!(add().unwrap_err().contains("MTU file"));
    host.sh("echo 1400 > /var/lib/calico/mtu");
    let result = host.cni("calico", "ADD", newer, "c1", "/run/netns/pod", &conf).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32", "{result}");
    let check = |conf: &Value| host.cni("calico", "CHECK", &args("pod"), "c1", "/run/netns/pod", conf);
    assert!(check(&conf).unwrap_err().contains("config version does not allow CHECK"));
    let newer = json!({"cniVersion": "0.4.0", "name": "k8s-pod-network", "type": "calico"});
    assert_eq!(check(&newer), Ok(json!("OK\n")));
    assert!(host.sh("ip -n pod link show eth0").contains("mtu 1400"));
}

#[test]
fn a_pod_is_wired_annotated_and_taken_down_again() {
    let world = node();
    let host = &world.hosts[0];
    let _daemon = world.calico_node(1, &[]);
    eventually("the node becomes ready", || world.ready(1));
    world.pod("pod", "node1");
    let conf = world.conf(1);
    let name = interface_name("default", "pod");
    // Somebody else's link with the same name.
    host.sh(&format!("ip netns add pod; ip link add {name} type bridge"));
    let result = host.cni("calico", "ADD", &args("pod"), "c1", "/run/netns/pod", &conf).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").to_owned();
    assert_eq!(result["interfaces"][0]["name"], name.as_str());
    let link = host.sh(&format!("ip -d link show {name}"));
    assert!(link.contains("veth") && link.contains("ee:ee:ee:ee:ee:ee"), "the foreign link is gone: {link}");
    let routes = host.sh("ip -n pod route");
    assert_eq!(routes, "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link \n");
    assert!(host.sh("ip -n pod neigh show nud permanent").is_empty(), "proxy ARP answers");
    assert_eq!(pod_annotation(&world, "pod", "podIP"), Some(format!("{address}/32")));
    assert_eq!(pod_annotation(&world, "pod", "containerID").as_deref(), Some("c1"));
    // What the plugin has wired, felix has to learn of first.
    within(Duration::from_secs(3), "felix lets the pod through", || {
        host.try_sh("ip netns exec pod ping -c1 -W1 192.168.77.254").is_ok()
    });
    host.sh(&format!("ping -c1 -W1 {address}"));
    let handle = format!("{GROUP}/ipamhandles/k8s-pod-network.c1");
    world.admin.get(&handle).unwrap();
    host.cni("calico", "DEL", &args("pod"), "old-sandbox", "", &conf).unwrap();
    assert_eq!(
        pod_annotation(&world, "pod", "podIP"),
        Some(format!("{address}/32")),
        "another sandbox's DEL blanks nothing"
    );
    host.cni("calico", "DEL", &args("pod"), "c1", "/run/netns/pod", &conf).unwrap();
    assert_eq!(pod_annotation(&world, "pod", "podIP").as_deref(), Some(""));
    assert!(host.try_sh(&format!("ip link show {name}")).is_err());
    assert!(world.admin.find(&handle).unwrap().is_none());
    host.cni("calico", "DEL", &args("pod"), "c1", "/run/netns/gone", &conf).unwrap();
}

#[test]
fn before_felix_knows_a_pod_its_traffic_is_dropped() {
    let world = node();
    let host = &world.hosts[0];
    // A felix that looks rarely stands for one that is behind.
    let _daemon = world.calico_node(1, &[("LAB_POLL_MS", "3000"), ("LAB_RESYNC_MS", "3000")]);
    eventually("the node becomes ready", || world.ready(1));
    world.pod("pod", "node1");
    host.sh("ip netns add pod; sleep 0.2");
    host.cni("calico", "ADD", &args("pod"), "c1", "/run/netns/pod", &world.conf(1)).unwrap();
    assert!(host.try_sh("ip netns exec pod ping -c1 -W1 192.168.77.254").is_err(), "ADD does not wait for felix");
    eventually("later it passes", || host.try_sh("ip netns exec pod ping -c1 -W1 192.168.77.254").is_ok());
}

#[test]
fn a_route_of_somebody_else_makes_an_add_fail_and_the_address_goes_back() {
    let world = node();
    let host = &world.hosts[0];
    host.sh("mkdir -p /var/lib/calico; echo node1 > /var/lib/calico/nodename; ip netns add pod; ip link add cni0 type bridge; ip link set cni0 up; ip route add 10.244.1.2/32 dev cni0");
    world.pod("pod", "node1");
    let failed = host.cni("calico", "ADD", &args("pod"), "c1", "/run/netns/pod", &world.conf(1)).unwrap_err();
    assert!(failed.contains("already exists for an interface other than") && failed.contains("cni0"), "{failed}");
    assert!(world.admin.find(&format!("{GROUP}/ipamhandles/k8s-pod-network.c1")).unwrap().is_none());
}

#[test]
fn a_requested_address_is_not_idempotent_and_needs_no_netns() {
    let world = node();
    let host = &world.hosts[0];
    let mut conf = world.conf(1);
    conf["nodename"] = json!("node1");
    world.pod("pod", "node1");
    let add = |address: &str| {
        host.cni("calico-ipam", "ADD", &format!("{};IP={address}", args("pod")), "c1", "/nowhere", &conf)
    };
    assert_eq!(add("10.244.1.7").unwrap()["ips"][0]["address"], "10.244.1.7/32");
    assert!(add("10.244.1.7").unwrap_err().contains("already assigned"), "even for its holder");
    assert!(add("10.244.9.7").is_ok(), "a block that nobody has is claimed on the way");
    assert!(add("192.0.2.1").unwrap_err().contains("not in a configured pool"));
    let block = world.admin.get(&format!("{GROUP}/ipamblocks/10-244-1-0-26")).unwrap();
    let holder = block["spec"]["attributes"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(holder["handle_id"], "k8s-pod-network.c1");
    assert_eq!((&holder["secondary"]["pod"], &holder["secondary"]["node"]), (&json!("pod"), &json!("node1")));
    host.cni("calico-ipam", "DEL", &args("pod"), "c1", "", &conf).unwrap();
    host.cni("calico-ipam", "DEL", &args("pod"), "c1", "", &conf).unwrap();
    assert!(world.admin.find(&format!("{GROUP}/ipamhandles/k8s-pod-network.c1")).unwrap().is_none());
}

#[test]
fn a_del_for_flannels_pod_blanks_its_annotations_and_deletes_its_interface_and_a_dead_cluster_wedges_it() {
    let world = node();
    let host = &world.hosts[0];
    host.sh("mkdir -p /var/lib/calico; echo node1 > /var/lib/calico/nodename");
    world.bridge_pod(1, "old", "10.244.1.7");
    world.pod("old", "node1");
    let conf = world.conf(1);
    let del = || host.cni("calico", "DEL", &args("old"), "c9", "/run/netns/old", &conf);
    world.admin.delete(&format!("{GROUP}/clusterinformations/default")).unwrap();
    assert!(del().unwrap_err().contains("ClusterInformation"));
    assert!(host.try_sh("ip -n old link show eth0").is_ok());
    world.prepare(26, false);
    del().unwrap();
    assert!(host.try_sh("ip -n old link show eth0").is_err());
    assert_eq!(pod_annotation(&world, "old", "podIP").as_deref(), Some(""));
}

#[test]
fn thirty_adds_at_once_get_thirty_addresses() {
    let world = node();
    let host = &world.hosts[0];
    host.sh("mkdir -p /var/lib/calico; echo node1 > /var/lib/calico/nodename; for i in $(seq 30); do ip netns add p$i; done");
    for number in 1..=30 {
        world.pod(&format!("p{number}"), "node1");
    }
    let conf = world.conf(1);
    let addresses: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (1..=30)
            .map(|number| {
                let conf = &conf;
                scope.spawn(move || {
                    host.cni(
                        "calico",
                        "ADD",
                        &args(&format!("p{number}")),
                        &format!("c{number}"),
                        &format!("/run/netns/p{number}"),
                        conf,
                    )
                    .unwrap()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()["ips"][0]["address"].as_str().unwrap().to_owned()).collect()
    });
    assert_eq!(addresses.len(), 30);
}
