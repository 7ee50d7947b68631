//! The pods of a [`World`] change hands: there and back, each state held for a while, under probes or a flood.

#![allow(dead_code, reason = "each test program uses its part")]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nodectl::adopt::{At, PodNetwork, Way, carry_out, read, to_calico, to_flannel};
use nodectl::host::netlink;
use nodectl::probe::FlowReport;

use super::flood::{Flood, Line, carried, own_netns};
use super::world::{World, nothing_lost, same, sh, warmed};

/// How long every state is held: several questions of each flow.
const HELD: Duration = Duration::from_millis(25);
/// The same where more is asked.
const HELD_IN_FLOOD: Duration = Duration::from_millis(3);

type Then = Box<dyn FnMut(&At)>;

thread_local! {
    /// What was done when, to find the operation at which something was lost.
    static DONE: RefCell<Vec<(u64, String)>> = const { RefCell::new(Vec::new()) };
    static HOLD: Cell<Duration> = const { Cell::new(HELD) };
    /// What a test does after each operation besides.
    static THEN: RefCell<Option<Then>> = const { RefCell::new(None) };
}

/// Every state is held for so long.
pub fn held_for(time: Duration) {
    HOLD.set(time);
}

/// This is done after each operation.
pub fn after_each(then: impl FnMut(&At) + 'static) {
    THEN.set(Some(Box::new(then)));
}

pub fn pause(at: &At) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    DONE.with_borrow_mut(|done| done.push((now, format!("{at:?}"))));
    THEN.with_borrow_mut(|then| then.iter_mut().for_each(|then| then(at)));
    std::thread::sleep(HOLD.get());
}

#[track_caller]
pub fn passed(reports: &[FlowReport]) {
    let lost: Vec<u64> = reports.iter().flat_map(|r| &r.lost_at_ms).copied().collect();
    print_near(&lost, 60);
    nothing_lost(reports);
}

/// What was done within so many milliseconds of a loss.
fn print_near(lost: &[u64], within: u64) {
    DONE.with_borrow(|done| {
        let near = done.iter().filter(|(at, _)| lost.iter().any(|lost| lost.abs_diff(*at) <= within));
        near.for_each(|(at, what)| println!("done at {at}: {what}"));
    });
}

fn look(world: &World, n: usize) -> PodNetwork {
    read::read(&format!("default/pod{n}"), &world.pods[n].path(), "eth0").unwrap().unwrap()
}

pub fn cali(n: usize) -> String {
    cni_store::evidence::calico_interface("cali", "default", &format!("pod{n}"))
}

/// Carries out one sweep for every pod, each operation held for a while. First, it is begun and killed as often as `cut` says.
pub fn sweep(world: &World, cut: impl Fn(usize) -> Vec<usize>, operations: impl Fn(usize) -> Vec<At>) {
    for (n, pod) in world.pods.iter().enumerate() {
        let list = operations(n);
        for upto in cut(list.len()) {
            carry_out(&list[..upto], &pod.path(), &mut |_| ()).unwrap();
        }
        carry_out(&list, &pod.path(), &mut pause).unwrap();
    }
}

/// There and back; what each sweep of the way there found first.
pub struct Adopted {
    pub guided: Vec<PodNetwork>,
    pub turned: Vec<PodNetwork>,
    pub detached: Vec<PodNetwork>,
}

pub fn all(world: &World) -> Vec<PodNetwork> {
    (0..world.pods.len()).map(|n| look(world, n)).collect()
}

pub fn there(world: &World, metric: Option<u32>, way: Way, cut: impl Fn(usize) -> Vec<usize> + Copy) -> Adopted {
    let bridge = netlink::links().unwrap().into_iter().find(|l| l.name == "cni0").unwrap();
    carry_out(&to_calico::bridge(&bridge), Path::new("/"), &mut pause).unwrap();
    let guided = all(world);
    sweep(world, cut, |n| to_calico::guide(&guided[n]));
    let turned = all(world);
    sweep(world, cut, |n| to_calico::turn(&turned[n]));
    let detached = all(world);
    sweep(world, cut, |n| to_calico::detach(&detached[n], &cali(n), metric, way));
    Adopted { guided, turned, detached }
}

