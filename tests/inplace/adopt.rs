//! Pods re-plumbed while they talk: every intermediate state forwards, whatever was killed half way ends the same, and the way
//! back ends where it began.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use nodectl::adopt::{At, PodNetwork, Way, carry_out, read, to_calico, to_flannel};
use nodectl::host::netlink;
use nodectl_lab::scenario::sample;

#[path = "support/flood.rs"]
mod flood;
#[path = "support/hands.rs"]
mod hands;
#[path = "support/world.rs"]
mod world;
use hands::{
    Adopted, all, back, cali, first_class, flooded, passed, pause, sweep, there, there_and_back, whole, without_bridge,
};
use world::{World, same, sh, warmed};

/// Questions a second of each flow.
const RATE: u32 = 200;

/// Some of the places at which a list of operations may be cut off, the end among them; all with the full counts.
fn places(length: usize, count: usize) -> Vec<usize> {
    let mut places = sample(&(0..length).collect::<Vec<_>>(), count, length as u64);
    places.push(length);
    places
}

#[test]
fn nothing_is_lost_there_and_back() {
    there_and_back(false, Way::Live, RATE);
}

#[test]
fn nothing_is_lost_with_both_families() {
    there_and_back(true, Way::Live, RATE);
}

#[test]
fn nothing_is_lost_renamed_while_down() {
    there_and_back(false, Way::Down, RATE);
}

#[test]
fn nothing_is_lost_renamed_while_down_with_both_families() {
    there_and_back(true, Way::Down, RATE);
}

#[test]
fn a_flood_loses_nothing() {
    flooded(false, Way::Live);
}

#[test]
fn a_flood_loses_nothing_by_ipv6() {
    flooded(true, Way::Live);
}

#[test]
fn a_flood_loses_nothing_renamed_while_down() {
    flooded(false, Way::Down);
}

#[test]
fn the_route_has_the_metric_that_felix_wants() {
    for (metric, metrics) in [(Some(1024), &[1024][..]), (None, &[0, 1024])] {
        let world = World::new(1, false);
        let before = without_bridge(&world);
        let session = warmed(world.flows(), RATE);
        let adopted = there(&world, metric, Way::Live, whole);
        first_class(&world, metrics);
        back(&world, &adopted, Way::Live, whole);
        passed(&session.finish());
        same(&without_bridge(&world), &before, "back again");
    }
}

/// Killed after each operation, then begun again; forward and back.
fn begun_again(way: Way) {
    let world = World::new(2, true);
    let before = without_bridge(&world);
    let session = warmed(world.flows(), 50);
    let everywhere = |length: usize| places(length, 5);
    let adopted = there(&world, Some(1024), way, everywhere);
    first_class(&world, &[1024]);
    back(&world, &adopted, way, everywhere);
    passed(&session.finish());
    same(&without_bridge(&world), &before, "back again");
}

#[test]
fn killed_anywhere_it_can_be_begun_again() {
    begun_again(Way::Live);
}

#[test]
fn killed_anywhere_renamed_while_down_it_can_be_begun_again() {
    begun_again(Way::Down);
}

/// Killed after each operation, then taken back from there.
fn taken_back(way: Way) {
    let world = World::new(2, true);
    let before = without_bridge(&world);
    let session = warmed(world.flows(), 50);
    let cut_and_undo = |n: usize, list: &[At], undo: &[At]| {
        let standing = without_bridge(&world);
        for upto in places(list.len(), 6) {
            carry_out(&list[..upto], &world.pods[n].path(), &mut |_| ()).unwrap();
            carry_out(undo, &world.pods[n].path(), &mut |_| ()).unwrap();
            let last = list.get(upto.saturating_sub(1));
            same(&without_bridge(&world), &standing, &format!("after {upto} operations: {last:?}"));
        }
    };
    let bridge = netlink::links().unwrap().into_iter().find(|l| l.name == "cni0").unwrap();
    carry_out(&to_calico::bridge(&bridge), Path::new("/"), &mut pause).unwrap();
    let guided = all(&world);
    cut_and_undo(0, &to_calico::guide(&guided[0]), &to_flannel::unguide(&guided[0]));
    sweep(&world, whole, |n| to_calico::guide(&guided[n]));
    let turned = all(&world);
    cut_and_undo(0, &to_calico::turn(&turned[0]), &to_flannel::unturn(&turned[0]));
    sweep(&world, whole, |n| to_calico::turn(&turned[n]));
    let was = all(&world);
    let now = |n: usize| PodNetwork { host: cali(n), ..was[n].clone() };
    for metric in [Some(0), Some(1024), None] {
        cut_and_undo(0, &to_calico::detach(&was[0], &cali(0), metric, way), &to_flannel::attach(&now(0), &was[0], way));
    }
    sweep(&world, whole, |n| to_calico::detach(&was[n], &cali(n), Some(0), way));
    back(&world, &Adopted { guided, turned, detached: was }, way, whole);
    passed(&session.finish());
    same(&without_bridge(&world), &before, "back again");
}

#[test]
fn killed_anywhere_it_can_be_taken_back() {
    taken_back(Way::Live);
}

#[test]
fn killed_anywhere_renamed_while_down_it_can_be_taken_back() {
    taken_back(Way::Down);
}

/// As flannel's plugin leaves it with `isDefaultGateway: false`.
#[test]
fn a_pod_without_a_default_route_has_none_afterwards() {
    let world = World::new(2, true);
    world.pods[1].sh("ip route del default; ip -6 route del default");
    let before = without_bridge(&world);
    let adopted = there(&world, Some(0), Way::Live, whole);
    assert!(world.pods[1].sh("ip route").contains("default via 169.254.1.1"), "Calico's plugin makes one");
    back(&world, &adopted, Way::Live, whole);
    same(&without_bridge(&world), &before, "back again");
}

#[test]
fn a_pod_that_cannot_be_re_plumbed_is_told_why() {
    let world = World::new(1, false);
    let (pod, path) = (&world.pods[0], world.pods[0].path());
    let why = || read::read("default/pod0", &path, "eth0").unwrap().unwrap_err();
    assert!(read::read("default/pod0", &path, "eth0").unwrap().is_ok());
    pod.sh("ip rule add from 10.244.1.2 lookup 100");
    assert_eq!(why(), "it has a routing rule of its own, of priority 32765");
    pod.sh("ip rule del from 10.244.1.2 lookup 100");
    pod.sh("ip addr add 10.244.1.77/24 dev eth0");
    assert!(why().contains("several addresses"), "{}", why());
    pod.sh("ip addr del 10.244.1.77/24 dev eth0; ip link add net1 type bridge");
    assert!(read::read("default/pod0", &path, "eth0").unwrap().is_ok(), "a device that is down carries nothing");
    pod.sh("ip link set net1 up");
    assert_eq!(why(), "it has more interfaces than eth0: net1");
    pod.sh("ip link del net1; ip addr flush dev eth0");
    assert_eq!(why(), "it has no IPv4 address on eth0");
    sh("ip link del veth0");
    assert_eq!(why(), "it has no interface eth0");
    pod.sh("ip link add eth0 type bridge; ip link set eth0 up");
    assert_eq!(why(), "the other end of its eth0 is not on this host");
    assert!(read::read("default/pod0", Path::new("/nowhere"), "eth0").is_err());
}
