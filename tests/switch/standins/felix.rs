//! felix takes what it thinks is its own, and drops what it does not know.

use std::time::Duration;

use nodectl_lab::apiserver::faults::{Fault, Kind};
use nodectl_lab::calico::endpoint::interface_name;
use nodectl_lab::wait::{eventually, stays};
use serde_json::json;

use crate::world::World;

const READY: &str = "the node becomes ready";

#[test]
fn while_flannels_device_stands_vxlan_calico_cannot_be_made() {
    let world = World::new(1);
    drop(world.flanneld(1, &[]));
    world.prepare(26, true);
    let host = &world.hosts[0];
    let daemon = world.calico_node(1, &[]);
    eventually("felix complains", || daemon.log().contains("can't locate created tunnel device"));
    assert!(stays(Duration::from_secs(1), || !world.ready(1)));
    assert_eq!(world.condition("node1").1, "FlannelIsUp", "nobody has said otherwise yet");
    assert!(host.sh("ip route").contains("blackhole 10.244.1.0/26 proto 80"), "the blackholes are there all the same");
    host.sh("ip link delete flannel.1");
    eventually(READY, || world.ready(1));
    eventually("the condition is Calico's", || world.condition("node1") == ("False".into(), "CalicoIsUp".into()));
    let device = host.sh("ip -d link show vxlan.calico");
    assert!(
        device.contains("id 1 local 192.168.77.1 dev eth0") && device.contains("dstport 8472 nolearning"),
        "{device}"
    );
    daemon.stop();
    assert_eq!(world.condition("node1"), ("True".into(), "CalicoIsDown".into()), "preStop");
    assert!(
        host.sh("ip route; iptables-nft-save; ipset list -n; ip link").contains("cali-FORWARD"),
        "everything stays"
    );
    host.sh("ip link show vxlan.calico; test -e /var/lib/calico/nodename; ipset list cali40all-vxlan-net");
    assert_eq!(host.sh("cat /var/lib/calico/mtu"), "1450");
}

#[test]
fn a_renamed_device_that_fits_is_adopted_as_it_is() {
    let world = World::new(2);
    let flannel = world.flanneld(1, &[]);
    let _second = world.flanneld(2, &[]);
    let host = &world.hosts[0];
    eventually("the peer is programmed", || host.sh("ip route").contains("10.244.2.0/24"));
    flannel.stop();
    world.prepare(26, true);
    host.sh("ip link set flannel.1 name vxlan.calico && ip neigh replace 10.244.9.0 lladdr 0e:00:00:00:00:99 dev vxlan.calico nud permanent && bridge fdb append 0e:00:00:00:00:99 dev vxlan.calico dst 192.168.77.9");
    host.sh("ip address add 10.244.1.77/32 dev vxlan.calico");
    let index = host.sh("cat /sys/class/net/vxlan.calico/ifindex");
    let daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    assert_eq!(host.sh("cat /sys/class/net/vxlan.calico/ifindex"), index, "{}", daemon.log());
    eventually("what felix does not know is gone", || {
        let all = host.sh(
            "ip route; ip neigh show dev vxlan.calico; bridge fdb show dev vxlan.calico; ip address show vxlan.calico",
        );
        !all.contains("10.244.2.0/24") && !all.contains("0e:00:00:00:00:99") && !all.contains("10.244.1.77")
    });
    let routes = host.sh("ip route");
    assert!(routes.contains("10.244.2.64/26 via 10.244.2.0 dev vxlan.calico onlink mtu 1450"), "{routes}");
    host.sh("ping -c1 -W2 10.244.2.0");
    world.annotate("node1", &json!({"projectcalico.org/VXLANTunnelMACAddr": "0e:00:00:00:00:01"}));
    eventually("another MAC means another device", || {
        host.try_sh("cat /sys/class/net/vxlan.calico/ifindex").is_ok_and(|now| now != index)
    });
}

#[test]
fn a_blackhole_as_wide_as_the_bridge_replaces_its_route_for_good() {
    let world = World::new(1);
    world.prepare(24, true);
    let host = &world.hosts[0];
    world.bridge_pod(1, "old", "10.244.1.7");
    host.sh("ping -c1 -W1 10.244.1.7");
    let daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    let routes = host.sh("ip route");
    assert!(routes.contains("blackhole 10.244.1.0/24 proto 80") && !routes.contains("dev cni0"), "{routes}");
    assert!(host.try_sh("ping -c1 -W1 10.244.1.7").is_err(), "the pod on the bridge is cut off");
    daemon.stop();
    host.sh("ip route delete blackhole 10.244.1.0/24");
    assert!(!host.sh("ip route").contains("10.244.1.0/24"), "the connected route does not come back");
}

