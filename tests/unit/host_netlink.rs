//! The netlink adapter against iproute2, in network namespaces of the test threads' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use nodectl::facts::{Address, FdbEntry, Link, Neighbour, Route, RouteKind, Rule, Vxlan};
use nodectl::host::netlink::{self, LinkChange, VethPair};

#[path = "support/namespace.rs"]
mod namespace;
use namespace::{json, sh};

/// An underlay device and a flannel overlay as flanneld leaves it.
const FLANNEL: &str = "
ip link add eth0 type veth peer name far
ip link set far up; ip link set eth0 up; ip addr add 192.168.77.1/24 dev eth0; ip route add default via 192.168.77.254
ip link add flannel.1 mtu 1450 type vxlan id 1 local 192.168.77.1 dev eth0 dstport 8472 nolearning
ip link set flannel.1 up; ip addr add 10.244.1.0/32 dev flannel.1
ip neigh add 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 nud permanent
bridge fdb add 0e:00:00:00:00:02 dev flannel.1 dst 192.168.77.2
ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.244.1.1/24 brd + dev cni0
";

fn route(dst: &str, dev: Option<&str>) -> Route {
    Route {
        dst: dst.parse().unwrap(),
        dev: dev.map(str::to_owned),
        via: None,
        src: None,
        table: 254,
        proto: 4,
        scope: if dev.is_some() { 253 } else { 0 },
        kind: RouteKind::Unicast,
        metric: 0,
        onlink: false,
        mtu: None,
    }
}

/// What iproute2 shows of this namespace, without what changes by itself.
fn picture() -> String {
    let routes = "ip route show table all | grep -v 'table local' | grep -v linkdown; ip -6 route show table main; ";
    let rest = "ip rule; ip -o addr | grep -v ' fe80' | sed 's/^[0-9]*: //'; ip neigh show nud permanent; bridge fdb show dev flannel.1";
    let text = sh(&format!("{routes} {rest}"));
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn observes_what_iproute2_shows() {
    namespace::enter();
    sh(FLANNEL);
    sh(
        "ip route add blackhole 10.244.9.0/26 proto 80; ip route add 10.9.0.0/16 dev eth0 metric 1024 mtu 1400 table 300",
    );
    sh("ip route add 10.8.0.0/16 nexthop via 192.168.77.7 dev eth0 nexthop via 192.168.77.8 dev eth0");
    sh("ip -6 addr add fd00::1/64 dev eth0 nodad; ip -6 route add fd00:9::/64 via fd00::2 dev eth0");
    sh("ip rule add fwmark 0x80000/0x80000 lookup 300 priority 99 protocol 80");
    let network = netlink::observe().unwrap();

    let names: BTreeSet<_> = network.links.iter().map(|l| l.name.as_str()).collect();
    let shown = json("ip -j link");
    assert_eq!(names, shown.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap()).collect());
    let overlay = network.overlay(1, 8472, false).unwrap();
    let vxlan = Vxlan {
        vni: 1,
        port: 8472,
        local: Some("192.168.77.1".parse().unwrap()),
        parent: Some("eth0".into()),
        learning: false,
        gbp: false,
    };
    assert_eq!((overlay.name.as_str(), overlay.vxlan.clone(), overlay.mtu), ("flannel.1", Some(vxlan), 1450));
    let shown = json("ip -j link show dev flannel.1");
    assert_eq!(overlay.mac, shown[0]["address"].as_str().unwrap());
    assert!(overlay.up && overlay.running && network.link("cni0").unwrap().kind == "bridge");

    let has = |address: &str, link: &str| {
        network.addresses.contains(&Address { link: link.into(), address: address.parse().unwrap() })
    };
    assert!(has("10.244.1.0/32", "flannel.1") && has("fd00::1/64", "eth0") && has("127.0.0.1/8", "lo"));
    let via = |dst: &str| network.routes.iter().filter(|r| r.dst.to_string() == dst).cloned().collect::<Vec<_>>();
    let overlay = &via("10.244.2.0/24")[0];
    assert!(overlay.onlink && overlay.via == Some("10.244.2.0".parse().unwrap()) && overlay.proto == 3);
    assert_eq!(via("0.0.0.0/0")[0].via, Some("192.168.77.254".parse().unwrap()));
    let blackhole = &via("10.244.9.0/26")[0];
    assert!(blackhole.kind == RouteKind::Blackhole && blackhole.proto == 80 && blackhole.dev.is_none());
    let other = &via("10.9.0.0/16")[0];
    assert_eq!((other.table, other.metric, other.mtu), (300, 1024, Some(1400)));
    assert_eq!(via("10.8.0.0/16").len(), 2);
    assert_eq!(via("fd00:9::/64")[0].metric, 1024);
    let kernel = &via("192.168.77.0/24")[0];
    assert_eq!((kernel.proto, kernel.scope, kernel.src), (2, 253, Some("192.168.77.1".parse().unwrap())));
    assert!(network.routes.iter().all(|r| r.table != 255));

    let mark = Some((0x80000, 0x80000));
    assert!(network.rules.contains(&Rule {
        family: 4,
        priority: 99,
        table: 300,
        fwmark: mark,
        proto: 80,
        ..Rule::default()
    }));
    assert!(network.rules.iter().any(|r| r.family == 6));
    let peer = "0e:00:00:00:00:02".to_owned();
    let wanted = Neighbour { link: "flannel.1".into(), address: "10.244.2.0".parse().unwrap(), mac: peer.clone() };
    assert_eq!(network.neighbours, [wanted]);
    assert_eq!(network.fdb, [FdbEntry { link: "flannel.1".into(), mac: peer, dst: "192.168.77.2".parse().unwrap() }]);
}

