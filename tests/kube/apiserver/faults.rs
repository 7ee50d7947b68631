//! Faults: each is what it says, and ends when told to.

use std::time::{Duration, Instant};

use nodectl_lab::apiserver::{Listen, Regime, control};
use nodectl_lab::client::Patch;
use nodectl_lab::wait::eventually;
use serde_json::json;

use super::support::{Fixture, code};

const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

fn fixture() -> Fixture {
    let fixture = Fixture::stand_in(|options| {
        options.no_controllers = true;
        options.control = Some(options.pki.with_file_name("control"));
    });
    let object = json!({"metadata": {"name": "a"}, "data": {"x": "0"}});
    fixture.admin.create("/api/v1/namespaces/default/configmaps", &object).unwrap();
    fixture
}

fn run(fixture: &Fixture, command: &str) {
    assert_eq!(control::command(&fixture.path("control"), command).unwrap(), "ok");
}

#[test]
fn slow_and_failing_paths() {
    let fixture = fixture();
    run(&fixture, "slow 300 /api/v1/namespaces");
    let start = Instant::now();
    fixture.admin.get("/readyz").unwrap();
    assert!(start.elapsed() < Duration::from_millis(250));
    fixture.admin.get(MAP).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    run(&fixture, "ok");
    run(&fixture, "503 method=patch times=2");
    assert!(fixture.admin.get(MAP).is_ok());
    let patch = || fixture.admin.patch(MAP, Patch::Merge, &json!({"data": {"x": "1"}}));
    let error = patch().unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (503, "ServiceUnavailable"));
    assert_eq!(error.status["details"]["retryAfterSeconds"], 1);
    assert_eq!(code(patch()), 503);
    assert!(patch().is_ok());
    assert!(control::command(&fixture.path("control"), "explode").is_err());
}

#[test]
fn a_reset_write_has_no_effect_and_a_lost_one_has() {
    let fixture = fixture();
    let patch = |value: &str| fixture.admin.patch(MAP, Patch::Merge, &json!({"data": {"x": value}}));
    let value = || fixture.admin.get(MAP).unwrap()["data"]["x"].as_str().unwrap().to_string();
    run(&fixture, "reset times=1");
    let error = patch("1").unwrap_err();
    assert!(error.code == 0 && error.message.to_lowercase().contains("reset"), "{error}");
    assert_eq!(value(), "0");
    run(&fixture, "lose times=1");
    assert_eq!(code(patch("2")), 0);
    assert_eq!(value(), "2");
}

#[test]
fn a_refusing_server_cuts_its_streams_and_comes_back_on_the_same_port() {
    let fixture = fixture();
    let mut watch = fixture.admin.watch("/api/v1/namespaces").unwrap();
    assert!(watch.next().unwrap().is_ok());
    run(&fixture, "refuse");
    eventually("the stream ends", || watch.next().is_none_or(|event| event.is_err()));
    eventually("connections are refused", || {
        std::net::TcpStream::connect(fixture.server.addresses[0])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert_eq!(code(fixture.admin.get(MAP)), 0);
    run(&fixture, "ok");
    eventually("it answers again", || fixture.admin.get(MAP).is_ok());
}

#[test]
fn a_dead_server_answers_nothing_until_it_lives_again() {
    let fixture = fixture();
    let (lines, events) = std::sync::mpsc::channel();
    let watch = fixture.admin.watch("/api/v1/namespaces/default/configmaps").unwrap();
    std::thread::spawn(move || watch.for_each(|event| drop(lines.send(event))));
    assert!(events.recv_timeout(Duration::from_secs(5)).unwrap().is_ok());
    run(&fixture, "dead");
    let url = fixture.server.url();
    let silent = std::thread::spawn({
        let admin = fixture.admin.clone();
        move || (Instant::now(), admin.get(MAP), Instant::now())
    });
    std::thread::sleep(Duration::from_millis(400));
    assert!(!silent.is_finished(), "{url} answered");
    run(&fixture, "ok");
    let (asked, answer, ended) = silent.join().unwrap();
    assert!(answer.is_err() && ended - asked >= Duration::from_millis(300));
    fixture.admin.patch(MAP, Patch::Merge, &json!({"data": {"x": "9"}})).unwrap();
    let event = events.recv_timeout(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(event.object["data"]["x"], "9");
}

#[test]
fn listening_in_several_places() {
    let fixture = Fixture::stand_in(|options| {
        options.regime = Regime::V1_20;
        options.listen = ["127.0.0.1:0", "/proc/self/ns/net@127.0.0.1:0"]
            .iter()
            .map(|text| text.parse::<Listen>().unwrap())
            .collect();
    });
    assert_eq!(fixture.server.addresses.len(), 2);
    let kubeconfig = fixture.server.pki.admin_kubeconfig(&format!("https://{}", fixture.server.addresses[1])).unwrap();
    let second = nodectl_lab::client::Client::from_text(&kubeconfig).unwrap();
    assert_eq!(second.get("/version").unwrap()["gitVersion"], "v1.20.2");
    assert!("nonsense".parse::<Listen>().is_err());
}