pub fn back(world: &World, adopted: &Adopted, way: Way, cut: impl Fn(usize) -> Vec<usize> + Copy) {
    let now = |n: usize| PodNetwork { host: cali(n), ..adopted.detached[n].clone() };
    sweep(world, cut, |n| to_flannel::attach(&now(n), &adopted.detached[n], way));
    sweep(world, cut, |n| to_flannel::unturn(&adopted.turned[n]));
    sweep(world, cut, |n| to_flannel::unguide(&adopted.guided[n]));
}

/// Nobody is killed in between.
pub fn whole(_: usize) -> Vec<usize> {
    Vec::new()
}

/// The picture, with the bridge's parameters as they were: what makes it ready is undone by whoever did it.
pub fn without_bridge(world: &World) -> String {
    world.picture().lines().filter(|line| !line.contains("/cni0/")).collect::<Vec<_>>().join("\n")
}

/// What a pod of Calico's own has.
pub fn first_class(world: &World, metrics: &[u32]) {
    for n in 0..world.pods.len() {
        let (name, ip) = (cali(n), format!("10.244.1.{}", n + 2));
        let link = sh(&format!("ip -o link show {name}"));
        assert!(
            link.contains("link/ether ee:ee:ee:ee:ee:ee") && !link.contains("master") && link.contains("state UP"),
            "{link}"
        );
        let routes = sh(&format!("ip route show {ip}"));
        let wanted: Vec<String> = metrics
            .iter()
            .map(|m| {
                if *m == 0 {
                    format!("{ip} dev {name} scope link")
                } else {
                    format!("{ip} dev {name} scope link metric {m}")
                }
            })
            .collect();
        assert_eq!(routes.lines().map(str::trim).collect::<Vec<_>>(), wanted);
        let value = |key: &str| sh(&format!("cat /proc/sys/net/{key}")).trim().to_owned();
        for key in ["ipv4/conf/IF/proxy_arp", "ipv4/conf/IF/forwarding", "ipv4/conf/IF/route_localnet"] {
            assert_eq!(value(&key.replace("IF", &name)), "1", "{key}");
        }
        assert_eq!(value(&format!("ipv4/neigh/{name}/proxy_delay")), "0");
        let inside = world.pods[n].sh("ip -4 -o addr show eth0; ip route");
        assert!(inside.contains(&format!("inet {ip}/32 ")) && !inside.contains("/24"), "{inside}");
        assert!(
            inside.contains("default via 169.254.1.1 dev eth0") && inside.contains("169.254.1.1 dev eth0 scope link"),
            "{inside}"
        );
        if world.ipv6 {
            let host = sh(&format!("ip -6 addr show dev {name}; ip -6 route show fd00:244:1::{}", n + 2));
            assert!(host.contains("fe80::ecee:eeff:feee:eeee/64") && host.contains(&format!("dev {name}")), "{host}");
            assert!(!host.contains("tentative"), "{host}");
        }
    }
    assert!(!sh("ip -o link").contains("nod"), "our own pair is gone");
}

/// Under probes, so many questions a second of each flow.
pub fn there_and_back(ipv6: bool, way: Way, rate: u32) {
    let world = World::new(2, ipv6);
    passed(&under_probes(&world, way, rate));
}

/// The same on a machine that is emulated: as many questions as it carries while it is left alone, and what it loses by itself is
/// not lost three times, and of fewer each time.
pub fn there_and_back_where_it_is_slow(ipv6: bool, way: Way, rate: u32) {
    let world = World::new(2, ipv6);
    let rate = carried_probes(&world, rate);
    let mut tries = (0..3).map(|attempt| under_probes(&world, way, (rate >> attempt).max(1)));
    let mut last = tries.next().unwrap();
    while has_lost(&last) {
        let Some(next) = tries.next() else { break };
        last = next;
    }
    passed(&last);
}