#[test]
fn an_overlay_is_made_anew_as_it_was() {
    namespace::enter();
    sh(FLANNEL);
    let (before, shown) = (netlink::observe().unwrap(), picture());
    assert!(netlink::delete_link("flannel.1").unwrap());
    assert!(!netlink::delete_link("flannel.1").unwrap());
    netlink::add_link(before.link("flannel.1").unwrap()).unwrap();
    for _ in 0..2 {
        for address in before.addresses.iter().filter(|a| a.link == "flannel.1" && a.address.addr().is_ipv4()) {
            netlink::add_address(address).unwrap();
        }
        before.neighbours.iter().try_for_each(netlink::replace_neighbour).unwrap();
        before.fdb.iter().try_for_each(netlink::append_fdb).unwrap();
        let routes: Vec<_> = before
            .routes
            .iter()
            .filter(|r| r.dev.as_deref() == Some("flannel.1") && r.dst.addr().is_ipv4())
            .cloned()
            .collect();
        netlink::change_routes(&routes, &[]).unwrap();
    }
    let after = netlink::observe().unwrap();
    assert_eq!(after.link("flannel.1"), before.link("flannel.1"));
    assert_eq!(picture(), shown);
    for _ in 0..2 {
        before.fdb.iter().try_for_each(netlink::delete_fdb).unwrap();
        before.neighbours.iter().try_for_each(netlink::delete_neighbour).unwrap();
        let address = Address { link: "flannel.1".into(), address: "10.244.1.0/32".parse().unwrap() };
        netlink::delete_address(&address).unwrap();
    }
    let after = netlink::observe().unwrap();
    assert!(after.fdb.is_empty() && after.neighbours.is_empty());
    assert!(after.addresses.iter().all(|a| a.address.to_string() != "10.244.1.0/32"));
}

