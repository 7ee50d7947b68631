//! Echo, TCP and DNS questions between two network namespaces of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use nodectl::host::answerer::Answerer;
use nodectl::host::line::{Kind, Line};
use nodectl::host::{Host, netns, ping};

#[path = "support/namespace.rs"]
mod namespace;
use namespace::sh;

/// Long enough for the answers of a busy machine.
const LIMIT: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn both_families_answer_and_the_silent_are_counted_lost() {
    namespace::enter();
    let far = namespace::another();
    let pid = std::process::id();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&far);
    sh(&format!("ip link add eth0 type veth peer name eth0 netns /proc/{pid}/fd/{fd}"));
    sh("ip link set eth0 up; ip addr add 10.1.0.1/24 dev eth0; ip addr add fd00:1::1/64 dev eth0 nodad");
    netns::enter(format!("/proc/self/fd/{fd}").as_ref(), || {
        sh("ip link set eth0 up; ip addr add 10.1.0.2/24 dev eth0; ip addr add fd00:1::2/64 dev eth0 nodad");
    })
    .unwrap();
    sh("ip neigh add 10.1.0.3 lladdr 02:00:00:00:00:03 dev eth0");
    let targets = [ip("10.1.0.2"), ip("fd00:1::2"), ip("10.1.0.3"), ip("172.31.0.1"), ip("127.0.0.1")];
    // Whoever else pings here is not mistaken for us.
    let start = Instant::now();
    let replies = ping::ping(&targets, 3, LIMIT).unwrap();
    let received: Vec<_> = replies.iter().map(|r| (r.sent, r.received)).collect();
    assert_eq!(received, [(3, 3), (3, 3), (3, 0), (3, 0), (3, 3)]);
    assert!(replies[0].avg_us > 0 && u128::from(replies[0].avg_us) < LIMIT.as_micros() && replies[2].avg_us == 0);
    assert!(start.elapsed() >= LIMIT * 3);
    let start = Instant::now();
    ping::ping(&targets[..2], 20, LIMIT).unwrap();
    assert!(start.elapsed() < LIMIT * 10, "answered rounds take no longer than the answers");
    assert!(ping::ping(&[], 1, LIMIT).unwrap().is_empty());
}

#[test]
fn tcp_and_dns_are_asked() {
    namespace::enter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(ping::tcp_connect(listener.local_addr().unwrap(), LIMIT));
    assert!(!ping::tcp_connect("127.0.0.1:1".parse().unwrap(), LIMIT));
    assert!(!ping::tcp_connect("10.9.9.9:1".parse().unwrap(), LIMIT));
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(address).unwrap();
        let at = server.local_addr().unwrap();
        assert!(!ping::dns_answers(at, LIMIT));
        let answering = std::thread::spawn(move || {
            let mut query = [0; 512];
            // The first one was left lying.
            for _ in 0..2 {
                let (length, from) = server.recv_from(&mut query).unwrap();
                assert!(query[..length].windows(10).any(|w| w == b"kubernetes"));
                server.send_to(&query[..length], from).unwrap();
            }
        });
        assert!(ping::dns_answers(at, LIMIT));
        answering.join().unwrap();
        assert!(!ping::dns_answers(at, LIMIT));
    }
}

/// A reader that a busy machine lets wait finds what came meanwhile, on both sides.
#[test]
fn what_is_read_late_is_not_lost() {
    namespace::enter();
    let answerer = Answerer::start(None, 0).unwrap();
    let questions = 3_000;
    for kind in [Kind::Udp, Kind::Icmp] {
        let mut line = Line::open(kind, format!("127.0.0.1:{}", answerer.port()).parse().unwrap(), 7).unwrap();
        (0..questions).for_each(|number| line.ask(number).unwrap());
        let mut answers = 0;
        while let come @ 1.. = line.answers(LIMIT).unwrap().len() {
            answers += come;
        }
        assert_eq!(answers, usize::try_from(questions).unwrap(), "{kind:?}");
    }
}

#[test]
fn a_namespace_of_our_own_comes_and_goes() {
    // Bind mounts under a root in a mount namespace of this thread's own.
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, private, none).unwrap();
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    for _ in 0..2 {
        let path = netns::create(&host, "nodectl-probe-1").unwrap();
        assert_eq!(path, "/run/netns/nodectl-probe-1");
        let links = netns::enter(&host.path(&path), || sh("ip -o link; ip -o addr")).unwrap();
        assert!(links.contains("LOOPBACK,UP") && links.contains("127.0.0.1/8"), "{links}");
    }
    netns::delete(&host, "nodectl-probe-1").unwrap();
    netns::delete(&host, "nodectl-probe-1").unwrap();
    assert!(!host.path("/run/netns/nodectl-probe-1").exists());
    std::fs::write(host.path("/run/netns/torn"), "").unwrap();
    let error = netns::enter(&host.path("/run/netns/torn"), || ()).unwrap_err();
    assert!(format!("{error:#}").contains("could not enter"), "{error:#}");
    netns::create(&host, "torn").unwrap();
    netns::delete(&host, "torn").unwrap();
}
