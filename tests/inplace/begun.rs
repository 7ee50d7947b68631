//! Connections that are begun at any moment of a change of hands live on: whatever carries a pod's traffic for that moment, no
//! address and no translation of its own may stay behind in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use nodectl::adopt::Way;

#[path = "support/connections.rs"]
mod connections;
#[path = "support/flood.rs"]
mod flood;
#[path = "support/hands.rs"]
mod hands;
#[path = "support/world.rs"]
mod world;
use connections::Begun;
use hands::{after_each, back, held_for, there, whole};
use world::{PORT, World, sh};

/// The port of the node that leads to the pod, from wherever it is asked.
const NODE_PORT: u16 = 30080;

/// As kube-proxy does it: the pod sees an address of the node.
fn node_port(ipv6: bool) {
    let (iptables, node, pod, outside) = if ipv6 {
        ("ip6tables", "fd00:77::1", "[fd00:244:1::2]", "fd00:77::fe")
    } else {
        ("iptables", "192.168.77.1", "10.244.1.2", "192.168.77.254")
    };
    sh(&format!(
        "{iptables} -w -t nat -A PREROUTING -d {node} -p tcp --dport {NODE_PORT} -j DNAT --to-destination {pod}:{PORT}
         {iptables} -w -t nat -A POSTROUTING -s {outside} -p tcp --dport {PORT} -m conntrack --ctstate DNAT -j MASQUERADE"
    ));
}

fn ways(world: &World) -> Vec<connections::Way> {
    let (node, pod, outside) = if world.ipv6 {
        ("[fd00:77::1]", "[fd00:244:1::2]", "[fd00:77::fe]")
    } else {
        ("192.168.77.1", "10.244.1.2", "192.168.77.254")
    };
    let way = |from, netns, to: String| connections::Way { from, netns, to: to.parse().unwrap() };
    let far = Some(world.far.path());
    vec![
        way("host", None, format!("{pod}:{PORT}")),
        way("far", far.clone(), format!("{pod}:{PORT}")),
        way(MASQUERADED, far, format!("{node}:{NODE_PORT}")),
        way("pod", Some(world.pods[0].path()), format!("{outside}:{PORT}")),
    ]
}

/// The name of what is masqueraded on its way to the pod.
const MASQUERADED: &str = "far, by the node's port";

/// What has become of connections of which one of each kind was begun after each operation.
struct Ended {
    /// When the pod had gone there: those begun since the host's own route led to it.
    there: Vec<String>,
    /// When it had come back: all.
    back: Vec<String>,
}

fn begun_all_along(ipv6: bool, way: Way) -> Ended {
    let world = World::new(1, ipv6);
    node_port(ipv6);
    let begun = Rc::new(RefCell::new(Vec::new()));
    let (list, ways) = (Rc::clone(&begun), ways(&world));
    held_for(Duration::ZERO);
    after_each(move |at| {
        let when = format!("{at:?}");
        list.borrow_mut().extend(ways.iter().map(|way| Begun::new(way, when.clone())));
    });
    let adopted = there(&world, Some(0), way, whole);
    let is_guided = |begun: &Begun| begun.when.contains("SetRoute");
    let troubles = |list: &mut [Begun]| list.iter_mut().filter_map(Begun::trouble).collect::<Vec<_>>();
    let first = begun.borrow().iter().position(is_guided).unwrap();
    let there = troubles(&mut begun.borrow_mut()[first..]);
    back(&world, &adopted, way, whole);
    let mut begun = begun.borrow_mut();
    assert!(begun.len() > 200, "{}", begun.len());
    Ended { there, back: troubles(&mut begun) }
}

#[track_caller]
fn none(troubles: &[String]) {
    assert!(troubles.is_empty(), "{} broke:\n{}", troubles.len(), troubles.join("\n"));
}

fn without_masqueraded(troubles: Vec<String>) -> Vec<String> {
    troubles.into_iter().filter(|trouble| !trouble.contains(MASQUERADED)).collect()
}

/// The kernel forgets what it has masqueraded once its way leads over another device: when the host's own route to the pod comes,
/// and when it goes. In between, however the pod's interface changes, nothing is forgotten.
fn live_on(ipv6: bool) {
    let ended = begun_all_along(ipv6, Way::Live);
    none(&ended.there);
    none(&without_masqueraded(ended.back));
}

#[test]
fn connections_begun_at_any_operation_live_on() {
    live_on(false);
}

#[test]
fn connections_begun_at_any_operation_live_on_by_ipv6() {
    live_on(true);
}

/// The kernel forgets what it has masqueraded over a device also when that goes down.
#[test]
fn renamed_while_down_what_is_not_masqueraded_lives_on() {
    let ended = begun_all_along(false, Way::Down);
    none(&without_masqueraded(ended.there));
    none(&without_masqueraded(ended.back));
}

#[test]
fn renamed_while_down_what_is_not_masqueraded_lives_on_by_ipv6() {
    let ended = begun_all_along(true, Way::Down);
    none(&without_masqueraded(ended.there));
    none(&without_masqueraded(ended.back));
}
