//! The continuity probe between network namespaces: what it counts is what happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use nodectl::host::line::Kind;
use nodectl::host::netns;
use nodectl::probe::{Expect, Flow, Session, surprise};

#[path = "support/world.rs"]
mod world;
use world::{Netns, World, flow, sh, warm, warmed};

#[test]
fn every_kind_of_question_is_answered_and_nothing_is_lost() {
    let world = World::new(2, true);
    let session = warmed(world.flows(), 200);
    std::thread::sleep(Duration::from_millis(500));
    let reports = session.finish();
    for report in &reports {
        assert_eq!(surprise(report, None), None, "{report:?}");
        assert_eq!((report.lost, report.breaks), (0, 0), "{report:?}");
        assert!(report.sent > 20 && report.answered == report.sent, "{report:?}");
        assert!(
            report.least_us <= report.mean_us && report.mean_us <= report.most_us && report.most_us > 0,
            "{report:?}"
        );
        assert!(report.longest_gap_us >= 4_000, "{report:?}");
        assert_eq!(report.retransmitted.is_some(), report.kind == Kind::Tcp);
    }
}

#[test]
fn a_probe_that_is_over_waits_for_nothing() {
    let world = World::new(1, false);
    let session = warmed(world.flows(), 1);
    let began = Instant::now();
    let reports = session.finish();
    assert!(began.elapsed() < Duration::from_millis(900), "all was answered: {:?}", began.elapsed());
    assert!(reports.iter().all(|report| report.lost == 0), "{reports:?}");
}

#[test]
fn an_outage_is_seen_by_all_who_had_it_and_by_nobody_else() {
    let world = World::new(2, false);
    let flows = vec![
        flow("pod0", Some(world.pods[0].path()), Kind::Udp, "10.244.1.3:7777"),
        flow("pod0", Some(world.pods[0].path()), Kind::Tcp, "10.244.1.3:7777"),
        flow("host", None, Kind::Icmp, "10.244.1.3:0"),
        flow("host", None, Kind::Connect, "10.244.1.3:7777"),
        flow("host", None, Kind::Icmp, "10.244.1.2:0"),
    ];
    let session = Session::start(flows, 100).unwrap();
    warm(&session);
    sh("ip link set veth1 nomaster");
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    sh("ip link set veth1 master cni0");
    // Shorter than the late limit, longer than TCP takes to send again.
    std::thread::sleep(Duration::from_millis(1000));
    let most = began.elapsed();
    let reports = session.finish();
    for report in &reports[..4] {
        let gap = Duration::from_micros(report.longest_gap_us);
        assert!(gap > Duration::from_millis(280) && gap < most + Duration::from_secs(1), "{report:?}");
        assert!(report.gaps.iter().any(|g| g.us == report.longest_gap_us), "{report:?}");
        assert!(surprise(report, Some(Duration::from_millis(200))).unwrap().contains("silent"), "{report:?}");
    }
    assert!(reports[0].lost > 10 && reports[2].lost > 10, "{reports:?}");
    assert!(reports[1].lost == 0 && reports[1].breaks == 0, "TCP sends again what was lost: {:?}", reports[1]);
    assert!(reports[1].retransmitted.unwrap() > 0, "{:?}", reports[1]);
    assert_eq!(reports[4].lost, 0, "{:?}", reports[4]);
}

#[test]
fn what_must_be_refused_is_told_apart() {
    let world = World::new(1, false);
    sh("iptables -w -I FORWARD -d 10.244.1.2 -p udp --dport 7777 -j DROP 2>/dev/null || nft 'add table ip t; \
        add chain ip t f { type filter hook forward priority 0; }; add rule ip t f ip daddr 10.244.1.2 udp dport 7777 drop'");
    let mute = netns::enter(&world.pods[0].path(), || {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    })
    .unwrap();
    let alone = Netns::new();
    let refuse = |kind, to: &str| Flow { expect: Expect::Refuse, ..flow("far", Some(world.far.path()), kind, to) };
    let flows = vec![
        refuse(Kind::Udp, "10.244.1.2:7777"),
        refuse(Kind::Tcp, "10.244.1.2:7777"),
        flow("far", Some(world.far.path()), Kind::Udp, "10.244.1.2:7777"),
        // Nobody listens.
        flow("host", None, Kind::Udp, "10.244.1.2:9"),
        flow("host", None, Kind::Tcp, "10.244.1.2:9"),
        flow("far", Some(world.far.path()), Kind::Icmp, "203.0.113.1:0"),
        // The asker has no route: no policy was put to the test.
        Flow { expect: Expect::Refuse, ..flow("alone", Some(alone.path()), Kind::Udp, "203.0.113.1:7777") },
        // What takes the connection need not be an echo.
        refuse(Kind::Tcp, &format!("10.244.1.2:{}", mute.1)),
        // Refused in so many words.
        refuse(Kind::Connect, "10.244.1.2:9"),
    ];
    let session = Session::start(flows, 50).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let reports = session.finish();
    let told: Vec<Option<String>> = reports.iter().map(|report| surprise(report, None)).collect();
    assert_eq!(told[0], None, "{:?}", reports[0]);
    assert!(told[1].as_ref().unwrap().contains("is to be refused and was answered"), "{told:?}");
    assert_eq!(told[2].as_deref(), Some("was never answered"));
    assert!(told[3].as_ref().unwrap().contains("refused") && told[4].as_ref().unwrap().contains("refused"), "{told:?}");
    assert!(told[5].as_ref().unwrap().contains("unreachable"), "{told:?}");
    assert!(reports[4].refused > 5 && reports[4].answered == 0, "{:?}", reports[4]);
    assert!(told[6].as_ref().unwrap().contains("could not be asked") && reports[6].failed > 5, "{:?}", reports[6]);
    assert!(told[7].as_ref().unwrap().contains("was connected 1 times"), "{:?}", reports[7]);
    assert_eq!(told[8], None, "{:?}", reports[8]);
    assert!(reports[8].refused > 5, "{:?}", reports[8]);
}
