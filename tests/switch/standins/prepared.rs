//! A cluster prepared for a takeover, by hand: what Calico has to know before it meets flannel.

use nodectl_lab::calico::ipam::{Ipam, Request, Use};
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::cluster::POD_NETWORK_V6;
use serde_json::{Value, json};

const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// Pool, FelixConfiguration, strict affinity; and for the named nodes their blocks, the addresses of tunnel and bridge, and the annotations.
pub fn prepare(admin: &Client, nodes: &[&str], block_size: u8) {
    let create = |plural: &str, kind: &str, name: &str, spec: Value| {
        let object =
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        admin.ensure(&format!("{GROUP}/{plural}"), &object).expect("a Calico object");
    };
    let pool = json!({"cidr": "10.244.0.0/16", "blockSize": block_size, "vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": true});
    create("ippools", "IPPool", "default-ipv4-ippool", pool);
    create(
        "felixconfigurations",
        "FelixConfiguration",
        "default",
        json!({"vxlanVNI": 1, "vxlanPort": 8472, "vxlanMTU": 1450}),
    );
    create("ipamconfigs", "IPAMConfig", "default", json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    create("clusterinformations", "ClusterInformation", "default", json!({"datastoreReady": true}));
    for node in nodes {
        claim(admin, node);
    }
}

fn claim(admin: &Client, node: &str) {
    let index = node.trim_start_matches("node");
    let ipam = Ipam::new(admin, node);
    ipam.claim_affinity(format!("10.244.{index}.0/24").parse().expect("a network")).expect("blocks");
    let own = ("node".to_owned(), node.to_owned());
    let tunnel = Request {
        handle: format!("vxlan-tunnel-addr-{node}"),
        attributes: [own.clone(), ("type".to_owned(), "vxlanTunnelAddress".to_owned())].into(),
        intended: Use::Tunnel,
    };
    ipam.assign(format!("10.244.{index}.0").parse().expect("an address"), &tunnel).expect("the tunnel's address");
    let bridge = Request { handle: format!("gateway-{node}"), attributes: [own].into(), intended: Use::Workload };
    ipam.assign(format!("10.244.{index}.1").parse().expect("an address"), &bridge).expect("the bridge's address");
    let path = format!("/api/v1/nodes/{node}");
    let object = admin.get(&path).expect("the node");
    let data = object["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-data"].as_str().unwrap_or("{}");
    let data: Value = serde_json::from_str(data).expect("flannel's data");
    let mut annotations = json!({
        "projectcalico.org/IPv4Address": format!("192.168.77.{index}/32"),
        "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.244.{index}.0"),
    });
    if let Some(mac) = data["VtepMAC"].as_str() {
        annotations["projectcalico.org/VXLANTunnelMACAddr"] = json!(mac);
    }
    admin.patch(&path, Patch::Merge, &json!({"metadata": {"annotations": annotations}})).expect("annotations");
}

/// The same for IPv6, where the cluster is dual stack. Of a /64 only the first of its many blocks is claimed.
pub fn prepare_v6(admin: &Client, nodes: &[&str]) {
    let spec = json!({"cidr": POD_NETWORK_V6, "blockSize": 122, "vxlanMode": "Always", "ipipMode": "Never", "natOutgoing": true});
    let pool = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "default-ipv6-ippool"}, "spec": spec});
    admin.ensure(&format!("{GROUP}/ippools"), &pool).expect("an IPv6 pool");
    for node in nodes {
        let index = node.trim_start_matches("node");
        let base = format!("fd00:10:244:{index}::");
        let ipam = Ipam::new(admin, node);
        ipam.claim_affinity(format!("{base}/122").parse().expect("a network")).expect("a block");
        let own = ("node".to_owned(), (*node).to_owned());
        let tunnel = Request {
            handle: format!("vxlan-v6-tunnel-addr-{node}"),
            attributes: [own.clone(), ("type".to_owned(), "vxlanV6TunnelAddress".to_owned())].into(),
            intended: Use::Tunnel,
        };
        ipam.assign(base.parse().expect("an address"), &tunnel).expect("the tunnel's address");
        let bridge =
            Request { handle: format!("gateway-v6-{node}"), attributes: [own].into(), intended: Use::Workload };
        ipam.assign(format!("{base}1").parse().expect("an address"), &bridge).expect("the bridge's address");
        let path = format!("/api/v1/nodes/{node}");
        let object = admin.get(&path).expect("the node");
        let data = object["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-v6-data"].as_str();
        let data: Value = serde_json::from_str(data.expect("flannel's data")).expect("JSON");
        let annotations = json!({
            "projectcalico.org/IPv6Address": format!("fd00:192:168:77::{index}/128"),
            "projectcalico.org/IPv6VXLANTunnelAddr": base,
            "projectcalico.org/VXLANTunnelMACAddrV6": data["VtepMAC"],
        });
        admin.patch(&path, Patch::Merge, &json!({"metadata": {"annotations": annotations}})).expect("annotations");
    }
}