#[test]
fn a_second_device_of_the_same_vni_is_refused_in_the_kernels_words() {
    namespace::enter();
    sh(FLANNEL);
    let twin = Link { name: "vxlan.calico".into(), ..netlink::observe().unwrap().link("flannel.1").unwrap().clone() };
    let error = format!("{:#}", netlink::add_vxlan(&twin).unwrap_err());
    assert!(error.contains("could not make the network device vxlan.calico"), "{error}");
    assert!(error.contains("A VXLAN device with the specified VNI already exists"), "{error}");
    let lost = Route { via: Some("172.16.0.1".parse().unwrap()), scope: 0, ..route("10.7.0.0/16", Some("eth0")) };
    let error = format!("{:#}", netlink::add_route(&lost).unwrap_err());
    assert!(error.contains("10.7.0.0/16") && error.contains("Nexthop has invalid gateway"), "{error}");
}

#[test]
fn a_rename_keeps_what_hangs_on_the_device() {
    namespace::enter();
    sh(FLANNEL);
    let before = netlink::observe().unwrap();
    let live = netlink::rename_live_supported().unwrap();
    let release = nodectl::host::machine::kernel().unwrap();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    assert_eq!(live, (numbers.next(), numbers.next()) >= (Some(6), Some(2)), "{release}");
    assert!(netlink::observe().unwrap() == before, "the trial must leave nothing here");
    if !live {
        return;
    }
    let rename = LinkChange { rename: Some("vxlan.calico".into()), ..LinkChange::default() };
    netlink::set_link("flannel.1", &rename).unwrap();
    let after = netlink::observe().unwrap();
    assert_eq!((after.routes.len(), after.fdb.len(), after.neighbours.len()), (before.routes.len(), 1, 1));
    let error = format!("{:#}", netlink::set_link("flannel.1", &rename).unwrap_err());
    assert!(error.contains("there is no network device flannel.1"), "{error}");
}

#[test]
fn ports_are_taken_in_and_out_of_a_bridge() {
    namespace::enter();
    sh(FLANNEL);
    let pair =
        VethPair { name: "veth1", mac: Some("ee:ee:ee:ee:ee:ee"), peer: "p1", mtu: Some(1450), ..VethPair::default() };
    netlink::add_veth(&pair).unwrap();
    let change = LinkChange { up: true, master: Some("cni0".into()), hairpin: Some(true), ..LinkChange::default() };
    netlink::set_link("veth1", &change).unwrap();
    assert_eq!(netlink::hairpin("veth1").unwrap(), Some(true));
    assert!(sh("bridge -d link show dev veth1").contains("hairpin on"));
    let link = netlink::observe().unwrap().link("veth1").unwrap().clone();
    assert_eq!((link.master.as_deref(), link.mtu, link.mac.as_str()), (Some("cni0"), 1450, "ee:ee:ee:ee:ee:ee"));
    let mac = Some("02:00:00:00:00:01".to_owned());
    let out = LinkChange { nomaster: true, down: true, mac, mtu: Some(1400), ..LinkChange::default() };
    netlink::set_link("veth1", &out).unwrap();
    let link = netlink::observe().unwrap().link("veth1").unwrap().clone();
    assert_eq!((link.master, link.mtu, link.up, link.mac.as_str()), (None, 1400, false, "02:00:00:00:00:01"));
    assert_eq!(netlink::hairpin("veth1").unwrap(), None);
    assert!(netlink::set_link("veth1", &LinkChange { mac: Some("nonsense".into()), ..LinkChange::default() }).is_err());
}

#[test]
fn a_veth_pair_reaches_into_another_namespace() {
    namespace::enter();
    let pod = namespace::another();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pod));
    let pair = VethPair { name: "cali1", peer: "eth0", peer_netns: Some(path.as_ref()), ..VethPair::default() };
    netlink::add_veth(&pair).unwrap();
    let network = netlink::observe().unwrap();
    assert!(network.link("cali1").unwrap().peer_index.is_some() && network.link("eth0").is_none());
    let inside = nodectl::host::netns::enter(path.as_ref(), netlink::observe).unwrap().unwrap();
    assert!(inside.link("eth0").is_some());
}

