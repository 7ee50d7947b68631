//! Dual stack: what the stand-ins do for IPv6, on light nodes: flannel, Calico, and one node on each.

use nodectl_lab::agent::family::Family;
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::cluster::{Cluster, Network, Options, until};
use nodectl_lab::node::Node;
use nodectl_lab::objects::{self, calico::Calico, workloads};
use nodectl_lab::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

use crate::light::{condition, label, pods, whole};
use crate::prepared::{prepare, prepare_v6};

const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// Two nodes, on flannel from the start or without any network.
fn cluster(with_flannel: bool) -> Cluster {
    let mut options = Options { nodes: 2, ..Options::default() };
    if !with_flannel {
        options.network = Network::None;
    }
    options.dual_stack();
    Cluster::start(options).unwrap()
}

fn install_calico(cluster: &Cluster) {
    cluster.install(&objects::calico_crds::manifests()).unwrap();
    cluster.install(&objects::calico::manifests(&Calico::of(cluster.options()))).unwrap();
}

fn install_workloads(cluster: &Cluster) {
    cluster.install(&[workloads::daemon("everywhere"), workloads::deployment("web", 4)]).unwrap();
    cluster.wait_pods_ready(6, PATIENCE).unwrap();
}

/// Every pod has both addresses, each out of its node's own pod CIDR, and reaches every other over both families.
fn whole_in_both(cluster: &Cluster) {
    whole(cluster, Family::V4);
    whole(cluster, Family::V6);
    until(PATIENCE, || {
        let client = cluster.client()?;
        let nodes = client.list("/api/v1/nodes")?;
        let mut wrong = client.list("/api/v1/namespaces/default/pods")?;
        wrong.retain(|pod| !has_both(pod, &nodes));
        Ok(wrong.first().map(|pod| format!("{} has {}", pod["metadata"]["name"], pod["status"])))
    })
    .unwrap();
}

/// An address of each of its node's pod CIDRs, in their order.
fn has_both(pod: &Value, nodes: &[Value]) -> bool {
    let node = nodes.iter().find(|node| node["metadata"]["name"] == pod["spec"]["nodeName"]).unwrap();
    let inside = |place: usize| {
        let cidr: Option<ipnet::IpNet> = node["spec"]["podCIDRs"][place].as_str().and_then(|text| text.parse().ok());
        let ip = pod["status"]["podIPs"][place]["ip"].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
        cidr.zip(ip).is_some_and(|(cidr, ip)| cidr.contains(&ip))
    };
    inside(0) && inside(1) && pod["status"]["podIP"] == pod["status"]["podIPs"][0]["ip"]
}