/// How many questions a second of each flow are all answered while nothing happens: as many as wanted, or a half of that, a quarter...
fn carried_probes(world: &World, wanted: u32) -> u32 {
    let is_carried = |rate: &u32| {
        let session = warmed(world.flows(), *rate);
        std::thread::sleep(Duration::from_secs(3));
        !has_lost(&session.finish())
    };
    let rates = std::iter::successors(Some(wanted), |rate| (*rate > 1).then_some(rate / 2));
    rates.into_iter().find(is_carried).unwrap_or(1)
}

fn has_lost(reports: &[FlowReport]) -> bool {
    reports.iter().any(|report| report.lost + report.breaks > 0)
}

fn under_probes(world: &World, way: Way, rate: u32) -> Vec<FlowReport> {
    let before = without_bridge(world);
    let session = warmed(world.flows(), rate);
    let adopted = there(world, Some(0), way, whole);
    first_class(world, &[0]);
    std::thread::sleep(HELD * 4);
    back(world, &adopted, way, whole);
    std::thread::sleep(HELD * 4);
    let reports = session.finish();
    same(&without_bridge(world), &before, "back again");
    let total = |of: fn(&FlowReport) -> u64| reports.iter().map(of).sum::<u64>();
    // Segments sent again are no failure: a machine that lets an echo wait makes TCP send again by itself.
    println!(
        "{way:?}, {} at {rate} a second: {} questions, {} lost, {} segments sent again",
        if world.ipv6 { "both families" } else { "IPv4" },
        total(|r| r.sent),
        total(|r| r.lost),
        total(|r| r.retransmitted.unwrap_or_default())
    );
    reports
}

/// Fast enough to see an instant: a port that joins or leaves its bridge drops what comes in for some 50 microseconds, and
/// for milliseconds where the kernel filters VLANs.
pub fn flooded(ipv6: bool, way: Way) {
    held_for(HELD_IN_FLOOD);
    let world = World::new(2, ipv6);
    for line in lines(&world) {
        // What a busy machine drops by itself is not dropped three times, and of fewer each time.
        let carried = carried(&line);
        let mut tries = (0..3).map(|attempt| there_and_back_under(&world, &line, carried >> attempt, way));
        assert!(tries.any(|lost| lost == 0), "{way:?}: {line:?} lost datagrams each time");
    }
}

/// From a pod to another, out and in, and from the host.
fn lines(world: &World) -> Vec<Line> {
    const AT: u16 = 7778;
    let address = |n: usize| {
        let ip = if world.ipv6 { format!("fd00:244:1::{}", n + 2) } else { format!("10.244.1.{}", n + 2) };
        SocketAddr::new(ip.parse().unwrap(), AT)
    };
    let outside = SocketAddr::new((if world.ipv6 { "fd00:77::fe" } else { "192.168.77.254" }).parse().unwrap(), AT);
    let (pods, far) = ([world.pods[0].path(), world.pods[1].path()], world.far.path());
    let line = |from: &Path, to: &Path, address| Line { from: from.to_owned(), to: to.to_owned(), address };
    vec![
        line(&pods[0], &pods[1], address(1)),
        line(&pods[0], &far, outside),
        line(&far, &pods[0], address(0)),
        line(&own_netns(), &pods[0], address(0)),
    ]
}

/// How many datagrams it cost.
fn there_and_back_under(world: &World, line: &Line, rate: u32, way: Way) -> usize {
    DONE.with_borrow_mut(Vec::clear);
    let flood = Flood::start(line, rate);
    let adopted = there(world, Some(1024), way, whole);
    back(world, &adopted, way, whole);
    let lost = flood.finish();
    println!("{way:?}: {rate} a second to {}: {} lost", line.address, lost.len());
    print_near(&lost, 5);
    lost.len()
}