#[test]
fn many_links_are_deleted_at_once_and_no_others() {
    namespace::enter();
    let make: String = (0..60).map(|n| format!("link add v{n} type veth peer name p{n}\n")).collect();
    std::fs::write(format!("/tmp/nodectl-test-{}", std::process::id()), make).unwrap();
    sh(&format!("ip -batch /tmp/nodectl-test-{0}; rm /tmp/nodectl-test-{0}", std::process::id()));
    let mut names: Vec<String> = (0..58).map(|n| format!("v{n}")).collect();
    names.push("never-there".into());
    let start = std::time::Instant::now();
    netlink::delete_links(&names).unwrap();
    // One by one this takes 58 times 27 ms.
    assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
    let left: Vec<_> = netlink::observe().unwrap().links.into_iter().map(|l| l.name).collect();
    assert_eq!(left, ["lo", "p58", "v58", "p59", "v59"]);
    netlink::delete_links(&["v58"]).unwrap();
    netlink::delete_links(&names).unwrap();
    // Loopback cannot be deleted: nothing may be.
    assert!(netlink::delete_links(&["lo", "v59"]).is_err());
    assert!(netlink::observe().unwrap().link("v59").is_some());
    assert!(!sh("ip -d link show v59").contains("group 18"));
}

#[test]
fn routes_of_every_kind_go_there_and_back() {
    namespace::enter();
    sh(FLANNEL);
    sh("ip -6 addr add fd00::1/64 dev eth0 nodad");
    let before = picture();
    let routes = [
        route("10.244.1.7/32", Some("eth0")),
        Route { metric: 1024, proto: 80, ..route("10.244.1.8/32", Some("eth0")) },
        Route { kind: RouteKind::Blackhole, proto: 80, ..route("10.244.1.0/26", None) },
        Route { kind: RouteKind::Throw, table: 250, ..route("10.1.0.0/16", None) },
        Route { kind: RouteKind::Unreachable, metric: 5, ..route("10.2.0.0/16", None) },
        Route { mtu: Some(1300), src: Some("192.168.77.1".parse().unwrap()), ..route("10.3.0.0/16", Some("eth0")) },
        Route { via: Some("fd00::9".parse().unwrap()), scope: 0, metric: 1024, ..route("fd00:5::/64", Some("eth0")) },
        Route { kind: RouteKind::Blackhole, metric: 1024, proto: 80, scope: 0, ..route("fd00:6::/122", Some("lo")) },
        Route {
            via: Some("10.244.3.0".parse().unwrap()),
            onlink: true,
            scope: 0,
            ..route("10.244.3.0/24", Some("flannel.1"))
        },
    ];
    for _ in 0..2 {
        netlink::change_routes(&routes, &[]).unwrap();
    }
    let now = netlink::observe().unwrap().routes;
    for route in &routes {
        assert!(now.contains(route), "{route:?} is not among {now:#?}");
    }
    assert_eq!(netlink::errno(&netlink::add_route(&routes[0]).unwrap_err()), Some(nix::errno::Errno::EEXIST));
    for _ in 0..2 {
        netlink::change_routes(&[], &routes).unwrap();
    }
    assert_eq!(picture(), before);
}

#[test]
fn only_the_very_route_is_deleted() {
    namespace::enter();
    sh(FLANNEL);
    sh("ip route add 10.244.1.9/32 dev eth0 metric 100 proto 80; ip route add 10.6.0.0/16 dev eth0 proto 80");
    let wanted = Route { proto: 80, ..route("10.244.1.9/32", Some("eth0")) };
    netlink::delete_route(&wanted).unwrap();
    netlink::delete_route(&Route { proto: 4, ..route("10.6.0.0/16", Some("eth0")) }).unwrap();
    netlink::delete_route(&Route { dev: Some("gone0".into()), ..wanted.clone() }).unwrap();
    let left = sh("ip route");
    assert!(left.contains("10.244.1.9 dev eth0") && left.contains("10.6.0.0/16"), "{left}");
    netlink::delete_route(&Route { metric: 100, ..wanted.clone() }).unwrap();
    netlink::replace_route(&wanted).unwrap();
    netlink::replace_route(&wanted).unwrap();
    assert_eq!(json("ip -j route show 10.244.1.9").as_array().unwrap().len(), 1);
}