#[test]
fn narrower_blackholes_cut_off_the_bridges_pods_unless_each_has_a_route() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    world.bridge_pod(1, "old", "10.244.1.7");
    world.bridge_pod(1, "kept", "10.244.1.8");
    host.sh("ip route add 10.244.1.8/32 dev cni0");
    let _daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    assert!(host.sh("ip route").contains("10.244.1.0/24 dev cni0"));
    assert!(host.try_sh("ping -c1 -W1 10.244.1.7").is_err());
    assert!(
        stays(Duration::from_secs(2), || host.try_sh("ping -c1 -W1 10.244.1.8").is_ok()),
        "a /32 beats the blackhole and is left alone"
    );
    host.sh("ip route delete blackhole 10.244.1.0/26");
    eventually("the blackhole is put back", || host.sh("ip route").contains("blackhole 10.244.1.0/26"));
    host.sh("ip route add blackhole 10.99.0.0/16 proto 80; ip route add blackhole 10.98.0.0/16 proto 12");
    eventually("protocol 80 is felix's everywhere", || !host.sh("ip route").contains("10.99.0.0"));
    assert!(host.sh("ip route").contains("10.98.0.0/16"));
}

#[test]
fn an_interface_of_no_endpoint_is_dropped_and_its_routes_go_after_the_grace() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    let _daemon = world.calico_node(1, &[("LAB_ROUTE_GRACE_MS", "5000")]);
    eventually(READY, || world.ready(1));
    let name = interface_name("default", "late");
    host.sh(&format!(
        "ip netns add late; ip link add {name} type veth peer name eth0 netns late; ip link set {name} up
         ip -n late address add 10.244.1.9/32 dev eth0; ip -n late link set eth0 up; ip -n late route add 169.254.1.1 dev eth0; ip -n late route add default via 169.254.1.1
         ip route add 10.244.1.9/32 dev {name}; echo 1 > /proc/sys/net/ipv4/conf/{name}/proxy_arp"
    ));
    let reach = || host.try_sh("ip netns exec late ping -c1 -W1 192.168.77.1").is_ok();
    assert!(!reach(), "an unknown interface");
    assert!(host.sh("ip route").contains("10.244.1.9 dev"), "within the grace the route is left alone");
    eventually("then it goes", || !host.sh("ip route").contains("10.244.1.9 dev"));
    assert!(host.try_sh("ip link show").unwrap().contains(&name), "the link itself is never deleted");
    assert_eq!(host.sh(&format!("cat /proc/sys/net/ipv4/conf/{name}/proxy_arp")), "1\n");
    world.pod("late", "node1");
    world.pod_ip("late", "10.244.1.9");
    eventually("a Pod of that name makes it known, whoever wired it", reach);
    let routed = || host.sh("ip route").contains(&format!("10.244.1.9 dev {name} scope link"));
    assert!(routed());
    host.sh(&format!("ip address add 10.244.1.200/32 dev {name}"));
    eventually("addresses go, and the kernel flushes the routes with a device's last one", || {
        !host.sh(&format!("ip address show {name}")).contains("10.244.1.200")
    });
    eventually("felix's own comes back", routed);
}

#[test]
fn vxlan_from_a_node_without_annotations_is_dropped() {
    let world = World::new(2);
    let _second = world.flanneld(2, &[]);
    drop(world.flanneld(1, &[]));
    let (first, second) = (&world.hosts[0], &world.hosts[1]);
    eventually("both are programmed", || second.sh("ip route").contains("10.244.1.0/24"));
    world.prepare(26, true);
    world.annotate("node2", &json!({"projectcalico.org/IPv4VXLANTunnelAddr": null}));
    first.sh("ip link set flannel.1 name vxlan.calico");
    let _daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    eventually("no tunnel end, no routes", || !first.sh("ip route").contains("10.244.2."));
    assert!(second.try_sh("ping -c1 -W1 10.244.1.0").is_err());
    world.annotate("node2", &json!({"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.2.0"}));
    eventually("a flannel node with the annotations is a peer like any other", || {
        second.try_sh("ping -c1 -W1 10.244.1.0").is_ok()
    });
}

