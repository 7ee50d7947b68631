//! flanneld heals what is deleted under it, leaves everything behind, and listens to Nodes in its own way.

use std::time::Duration;

use nodectl_lab::wait::{eventually, stays};
use serde_json::{Value, json};

use crate::world::World;

const DATA: &str = "flannel.alpha.coreos.com/backend-data";

#[test]
fn what_flanneld_leaves_on_a_node() {
    let world = World::new(2);
    let first = world.flanneld(1, &[]);
    let _second = world.flanneld(2, &[]);
    let host = &world.hosts[0];
    eventually("the peer is programmed", || {
        host.sh("ip route show proto boot").contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink")
    });
    let mac = world.annotation("node2", DATA);
    let mac: Value = serde_json::from_str(&mac).unwrap();
    let mac = mac["VtepMAC"].as_str().unwrap();
    assert_eq!(
        world.annotation("node2", DATA),
        format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}"),
        "compact, VtepMAC last"
    );
    assert!(host.sh("ip neigh show dev flannel.1").contains(&format!("10.244.2.0 lladdr {mac} PERMANENT")));
    assert!(host.sh("bridge fdb show dev flannel.1").contains(&format!("{mac} dst 192.168.77.2 self permanent")));
    assert!(host.sh("ip -br address show flannel.1").contains("10.244.1.0/32"));
    assert_eq!(
        host.sh("cat /run/flannel/subnet.env"),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    host.sh("ping -c1 -W2 10.244.2.0");
    let before = host.sh("ip -d link show flannel.1; ip route; ip neigh show nud permanent; iptables-nft-save | grep FLANNEL; cat /run/flannel/subnet.env");
    assert!(first.stop().contains("Exiting cleanly"));
    let after = host.sh("ip -d link show flannel.1; ip route; ip neigh show nud permanent; iptables-nft-save | grep FLANNEL; cat /run/flannel/subnet.env");
    assert_eq!(before, after, "nothing is removed on exit");
    assert_eq!(world.condition("node1"), ("False".into(), "FlannelIsUp".into()), "nor taken back");
}

#[test]
fn the_rules_have_flannels_layout_and_come_back() {
    let world = World::new(1);
    let _daemon = world.flanneld(1, &[]);
    let host = &world.hosts[0];
    let expected = r#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;
    let nat = || host.sh("iptables-nft-save -t nat | grep -- -A");
    let filter = || host.sh("iptables-nft-save -t filter | grep -- -A; true");
    assert_eq!(nat(), expected);
    assert!(
        filter().contains("-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT"),
        "{}",
        filter()
    );
    host.sh("iptables-nft -t nat -D FLANNEL-POSTRTG 3; iptables-nft -t nat -A POSTROUTING -s 1.2.3.4 -j RETURN");
    eventually("the missing rule is back", || nat().lines().count() == 8);
    assert!(
        nat().starts_with("-A POSTROUTING -s 1.2.3.4"),
        "the whole set was appended anew, behind what came meanwhile: {}",
        nat()
    );
    host.sh("iptables-nft -t filter -F FORWARD; iptables-nft -t filter -F FLANNEL-FWD; iptables-nft -t filter -X FLANNEL-FWD");
    eventually("a missing chain is back", || filter().lines().count() == 3);
}

#[test]
fn a_deleted_device_comes_back_without_its_peers() {
    let world = World::new(2);
    let daemon = world.flanneld(1, &[]);
    let _second = world.flanneld(2, &[]);
    let host = &world.hosts[0];
    eventually("the peer is programmed", || host.sh("ip route").contains("10.244.2.0/24"));
    let mac = host.sh("cat /proc/net/arp; ip -br link show flannel.1 | awk '{print $3}'");
    host.sh("ip link delete flannel.1");
    eventually("the device is back", || {
        host.try_sh("ip -br address show flannel.1").is_ok_and(|text| text.contains("10.244.1.0/32"))
    });
    assert!(mac.contains(host.sh("ip -br link show flannel.1 | awk '{print $3}'").trim()), "with its MAC");
    assert!(
        stays(Duration::from_millis(800), || !host
            .sh("ip route; ip neigh; bridge fdb show dev flannel.1")
            .contains("10.244.2.0")),
        "routes, ARP and FDB stay away"
    );
    host.sh("ip link set flannel.1 down; ip link delete flannel.1 && ip link add vxlan.calico type vxlan id 1 dev eth0 local 192.168.77.1 dstport 8472 nolearning || ip link set flannel.1 name vxlan.calico");
    assert!(daemon.stop().contains("Exiting cleanly"), "a device that cannot be made does not hold up SIGTERM");
    host.sh("ip link delete vxlan.calico");
    let _older = world.flanneld(1, &["--version-like", "0.26"]);
    host.sh("ip link delete flannel.1");
    assert!(
        stays(Duration::from_millis(800), || host.try_sh("ip link show flannel.1").is_err()),
        "before v0.27.4 nobody looks"
    );
}