#[test]
fn rules_and_addresses_go_there_and_back() {
    namespace::enter();
    sh(FLANNEL);
    let before = picture();
    let rule = Rule { family: 4, priority: 7, table: 249, fwmark: Some((1, 0xff)), proto: 80, ..Rule::default() };
    netlink::add_rule(&rule).unwrap();
    assert!(sh("ip rule").contains("7:\tfrom all fwmark 0x1/0xff lookup 249 proto 80"));
    assert!(netlink::observe().unwrap().rules.contains(&rule));
    let addresses = ["10.244.5.1/24", "10.244.5.0/32", "fd00:7::1/64"]
        .map(|a| Address { link: "cni0".into(), address: a.parse().unwrap() });
    addresses.iter().chain(&addresses).try_for_each(netlink::add_address).unwrap();
    let shown = sh("ip addr show cni0");
    assert!(
        shown.contains("inet 10.244.5.1/24 brd 10.244.5.255 scope global")
            && shown.contains("inet 10.244.5.0/32 scope")
    );
    assert!(shown.contains("fd00:7::1/64 scope global nodad"), "{shown}");
    addresses.iter().chain(&addresses).try_for_each(netlink::delete_address).unwrap();
    netlink::delete_rules(std::slice::from_ref(&rule)).unwrap();
    netlink::delete_rules(std::slice::from_ref(&rule)).unwrap();
    assert_eq!(picture(), before);
}

#[test]
fn a_full_node_is_read_in_no_time() {
    namespace::enter();
    sh(FLANNEL);
    let links = "for n in $(seq 250); do echo link add v$n type veth peer name p$n; echo link set v$n up; done";
    let routes = "for n in $(seq 2000); do echo route add 10.$((n / 250 + 64)).$((n % 250)).0/24 via 192.168.77.$((n % 200 + 2)); done";
    sh(&format!("({links}; {routes}) | ip -batch -"));
    let start = std::time::Instant::now();
    let network = netlink::observe().unwrap();
    let took = start.elapsed();
    assert!(network.links.len() > 500 && network.routes.len() > 2000);
    // Of a debug build on a busy machine; a release build takes a fifth of it.
    assert!(took.as_millis() < 1000, "{took:?}");
    let start = std::time::Instant::now();
    netlink::set_link("v7", &LinkChange { mtu: Some(1400), ..LinkChange::default() }).unwrap();
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    let peers = 0..1000_u32;
    let (link, mac) = (|| "flannel.1".to_owned(), |n: u32| format!("0e:01:00:00:{:02x}:{:02x}", n >> 8, n & 0xff));
    let address = |n: u32| std::net::IpAddr::from([10, 245, (n >> 8) as u8, (n & 0xff) as u8]);
    let neighbours: Vec<_> =
        peers.clone().map(|n| Neighbour { link: link(), address: address(n), mac: mac(n) }).collect();
    let fdb: Vec<_> = peers.map(|n| FdbEntry { link: link(), mac: mac(n), dst: address(n) }).collect();
    let start = std::time::Instant::now();
    netlink::change_neighbours(&neighbours, &[]).unwrap();
    netlink::change_fdb(&fdb, &[]).unwrap();
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    let network = netlink::observe().unwrap();
    assert_eq!((network.neighbours.len(), network.fdb.len()), (1001, 1001));
    netlink::change_neighbours(&[], &neighbours).unwrap();
    netlink::change_fdb(&[], &fdb).unwrap();
    let network = netlink::observe().unwrap();
    assert_eq!((network.neighbours.len(), network.fdb.len()), (1, 1));
    let start = std::time::Instant::now();
    let gone = network.routes.iter().find(|r| r.dst.to_string() == "10.64.7.0/24").unwrap();
    netlink::delete_route(gone).unwrap();
    assert!(start.elapsed().as_millis() < 500 && !sh("ip route").contains("10.64.7.0/24"));
}
