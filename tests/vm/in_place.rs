//! Pods and the overlay change hands on Debian's own kernel (6.1), which renames a device only while it is down and filters VLANs
//! on bridges: this program runs once more, in the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nodectl::act::overlay;
use nodectl::adopt::Way;
use nodectl::host::line::Kind;
use nodectl::host::netlink;
use nodectl_lab::vm::Machine;

#[path = "../inplace/support/flood.rs"]
mod flood;
#[path = "../inplace/support/hands.rs"]
mod hands;
#[path = "../inplace/support/world.rs"]
mod world;
use hands::{flooded, there_and_back_where_it_is_slow};
use world::{Netns, PORT, flow, sh, warmed};

/// Questions a second of each flow, where the machine carries as many: it is emulated, and an answer that takes two seconds is none.
const RATE: u32 = 20;
/// The same of the one flow across the overlay.
const RATE_ACROSS: u32 = 500;

/// One machine at a time: two of them are four processors to emulate.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs one of the tests below in a machine; answers what it printed.
fn in_machine(test: &str) -> String {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = std::env::current_exe().unwrap();
    let mut machine = Machine::boot(&[&program]).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap();
    // busybox's shell would take its own `ip`.
    machine.must("ln -s dash /usr/sbin/sh").unwrap();
    let printed = machine.must(&format!("{name} --ignored --exact {test} --nocapture 2>&1")).unwrap();
    assert!(printed.contains("1 passed"), "{printed}");
    println!("{}", machine.must("uname -r").unwrap().trim());
    printed.lines().filter(|line| line.contains(": ")).for_each(|line| println!("{line}"));
    printed
}

#[test]
fn pods_lose_nothing() {
    in_machine("inside_pods");
}

#[test]
fn a_flood_loses_nothing() {
    in_machine("inside_flood");
}

#[test]
fn the_overlay_is_away_for_an_instant() {
    assert!(in_machine("inside_overlay").contains("longest silence"));
}

#[test]
#[ignore = "runs in the machine"]
fn inside_pods() {
    assert!(!netlink::rename_live_supported().unwrap(), "a kernel before 6.2");
    there_and_back_where_it_is_slow(true, Way::Down, RATE);
}

#[test]
#[ignore = "runs in the machine"]
fn inside_flood() {
    flooded(false, Way::Down);
}

/// Two nodes with flannel's overlay; the first one's device is renamed there and back, 5 times each.
#[test]
#[ignore = "runs in the machine"]
fn inside_overlay() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let far = Netns::new();
    sh(&format!(
        "ip link set lo up; ip link add eth0 type veth peer name eth0 netns {}; ip link set eth0 up
         ip address add 192.168.77.1/24 dev eth0",
        far.path().display()
    ));
    far.sh("ip link set eth0 up; ip address add 192.168.77.2/24 dev eth0");
    let overlay_of = |own: u8, other: u8| {
        format!(
            "ip link add flannel.1 address 0e:00:00:00:00:0{own} type vxlan id 1 local 192.168.77.{own} dev eth0 dstport 8472 nolearning
             ip address add 10.244.{own}.0/32 dev flannel.1; ip link set flannel.1 up
             ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink
             ip neighbour add 10.244.{other}.0 lladdr 0e:00:00:00:00:0{other} dev flannel.1 nud permanent
             bridge fdb add 0e:00:00:00:00:0{other} dev flannel.1 dst 192.168.77.{other}"
        )
    };
    sh(&overlay_of(1, 2));
    far.sh(&overlay_of(2, 1));
    let answerer = nodectl::host::answerer::Answerer::start(Some(&far.path()), PORT).unwrap();
    let session = warmed(vec![flow("node", None, Kind::Udp, &format!("10.244.2.0:{PORT}"))], RATE_ACROSS);
    for (from, to) in [("flannel.1", "vxlan.calico"), ("vxlan.calico", "flannel.1")].repeat(5) {
        let before = overlay::before(from).unwrap();
        overlay::rename(from, to, &before).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let across = session.finish().remove(0);
    drop(answerer);
    let (gap, usual) = (across.longest_gap_us, across.mean_us);
    println!(
        "10 renames: {} of {} lost, longest silence {gap} us, an answer takes {usual:?} us",
        across.lost, across.sent
    );
    assert!(across.answered > 0 && gap < 1_000_000, "{gap} us");
}
