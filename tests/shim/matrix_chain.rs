//! The failure matrix, rows about what a delegate answers; and what the delegates are given.

use crate::common::{World, calico_list};
use cni_store::state::Backend;
use serde_json::{Value, json};
use std::fs;

#[test]
fn row_07_garbage_on_stdout_with_success() {
    let world = World::new();
    let result = r#"{"cniVersion":"0.3.1","ips":[]}"#;
    let x300 = "x".repeat(300);
    let unusable = [
        "".to_owned(),
        "OK".to_owned(),
        result[..20].to_owned(),
        format!("{result}{result}"),
        format!("{result} trailing"),
        format!("junk {result}"),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        r#"{"cniVersion":"7.0.0"}"#.to_owned(),
        x300.clone(),
    ];
    for output in unusable {
        world.tell("flannel.ADD", &format!("printf %s '{output}'; exit 0"));
        let error = world.add("c1").failed(6).json();
        let details = error["details"].as_str().unwrap();
        assert!(details.contains(&format!("{:?}", output.get(..200).unwrap_or(&output))), "{details}");
        assert!(!details.contains(&x300), "no more than 200 bytes of it");
        assert_eq!(world.take_log(), ["flannel ADD", "portmap DEL", "flannel DEL"]);
        world.assert_clean();
    }
    for fine in [format!("{result}\n\t \n"), "null".to_owned(), "{}".to_owned(), r#"{"cniVersion":""}"#.to_owned()] {
        world.tell("flannel.ADD", &format!("printf %s '{fine}'; exit 0"));
        world.tell("portmap.ADD", "printf %s \"$stdin\" > $world/given; fail 7 seen ''");
        world.add("c1").failed(7);
        let given: Value = serde_json::from_slice(&fs::read(world.path("given")).unwrap()).unwrap();
        assert_eq!(given["prevResult"]["cniVersion"], "0.3.1");
        world.assert_clean();
    }
    // DEL and CHECK say nothing on success; what they print does not matter (Calico's CHECK prints OK).
    world.route(Backend::Calico);
    world.tell("calico.CHECK", "echo OK; exit 0");
    world.tell("calico.DEL", "echo '{\"cni'; exit 0");
    world.add("c1").succeeded();
    assert_eq!(world.call("CHECK", "c1").go().succeeded().stdout, "");
    assert_eq!(world.del("c1").succeeded().stdout, "");
    world.assert_clean();
}

#[test]
fn row_08_errors_are_passed_on_as_libcni_words_them() {
    let world = World::new();
    // The runtime would say of all of them that cni-shim failed.
    let whose = "plugin \"portmap\" of network \"cbr0\". To fix it: call it by hand, or see its log";
    let cases = [
        ("fail 123 'no address' 'the pool is empty'", 123, "no address", "the pool is empty"),
        ("echo '{\"msg\":\"old style\"}'; exit 3", 999, "old style", ""),
        (
            "echo garbage; exit 1",
            999,
            "netplugin failed but error parsing its diagnostic message \"garbage\\n\": ",
            whose,
        ),
        ("echo only stderr >&2; exit 1", 999, "netplugin failed: \"only stderr\\n\"", whose),
        ("exit 4", 999, "netplugin failed with no error message: exit status: 4", whose),
        ("echo '{}'; exit 5", 999, "netplugin failed with no error message: exit status: 5", whose),
        ("kill -9 $$", 999, "netplugin failed with no error message: signal: 9 (SIGKILL)", whose),
    ];
    for (script, code, msg, details) in cases {
        world.tell("portmap.ADD", script);
        let answer = world.add("c1").failed(code);
        let error = answer.json();
        assert!(error["msg"].as_str().unwrap().starts_with(msg), "{error}");
        assert_eq!(error.get("details").and_then(Value::as_str).unwrap_or_default(), details);
        assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"]);
        world.assert_clean();
    }
    // Standard error reaches the runtime's log, also on success.
    world.tell("portmap.ADD", "echo a remark >&2");
    assert!(world.add("c1").succeeded().stderr.contains("a remark"));
}

