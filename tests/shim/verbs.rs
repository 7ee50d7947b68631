//! What a runtime may send, and in which version it is answered.

use crate::common::{Answer, World};
use cni_spec::convert;
use cni_store::state::Backend;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::Instant;

#[test]
fn version_and_about() {
    let world = World::new();
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (stdin, version) in [
        (&br#"{"cniVersion":"0.4.0"}"#[..], "0.4.0"),
        (b"junk", "1.1.0"),
        (b"", "1.1.0"),
        (br#"{"cniVersion":"9.0.0"}"#, "1.1.0"),
    ] {
        let answer = world.call("VERSION", "").go_with(stdin).succeeded().json();
        assert_eq!(answer, json!({"cniVersion": version, "supportedVersions": all}));
    }
    let about = world.call("", "").unset("CNI_COMMAND").go().succeeded();
    assert!(about.stdout.is_empty() && about.stderr.contains("cni-shim"));
    let about = world.call("", "").go().succeeded();
    assert!(about.stdout.is_empty() && about.stderr.contains("cni-shim"), "an empty one is none");
    world.call("RENAME", "c1").go().failed(4);
    let odd = Command::new(env!("CARGO_BIN_EXE_cni-shim")).env("CNI_COMMAND", OsStr::from_bytes(b"AD\xff")).output();
    Answer::of(odd.unwrap(), Instant::now()).failed(4);
}

#[test]
fn environment_is_checked() {
    let world = World::new();
    for verb in ["ADD", "CHECK"] {
        let all = world
            .call(verb, "")
            .unset("CNI_CONTAINERID")
            .env("CNI_NETNS", "")
            .unset("CNI_IFNAME")
            .unset("CNI_PATH")
            .go()
            .failed(4);
        assert_eq!(all.json()["msg"], "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing");
    }
    world.call("DEL", "").unset("CNI_IFNAME").go().failed(4);
    world.call("GC", "").unset("CNI_PATH").go().failed(4);
    for id in ["../../etc", "-c", "a b", "c\u{e9}", "a/b"] {
        world.call("ADD", id).go().failed(4);
        world.call("DEL", id).go().failed(4);
    }
    for ifname in [".", "..", "a/b", "a:b", "a b", "sixteen-letters-", "a\u{a0}b"] {
        world.call("ADD", "c1").env("CNI_IFNAME", ifname).go().failed(4);
    }
    world.add(&"c".repeat(300)).failed(5);
    assert!(world.take_log().is_empty());
    world.assert_clean();
}

#[test]
fn configuration_is_checked() {
    let world = World::new();
    for stdin in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"name\":\"x\"} {}"] {
        world.call("ADD", "c1").go_with(stdin).failed(6);
    }
    for name in [json!(null), json!(""), json!("a/b"), json!(3), json!("-x")] {
        world.call("ADD", "c1").with("name", name).go().failed(7);
    }
    world.call("ADD", "c1").with("runtimeConfig", json!([{"portMappings": []}])).go().failed(7);
    world.call("DEL", "c1").with("runtimeConfig", json!([1])).go().succeeded();
    for version in [json!("0.2.0"), json!(""), json!("1.2.0"), json!(null), json!(1), json!("v1.0.0")] {
        world.call("ADD", "c1").with("cniVersion", version).go().failed(1);
    }
    for verb in ["GC", "STATUS"] {
        world.call(verb, "c1").with("cniVersion", json!("1.0.0")).go().failed(1);
    }
    for (key, value) in [
        ("backends", json!([])),
        ("default", json!("cilium")),
        ("stateDir", json!(7)),
        ("deadlinesMs", json!({"add": -1})),
        // They would lie wherever the runtime happens to stand.
        ("stateDir", json!("")),
        ("stateDir", json!("var/lib/cni-shim")),
        ("root", json!(".")),
        ("backends", json!({"flannel": "10-flannel.conflist"})),
    ] {
        let answer = world.call("ADD", "c1").with(key, value).go().failed(7);
        assert!(answer.stdout.contains("To fix it"));
    }
    assert!(world.take_log().is_empty());
}

#[test]
fn results_come_in_the_version_that_was_asked_for() {
    let world = World::new();
    for backend in [Backend::Flannel, Backend::Calico] {
        world.route(backend);
        for version in convert::SUPPORTED {
            let result = world.call("ADD", "c1").with("cniVersion", json!(version)).go().succeeded().json();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0].get("version").is_some(), version.starts_with('0'), "{result}");
            assert_eq!(result["ips"][0]["interface"], 0);
            assert_eq!(result["interfaces"][0]["sandbox"], "/var/run/netns/c1");
            assert_eq!(result.get("dns").is_some(), version.starts_with('0'), "{result}");
            let kept = if backend == Backend::Flannel { "0.3.1" } else { "1.0.0" };
            assert_eq!(world.record("c1").unwrap().result.unwrap()["cniVersion"], kept);
            world.call("DEL", "c1").with("cniVersion", json!(version)).go().succeeded();
        }
    }
    world.assert_clean();
}