#[test]
fn rules_are_put_back_at_the_top_and_carry_hashes() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    let _daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    let chain = |table: &str, name: &str| host.sh(&format!("iptables-nft-save -t {table} | grep -- '-A {name} '"));
    let first = |table: &str, name: &str| chain(table, name).lines().next().unwrap_or_default().to_owned();
    let hashed = first("filter", "FORWARD");
    assert!(hashed.contains("--comment \"cali:") && hashed.ends_with("-j cali-FORWARD"), "{hashed}");
    host.sh("iptables-nft -I FORWARD -s 1.2.3.4 -j DROP; iptables-nft -t nat -I POSTROUTING -s 1.2.3.4 -j RETURN");
    eventually("felix is on top again", || first("filter", "FORWARD").ends_with("-j cali-FORWARD"));
    assert!(chain("nat", "POSTROUTING").lines().last().unwrap().ends_with("-j cali-POSTROUTING"), "appended there");
    host.sh("iptables-nft -A INPUT -m comment --comment cali:AAAAAAAAAAAAAAAA -j ACCEPT; iptables-nft -N cali-stale; iptables-nft -F cali-from-wl-dispatch");
    eventually("leftovers go, what is missing comes", || {
        let all = host.sh("iptables-nft-save");
        !all.contains("AAAAAAAAAAAAAAAA")
            && !all.contains("cali-stale")
            && all.contains("\"Unknown interface\" -j DROP")
    });
    host.sh("ipset add cali40all-hosts-net 1.2.3.4");
    eventually("sets too", || !host.sh("ipset list cali40all-hosts-net").contains("1.2.3.4"));
}

#[test]
fn from_release_3_32_on_the_metric_is_another_and_there_is_an_arp_table() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    let name = interface_name("default", "pod");
    host.sh(&format!("ip netns add pod; ip link add {name} type veth peer name eth0 netns pod; ip link set {name} up; ip -n pod link set eth0 up; ip route add 10.244.1.9 dev {name}"));
    world.pod("pod", "node1");
    world.pod_ip("pod", "10.244.1.9");
    let _daemon = world.calico_node(1, &[("FELIX_LIKE", "3.32"), ("LAB_ROUTE_GRACE_MS", "60000")]);
    eventually(READY, || world.ready(1));
    eventually("the plugin's route goes at once: the grace ends where felix wants a route", || {
        host.sh(&format!("ip route show dev {name}")).trim() == "10.244.1.9 scope link metric 1024"
    });
    assert!(host.sh("nft list table arp calico-arp").contains("arp saddr ip 10.244.1.9 drop"));
}

#[test]
fn with_the_api_server_gone_felix_goes_on() {
    let world = World::new(1);
    world.prepare(26, true);
    let host = &world.hosts[0];
    let daemon = world.calico_node(1, &[]);
    eventually(READY, || world.ready(1));
    world.server.faults.add(Fault::all(Kind::Refuse));
    eventually("it notices", || daemon.log().contains("the datastore could not be read"));
    host.sh("ip route delete blackhole 10.244.1.0/26; iptables-nft -F FORWARD; ip link delete vxlan.calico");
    eventually("and still heals", || {
        host.sh("ip route").contains("blackhole 10.244.1.0/26")
            && host.sh("iptables-nft -S FORWARD").contains("cali-FORWARD")
            && host.try_sh("ip link show vxlan.calico").is_ok()
    });
}

#[test]
fn a_tunnel_address_that_ipam_does_not_hold_is_replaced() {
    let world = World::new(1);
    world.prepare(26, false);
    world.annotate("node1", &json!({"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.1.0", "projectcalico.org/IPv4Address": "192.168.77.1/32"}));
    let _daemon = world.calico_node(1, &[("IP", "autodetect")]);
    eventually(READY, || world.ready(1));
    assert_ne!(
        world.annotation("node1", "projectcalico.org/IPv4VXLANTunnelAddr"),
        "10.244.1.0",
        "a record is missing, so the annotation is undone"
    );
    assert_eq!(world.annotation("node1", "projectcalico.org/IPv4Address"), "192.168.77.1/24", "detected anew");
}