#[test]
fn undoing_goes_on_past_failures_and_leaves_a_pending_del() {
    let world = World::new();
    world.tell("portmap.ADD", "fail 7 first ''");
    world.tell("portmap.DEL", "fail 8 second ''");
    world.add("c1").failed(7);
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"]);
    assert!(world.record("c1").is_some() && world.paths().pending("c1", "eth0").exists());
    world.untell("portmap.DEL");
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn a_plugin_that_reads_nothing_and_writes_much_does_no_harm() {
    let world = World::new();
    let list =
        json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "mute", "padding": "x".repeat(300_000)}]});
    world.conflist(Backend::Flannel, &list);
    fs::write(world.path("bin/mute"), "#!/bin/sh\nexec <&-\nhead -c 300000 /dev/zero >&2\nhead -c 3000000 /dev/zero\n")
        .unwrap();
    fs::set_permissions(world.path("bin/mute"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Three million bytes of an answer are no answer; and they do not block.
    world.add("c1").failed(6);
    world.assert_clean();
}

#[test]
fn the_shim_never_runs_itself() {
    let world = World::new();
    for kind in ["cni-shim", "renamed"] {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cni-shim"), world.path("bin").join(kind)).unwrap();
        let plugins = json!([{"type": "flannel"}, {"type": kind}]);
        world.conflist(Backend::Flannel, &json!({"name": "cbr0", "cniVersion": "1.0.0", "plugins": plugins}));
        let answer = world.add("c1").failed(7);
        assert!(answer.stdout.contains("is the shim itself"), "{answer:?}");
        world.call("STATUS", "").go().failed(50);
        // A DEL of the chain could never succeed either.
        assert!(world.take_log().is_empty());
        world.assert_clean();
    }
}

#[test]
fn a_list_whose_results_could_not_be_read_is_not_begun() {
    let world = World::new();
    let mut list = crate::common::flannel_list();
    for version in ["", "0.2.0", "2.0.0"] {
        list["cniVersion"] = json!(version);
        world.conflist(Backend::Flannel, &list);
        let answer = world.add("c1").failed(1);
        assert!(answer.stdout.contains("nothing was done"), "{answer:?}");
        world.call("STATUS", "").go().failed(50);
        assert!(world.take_log().is_empty());
        world.assert_clean();
    }
}

#[test]
fn plugins_beside_the_conflist_are_run_too() {
    let world = World::new();
    world.write("root/etc/cni/net.d/cbr0/20-late.conf", r#"{"type":"bandwidth","capabilities":{"bandwidth":true}}"#);
    world.write("root/etc/cni/net.d/cbr0/10-early.conf", r#"{"type":"calico"}"#);
    world.write("root/etc/cni/net.d/cbr0/ignored.json", r#"{"type":"missing"}"#);
    let call = world.call("ADD", "c1").with("runtimeConfig", json!({"bandwidth": {"ingressRate": 1}}));
    call.go().succeeded();
    assert_eq!(world.calls()[3].stdin["runtimeConfig"], json!({"bandwidth": {"ingressRate": 1}}));
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "calico ADD", "bandwidth ADD"]);
    fs::remove_dir_all(world.path("root/etc/cni/net.d/cbr0")).unwrap();
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL", "portmap DEL", "flannel DEL"]);
    for only in [json!(true), json!("True")] {
        world.write("root/etc/cni/net.d/cbr0/10-early.conf", r#"{"type":"calico"}"#);
        let mut list = crate::common::flannel_list();
        list["loadOnlyInlinedPlugins"] = only;
        world.conflist(Backend::Flannel, &list);
        world.add("c1").succeeded();
        world.del("c1").succeeded();
        assert_eq!(world.take_log().len(), 4);
    }
}

#[test]
fn a_list_that_offers_versions_runs_at_the_highest_that_is_known() {
    let world = World::new();
    world.route(Backend::Calico);
    let mut list = calico_list();
    for (offered, chosen) in [
        (json!(["0.4.0", "1.1.0", "2.0.0"]), "1.1.0"),
        (json!(["0.4.0"]), "1.0.0"),
        (json!(["0.10.0", "0.4.0"]), "1.0.0"),
        (json!([]), "1.0.0"),
    ] {
        list["cniVersions"] = offered;
        world.conflist(Backend::Calico, &list);
        world.add("c1").succeeded();
        assert_eq!(world.calls()[0].stdin["cniVersion"], chosen);
        world.del("c1").succeeded();
        world.take_log();
    }
}