fn annotation(client: &Client, node: &str, key: &str) -> String {
    let object = client.get(&format!("/api/v1/nodes/{node}")).unwrap();
    object["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned()
}

fn index_of(node: &dyn Node, device: &str) -> String {
    node.sh(&format!("cat /sys/class/net/{device}/ifindex 2>/dev/null || true")).unwrap()
}

#[test]
fn two_nodes_on_flannel() {
    let cluster = cluster(true);
    install_workloads(&cluster);
    whole_in_both(&cluster);
    let client = cluster.client().unwrap();
    let node = cluster.node(1).unwrap();

    let object = client.get("/api/v1/nodes/node1").unwrap();
    assert_eq!(object["spec"]["podCIDRs"], json!(["10.244.1.0/24", "fd00:10:244:1::/64"]));
    let addresses = object["status"]["addresses"].as_array().unwrap();
    let internal = addresses.iter().filter(|entry| entry["type"] == "InternalIP");
    let internal: Vec<_> = internal.map(|entry| entry["address"].as_str().unwrap()).collect();
    assert_eq!(internal, ["192.168.77.1", "fd00:192:168:77::1"]);

    assert_eq!(
        node.sh("cat /run/flannel/subnet.env").unwrap(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    let device = node.sh("ip -d link show flannel-v6.1").unwrap();
    assert!(device.contains("mtu 1430"), "the kernel leaves room for the longer header: {device}");
    assert!(
        device.contains("id 1 local fd00:192:168:77::1 dev eth0") && device.contains("dstport 8472 nolearning"),
        "{device}"
    );
    let data = annotation(&client, "node2", "flannel.alpha.coreos.com/backend-v6-data");
    let mac: Value = serde_json::from_str(&data).unwrap();
    let mac = mac["VtepMAC"].as_str().unwrap();
    assert_eq!(data, format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}"));
    assert_eq!(annotation(&client, "node2", "flannel.alpha.coreos.com/public-ipv6"), "fd00:192:168:77::2");
    let peer = node
        .sh("ip -br address show flannel-v6.1; ip -6 route; ip -6 neigh show dev flannel-v6.1; bridge fdb show dev flannel-v6.1")
        .unwrap();
    for line in [
        "fd00:10:244:1::/128".to_owned(),
        "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1".to_owned(),
        format!("fd00:10:244:2:: lladdr {mac} PERMANENT"),
        format!("{mac} dst fd00:192:168:77::2 self permanent"),
    ] {
        assert!(peer.contains(&line), "{line}: {peer}");
    }
    let rules = node.sh("ip6tables-nft-save").unwrap();
    for rule in [
        "-A FLANNEL-POSTRTG -s fd00:10:244:1::/64 -d fd00:10:244::/56 -m comment --comment \"flanneld masq\" -j RETURN",
        "-A FLANNEL-POSTRTG -s fd00:10:244::/56 ! -d ff00::/8 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
        "-A FLANNEL-FWD -s fd00:10:244::/56 -m comment --comment \"flanneld forward\" -j ACCEPT",
    ] {
        assert!(rules.contains(rule), "{rule}: {rules}");
    }
    assert!(node.sh("ip -br address show cni0").unwrap().contains("fd00:10:244:1::1/64"), "the bridge is the gateway");
    let scratch = node.sh("cat /var/lib/cni/flannel/* | head -n1").unwrap();
    assert!(scratch.contains(r#"[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:10:244:1::/64"}]]"#), "{scratch}");

    let own = annotation(&client, "node1", "flannel.alpha.coreos.com/backend-v6-data");
    node.sh("ip link delete flannel-v6.1").unwrap();
    let flannel = pods(&client, "kube-flannel", "kube-flannel-ds", "node1");
    let name = flannel[0]["metadata"]["name"].as_str().unwrap();
    client.delete(&format!("/api/v1/namespaces/kube-flannel/pods/{name}")).unwrap();
    eventually("the next flanneld makes the device anew", || !index_of(node, "flannel-v6.1").is_empty());
    assert_eq!(annotation(&client, "node1", "flannel.alpha.coreos.com/backend-v6-data"), own);
    let mac: Value = serde_json::from_str(&own).unwrap();
    assert!(node.sh("ip link show flannel-v6.1").unwrap().contains(mac["VtepMAC"].as_str().unwrap()), "with its MAC");
    whole_in_both(&cluster);
}

#[test]
fn deleted_pods_give_both_addresses_back_to_host_local() {
    let cluster = cluster(true);
    cluster.install(&[workloads::bare("short", Some("node1"))]).unwrap();
    cluster.wait_pods_ready(1, PATIENCE).unwrap();
    let node = cluster.node(1).unwrap();
    let held =
        || node.sh("ls /var/lib/cni/networks/cbr0 | grep -vE 'lock|last' || true; ls /var/lib/cni/flannel").unwrap();
    assert_eq!(held().lines().count(), 3, "two leases and what DEL needs: {}", held());
    cluster.client().unwrap().delete("/api/v1/namespaces/default/pods/short").unwrap();
    eventually("they are given back", || held().is_empty());
}

#[test]
fn two_nodes_on_calico() {
    let cluster = cluster(false);
    let client = cluster.client().unwrap();
    install_calico(&cluster);
    // As a cluster's preparation does: else a node's blocks are anywhere in the pools.
    let strict = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMConfig", "metadata": {"name": "default"},
        "spec": {"strictAffinity": true, "autoAllocateBlocks": true}});
    client.ensure(&format!("{GROUP}/ipamconfigs"), &strict).unwrap();
    for node in ["node1", "node2"] {
        label(&client, node, "calico");
    }
    install_workloads(&cluster);
    whole(&cluster, Family::V4);
    whole(&cluster, Family::V6);

    let node = cluster.node(1).unwrap();
    assert_eq!(annotation(&client, "node1", "projectcalico.org/IPv6Address"), "fd00:192:168:77::1/64", "detected");
    let tunnel = annotation(&client, "node1", "projectcalico.org/IPv6VXLANTunnelAddr");
    let handle = client.get(&format!("{GROUP}/ipamhandles/vxlan-v6-tunnel-addr-node1")).unwrap();
    let block = handle["spec"]["block"].as_object().unwrap().keys().next().unwrap().clone();
    let stored = client.get(&format!("{GROUP}/ipamblocks/{}", block.replace([':', '/'], "-"))).unwrap();
    assert!(block.ends_with("/122") && stored["spec"]["affinity"] == "host:node1", "{stored}");
    let mut holders = stored["spec"]["attributes"].as_array().unwrap().iter();
    let holder = holders.find(|holder| holder["handle_id"] == "vxlan-v6-tunnel-addr-node1").unwrap();
    assert_eq!(holder["secondary"], json!({"node": "node1", "type": "vxlanV6TunnelAddress"}));
    let device = node.sh("ip -d link show vxlan-v6.calico; ip -br address show vxlan-v6.calico").unwrap();
    assert!(device.contains("mtu 1430") && device.contains("id 4096 local fd00:192:168:77::1 dev eth0"), "{device}");
    assert!(device.contains("dstport 4789 nolearning") && device.contains(&format!("{tunnel}/128")), "{device}");

    let peer = annotation(&client, "node2", "projectcalico.org/IPv6VXLANTunnelAddr");
    let routes = node.sh("ip -6 route").unwrap();
    assert!(routes.contains(&format!("blackhole {block} dev lo proto 80")), "{routes}");
    assert!(routes.contains(&format!("via {peer} dev vxlan-v6.calico")), "{routes}");
    let rules = node.sh("ip6tables-nft-save").unwrap();
    assert!(rules.contains("cali60masq-ipam-pools") && rules.contains("--icmpv6-type 135 -j ACCEPT"), "{rules}");
    assert!(node.sh("ipset list cali60all-vxlan-net").unwrap().contains("fd00:192:168:77::2"));
    for pod in pods(&client, "default", "", "node1") {
        let (v4, v6) = (&pod["status"]["podIPs"][0]["ip"], &pod["status"]["podIPs"][1]["ip"]);
        let wanted = format!("{}/32,{}/128", v4.as_str().unwrap(), v6.as_str().unwrap());
        assert_eq!(pod["metadata"]["annotations"]["cni.projectcalico.org/podIPs"], wanted.as_str());
        assert!(routes.contains(&format!("{} dev cali", v6.as_str().unwrap())), "{routes}");
    }

    cluster.api().unwrap().control("gc").unwrap();
    assert_eq!(client.get(&format!("{GROUP}/ipamhandles/vxlan-v6-tunnel-addr-node1")).unwrap()["spec"], handle["spec"]);
    for pod in pods(&client, "default", "web", "node1") {
        client
            .delete(&format!("/api/v1/namespaces/default/pods/{}", pod["metadata"]["name"].as_str().unwrap()))
            .unwrap();
    }
    cluster.wait_pods_ready(6, PATIENCE).unwrap();
    whole(&cluster, Family::V6);
    // 6 pods and 2 tunnels, in each family.
    let blocks = client.list(&format!("{GROUP}/ipamblocks")).unwrap();
    let used = blocks.iter().flat_map(|block| block["spec"]["allocations"].as_array().unwrap());
    eventually("no address is held by pods that are gone", || {
        used.clone().filter(|slot| !slot.is_null()).count() == 16
    });
}

#[test]
fn one_node_on_each() {
    let cluster = cluster(true);
    let client = cluster.client().unwrap();
    install_calico(&cluster);
    install_workloads(&cluster);
    whole_in_both(&cluster);

    prepare(&client, &["node1", "node2"], 26);
    prepare_v6(&client, &["node1", "node2"]);
    assert!(client.find(&format!("{GROUP}/ipamblocks/fd00-10-244-1---122")).unwrap().is_some());
    label(&client, "node1", "flannel");
    label(&client, "node2", "flannel");
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"nodectl.io/cni": "flannel"}}}}});
    client.patch("/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds", Patch::Merge, &selector).unwrap();
    cluster.wait_pods_ready(6, PATIENCE).unwrap();

    let node = cluster.node(1).unwrap();
    label(&client, "node1", "none");
    eventually("flannel leaves", || pods(&client, "kube-flannel", "kube-flannel-ds", "node1").is_empty());
    node.sh(
        "ip link set flannel.1 name vxlan.calico; ip link set flannel-v6.1 name vxlan-v6.calico; ip link delete cni0
         iptables-nft -t nat -F FLANNEL-POSTRTG; ip6tables-nft -t nat -F FLANNEL-POSTRTG",
    )
    .unwrap();
    let index = index_of(node, "vxlan-v6.calico");
    label(&client, "node1", "calico");
    eventually("Calico is up", || condition(&client, "node1") == ("False".to_owned(), "CalicoIsUp".to_owned()));
    for pod in pods(&client, "default", "", "node1") {
        client
            .delete(&format!("/api/v1/namespaces/default/pods/{}", pod["metadata"]["name"].as_str().unwrap()))
            .unwrap();
    }
    cluster.wait_pods_ready(6, PATIENCE).unwrap();
    whole_in_both(&cluster);
    let routes = node.sh("ip -6 route").unwrap();
    assert!(routes.contains("dev cali") && !routes.contains("cni0"), "{routes}");
    assert!(routes.contains("fd00:10:244:2::/122 via fd00:10:244:2:: dev vxlan-v6.calico"), "{routes}");
    assert!(routes.contains("blackhole fd00:10:244:1::/122 dev lo proto 80"), "{routes}");
    assert_eq!(index_of(node, "vxlan-v6.calico"), index, "the renamed device is adopted");

    let patch = json!({"metadata": {"annotations": {"projectcalico.org/VXLANTunnelMACAddrV6": "0e:00:00:00:00:01"}}});
    client.patch("/api/v1/nodes/node1", Patch::Merge, &patch).unwrap();
    eventually("another MAC means another device", || {
        ![index.clone(), String::new()].contains(&index_of(node, "vxlan-v6.calico"))
    });
}