#[test]
fn every_conversion() {
    let old = json!({"cniVersion": "0.4.0",
        "interfaces": [{"name": "veth1", "mac": "aa:bb"}, {"name": "eth0", "sandbox": "/ns"}],
        "ips": [{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}, {"version": "6", "address": "fd00::2/64", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400}], "dns": {}, "vendor": {"x": [1.5, null]}});
    let mut new = old.clone();
    new["cniVersion"] = json!("1.1.0");
    for ip in new["ips"].as_array_mut().unwrap() {
        ip.as_object_mut().unwrap().remove("version");
    }
    new.as_object_mut().unwrap().remove("dns");
    let (olds, news) = (["0.3.0", "0.3.1", "0.4.0"], ["1.0.0", "1.1.0"]);
    for from in convert::SUPPORTED {
        let mut result = if olds.contains(&from) { old.clone() } else { new.clone() };
        result["cniVersion"] = json!(from);
        if news.contains(&from) {
            result["interfaces"][1]["mtu"] = json!(1450);
            result["interfaces"][1]["socketPath"] = json!("/s");
            result["interfaces"][1]["pciID"] = json!("0000:00");
        }
        for to in convert::SUPPORTED {
            let converted = convert::result(result.clone(), to).unwrap();
            let mut expected = if olds.contains(&to) { old.clone() } else { new.clone() };
            expected["cniVersion"] = json!(to);
            if news.contains(&from) && news.contains(&to) {
                expected["interfaces"] = result["interfaces"].clone();
            }
            assert_eq!(converted, expected, "{from} to {to}");
        }
    }
    for unusable in [
        json!([]),
        json!({}),
        json!({"cniVersion": "0.2.0"}),
        json!({"cniVersion": "1.0.0", "ips": [{"address": "x"}]}),
        json!({"cniVersion": "1.0.0", "ips": [{}]}),
    ] {
        assert_eq!(convert::result(unusable.clone(), "0.3.1").unwrap_err().code, 6);
    }
    for odd in [
        json!({"cniVersion": "1.0.0", "ips": null}),
        json!({"cniVersion": "1.0.0", "ips": {"a": 1}, "interfaces": [1, null]}),
    ] {
        convert::result(odd.clone(), "0.3.1").unwrap();
    }
}

#[test]
fn a_result_that_cannot_be_converted_undoes_the_add() {
    let world = World::new();
    world.route(Backend::Calico);
    world.tell("bandwidth.ADD", r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"nonsense"}]}'; exit 0"#);
    world.call("ADD", "c1").with("cniVersion", json!("0.4.0")).go().failed(6);
    assert_eq!(world.take_log(), ["calico ADD", "bandwidth ADD", "bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

#[test]
fn a_chained_shim_hands_on_the_previous_result() {
    let world = World::new();
    let previous: Value = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]});
    world.call("ADD", "c1").with("prevResult", previous.clone()).go().succeeded();
    assert_eq!(world.calls()[0].stdin["prevResult"], previous);
}

#[test]
fn two_interfaces_of_one_sandbox_are_two_attachments() {
    let world = World::new();
    world.add("c1").succeeded();
    world.call("ADD", "c1").env("CNI_IFNAME", "net1").go().succeeded();
    world.del("c1").succeeded();
    assert!(world.paths().record("c1", "net1").exists());
    world.call("DEL", "c1").env("CNI_IFNAME", "net1").go().succeeded();
    world.assert_clean();
}

#[test]
fn names_with_dashes_are_told_apart() {
    let world = World::new();
    world.call("ADD", "a-b").env("CNI_IFNAME", "c").go().succeeded();
    world.call("DEL", "a").env("CNI_IFNAME", "b-c").go().succeeded();
    assert!(world.paths().record("a-b", "c").exists());
    world.call("ADD", "a").env("CNI_IFNAME", "b-c").go().succeeded();
    world.take_log();
    world.call("DEL", "a-b").env("CNI_IFNAME", "c").go().succeeded();
    world.call("DEL", "a").env("CNI_IFNAME", "b-c").go().succeeded();
    assert_eq!(world.take_log().len(), 4);
    world.assert_clean();
}
