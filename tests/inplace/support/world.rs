//! A node as flannel leaves it, in network namespaces of the test's own: a bridge with pods, and somebody outside.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nodectl::host::answerer::Answerer;
use nodectl::host::line::Kind;
use nodectl::host::netns;
use nodectl::probe::{Expect, Flow, FlowReport, Session};

/// The port that everybody answers on.
pub const PORT: u16 = 7777;

/// A namespace, known by the file that keeps it.
pub struct Netns(File);

impl Netns {
    pub fn new() -> Netns {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            sh("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Netns(made.join().unwrap())
    }

    /// A path of it that every thread of this process can open.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    pub fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        netns::enter(&self.path(), move || sh(&line)).unwrap()
    }
}

/// Runs a shell line in this thread's namespace and returns its output.
#[track_caller]
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The node (this thread's namespace), its pods, and a machine behind its gateway.
pub struct World {
    pub pods: Vec<Netns>,
    pub far: Netns,
    pub ipv6: bool,
    answerers: Vec<Answerer>,
}

impl World {
    /// A node with so many pods on its bridge.
    pub fn new(pods: usize, ipv6: bool) -> World {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let world = World { pods: Vec::new(), far: Netns::new(), ipv6, answerers: Vec::new() };
        let far = world.far.path();
        sh(&format!(
            "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
             ip link add eth0 type veth peer name eth0 netns {0}; ip link set eth0 up
             ip addr add 192.168.77.1/24 dev eth0; ip -6 addr add fd00:77::1/64 dev eth0 nodad
             ip link add cni0 mtu 1450 type bridge; ip link set cni0 up; ip addr add 10.244.1.1/24 brd + dev cni0
             ip -6 addr add fd00:244:1::1/64 dev cni0 nodad",
            far.display()
        ));
        world.far.sh(
            "ip link set eth0 up; ip addr add 192.168.77.254/24 dev eth0; ip -6 addr add fd00:77::fe/64 dev eth0 nodad
             ip route add 10.244.0.0/16 via 192.168.77.1; ip -6 route add fd00:244::/32 via fd00:77::1",
        );
        // Calico's gateway is answered for only where the host has a way there.
        sh("ip route add default via 192.168.77.254; ip -6 route add default via fd00:77::fe");
        let mut world = world;
        (0..pods).for_each(|n| world.add_pod(n));
        let mut places: Vec<Option<PathBuf>> = world.pods.iter().map(|pod| Some(pod.path())).collect();
        places.extend([Some(world.far.path()), None]);
        world.answerers = places.iter().map(|p| Answerer::start(p.as_deref(), PORT).unwrap()).collect();
        world.rest();
        world
    }

    /// Waits until the kernel has seen that no link-local address is somebody else's: before, it asks for no neighbour of what it
    /// forwards.
    fn rest(&self) {
        const SHOW: &str = "ip -6 -o addr show tentative";
        nodectl_lab::cluster::until(Duration::from_secs(30), || {
            let inside = self.pods.iter().chain([&self.far]).map(|netns| netns.sh(SHOW));
            let tentative: String = inside.chain([sh(SHOW)]).collect();
            Ok((!tentative.is_empty()).then_some(tentative))
        })
        .unwrap();
    }

    /// A pod as bridge and host-local wire it.
    fn add_pod(&mut self, n: usize) {
        let (pod, host) = (Netns::new(), n + 2);
        sh(&format!(
            "ip link add veth{n} mtu 1450 type veth peer name eth0 mtu 1450 netns {}
             ip link set veth{n} up master cni0; ip link set veth{n} type bridge_slave hairpin on",
            pod.path().display()
        ));
        pod.sh(&format!(
            "ip link set eth0 up; ip addr add 10.244.1.{host}/24 brd + dev eth0; ip route add default via 10.244.1.1
             ip route add 10.244.0.0/16 via 10.244.1.1"
        ));
        if self.ipv6 {
            pod.sh(&format!(
                "ip -6 addr add fd00:244:1::{host}/64 dev eth0 nodad; ip -6 route add default via fd00:244:1::1
                 ip -6 route add fd00:244::/32 via fd00:244:1::1"
            ));
        }
        self.pods.push(pod);
    }

    /// An address of a pod, with its port.
    fn pod_address(&self, n: usize, v6: bool) -> String {
        if v6 { format!("[fd00:244:1::{}]:{PORT}", n + 2) } else { format!("10.244.1.{}:{PORT}", n + 2) }
    }

    /// Everybody to everybody: pods each way, host and pods, outside and pods, the bridge's own address.
    pub fn flows(&self) -> Vec<Flow> {
        let mut flows = Vec::new();
        let families: &[bool] = if self.ipv6 { &[false, true] } else { &[false] };
        for v6 in families {
            let outside = if *v6 { format!("[fd00:77::fe]:{PORT}") } else { format!("192.168.77.254:{PORT}") };
            let node = if *v6 { format!("[fd00:77::1]:{PORT}") } else { format!("192.168.77.1:{PORT}") };
            let bridge = if *v6 { format!("[fd00:244:1::1]:{PORT}") } else { format!("10.244.1.1:{PORT}") };
            for (n, pod) in self.pods.iter().enumerate() {
                let (name, inside) = (format!("pod{n}"), Some(pod.path()));
                let mut add = |from: &str, netns: &Option<PathBuf>, to: &str, kinds: &[Kind]| {
                    flows.extend(kinds.iter().map(|kind| flow(from, netns.clone(), *kind, to)));
                };
                for other in (0..self.pods.len()).filter(|other| *other != n) {
                    add(&name, &inside, &self.pod_address(other, *v6), &[Kind::Udp, Kind::Tcp]);
                }
                add(&name, &inside, &outside, &[Kind::Udp, Kind::Tcp]);
                add(&name, &inside, &node, &[Kind::Icmp]);
                // Not by UDP: an echo that listens on all addresses answers from the one that the way back has.
                add(&name, &inside, &bridge, &[Kind::Icmp, Kind::Tcp]);
                add("host", &None, &self.pod_address(n, *v6), &[Kind::Icmp, Kind::Udp, Kind::Tcp]);
                add("far", &Some(self.far.path()), &self.pod_address(n, *v6), &[Kind::Udp, Kind::Tcp]);
            }
        }
        flows
    }

    /// What iproute2 shows of the node and its pods, without what changes by itself.
    pub fn picture(&self) -> String {
        const SHOW: &str = "ip -o link | sed 's/^[0-9]*: //; s/ qlen [0-9]*//; s/@if[0-9]*//; s/ state [A-Z]*//'; ip -o addr | sed 's/^[0-9]*: //'
            ip route show table main; ip -6 route show table main; ip neigh show nud permanent; { bridge -d link show | grep -o 'master.*' || true; }
            cd /proc/sys/net; for d in ipv4/conf ipv6/conf; do for i in $(ls $d); do
              for v in rp_filter proxy_arp forwarding route_localnet send_redirects accept_ra accept_dad proxy_ndp disable_ipv6; do
                [ ! -e $d/$i/$v ] || echo $d/$i/$v=$(cat $d/$i/$v); done; done; done";
        // A link-local address is only there once the kernel has seen that it is alone; it is the kernel's business.
        let sorted = |text: String| {
            let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains("fe80::")).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let inside: Vec<String> = self.pods.iter().map(|pod| sorted(pod.sh(SHOW))).collect();
        format!("{}\n== pods\n{}", sorted(sh(SHOW)), inside.join("\n==\n"))
    }
}

/// The lines that differ, if any do.
#[track_caller]
pub fn same(now: &str, before: &str, when: &str) {
    let (now, before): (Vec<&str>, Vec<&str>) = (now.lines().collect(), before.lines().collect());
    let mut lines: Vec<String> = before.iter().filter(|l| !now.contains(l)).map(|l| format!("- {l}")).collect();
    lines.extend(now.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}")));
    assert!(lines.is_empty() && now.len() == before.len(), "{when}: {}", lines.join("\n"));
}

/// A flow that must pass.
pub fn flow(from: &str, netns: Option<PathBuf>, kind: Kind, to: &str) -> Flow {
    Flow { from: from.into(), netns, kind, to: to.into(), address: to.parse().unwrap(), expect: Expect::Pass }
}

/// Waits until every flow is answered: neighbours are known, connections stand.
pub fn warm(session: &Session) {
    nodectl_lab::cluster::until(Duration::from_secs(10), || {
        let reports = session.reports();
        let silent = reports.iter().filter(|r| r.answered == 0);
        let silent: Vec<String> =
            silent.map(|r| format!("{} -> {:?} {} ({:?})", r.from, r.kind, r.to, r.said)).collect();
        Ok((!silent.is_empty()).then(|| format!("not answered: {}", silent.join(", "))))
    })
    .unwrap();
}

/// Probes whose flows all pass already: what a new network loses until neighbours are known is not what is tested.
pub fn warmed(flows: Vec<Flow>, rate: u32) -> Session {
    let first = Session::start(flows.clone(), rate).unwrap();
    warm(&first);
    // IPv6 of a new network is not at rest when it first answers (duplicate address detection takes a second).
    std::thread::sleep(Duration::from_secs(2));
    first.finish();
    let session = Session::start(flows, rate).unwrap();
    warm(&session);
    session
}

/// Not a packet lost, no connection broken.
#[track_caller]
pub fn nothing_lost(reports: &[FlowReport]) {
    let bad: Vec<String> = reports
        .iter()
        .filter(|r| r.lost + r.breaks > 0)
        .map(|r| {
            format!(
                "{} -> {:?} {}: {} of {} lost, {} breaks, {:?}, {:?}",
                r.from, r.kind, r.to, r.lost, r.sent, r.breaks, r.said, r.lost_at_ms
            )
        })
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