#[test]
fn only_some_releases_remove_their_rules_on_exit() {
    let world = World::new(1);
    let host = &world.hosts[0];
    for (version, kept) in [("0.24", true), ("0.26.7", false), ("0.27", true)] {
        world.flanneld(1, &["--version-like", version]).stop();
        let rules = host.sh("iptables-nft-save");
        assert_eq!(rules.contains("-j FLANNEL-POSTRTG"), kept, "{version}: {rules}");
        assert!(rules.contains(":FLANNEL-POSTRTG"), "the chains stay, empty or not");
    }
}

#[test]
fn a_device_that_fits_is_reused_and_its_mac_published_another_is_recreated() {
    let world = World::new(1);
    let host = &world.hosts[0];
    let device = "type vxlan dev eth0 local 192.168.77.1 dstport 8472 nolearning";
    host.sh(&format!("ip link add flannel.1 address 0e:00:00:00:00:aa {device} id 1"));
    let index = host.sh("cat /sys/class/net/flannel.1/ifindex");
    drop(world.flanneld(1, &[]));
    assert_eq!(host.sh("cat /sys/class/net/flannel.1/ifindex"), index);
    assert!(world.annotation("node1", DATA).contains("0e:00:00:00:00:aa"));
    host.sh("ip link delete flannel.1; ip link add flannel.1 type vxlan dev eth0 local 192.168.77.1 dstport 8473 nolearning id 1");
    let daemon = world.flanneld(1, &[]);
    assert!(daemon.log().contains("incompatible configuration: port"), "{}", daemon.log());
    assert!(host.sh("ip -d link show flannel.1").contains("dstport 8472"));
    assert!(world.annotation("node1", DATA).contains("0e:00:00:00:00:aa"), "the annotation's MAC is used again");
    drop(daemon);
    host.sh("ip link set flannel.1 name vxlan.calico");
    let failed = host.start(world.folder(), &["flanneld"], &[]);
    eventually("a foreign device with this VNI is fatal", || failed.log().contains("Link not found"));
}

#[test]
fn removed_annotations_withdraw_nothing_but_a_deleted_node_does() {
    let world = World::new(2);
    let _first = world.flanneld(1, &[]);
    drop(world.flanneld(2, &[]));
    let host = &world.hosts[0];
    let programmed = || host.sh("ip route; ip neigh show dev flannel.1").matches("10.244.2.0").count() >= 3;
    eventually("the peer is programmed", programmed);
    world.annotate("node2", &json!({DATA: "{\"VNI\":1,\"VtepMAC\":\"0e:00:00:00:00:bb\"}"}));
    eventually("a new MAC is taken over", || host.sh("ip neigh show dev flannel.1").contains("0e:00:00:00:00:bb"));
    assert_eq!(host.sh("bridge fdb show dev flannel.1 | grep -c 192.168.77.2"), "2\n", "the old FDB row stays");
    world.annotate("node2", &json!({DATA: null, "flannel.alpha.coreos.com/kube-subnet-manager": null}));
    assert!(stays(Duration::from_millis(600), programmed));
    world.annotate("node2", &json!({DATA: "{\"VNI\":1,\"VtepMAC\":\"0e:00:00:00:00:bb\"}", "flannel.alpha.coreos.com/kube-subnet-manager": "true"}));
    std::thread::sleep(Duration::from_millis(300));
    host.sh("ip link set flannel.1 name vxlan.calico");
    let renamed = json!({DATA: "{\"VNI\":1,\"VtepMAC\":\"0e:00:00:00:00:cc\"}"});
    world.annotate("node2", &renamed);
    let known = || host.sh("ip neigh show dev vxlan.calico").contains("0e:00:00:00:00:cc");
    eventually("a device that is renamed under flanneld is still its device", known);
    host.sh("ip link set vxlan.calico name flannel.1");
    world.admin.delete("/api/v1/nodes/node2").unwrap();
    eventually("the Node's deletion is", || !host.sh("ip route; ip neigh show dev flannel.1").contains("10.244.2.0"));
}
