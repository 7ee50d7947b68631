//! The same conflist run as libcni runs it and through the shim: the delegates cannot tell the difference.

use crate::common::libcni::Runtime;
use crate::common::{Logged, World, calico_list, flannel_list};
use cni_store::state::Backend;
use serde_json::{Value, json};

/// What a delegate sees, without what differs from process to process.
fn seen(world: &World) -> Vec<Logged> {
    let mut calls = world.calls();
    for call in &mut calls {
        for own in ["_", "PWD", "OLDPWD", "SHLVL"] {
            call.env.remove(own);
        }
    }
    world.take_log();
    calls
}

fn compare(list: &Value, backend: Backend, runtime_config: &Value) {
    let world = World::new();
    world.route(backend);
    world.conflist(backend, list);
    let version = list["cniVersion"].clone();
    let native = Runtime::new(&world, list.clone(), "c1", runtime_config.clone());
    let call =
        |verb| world.call(verb, "c1").with("cniVersion", version.clone()).with("runtimeConfig", runtime_config.clone());

    let expected = native.add().unwrap();
    let natively = seen(&world);
    let result = call("ADD").go().succeeded().json();
    assert_eq!(result, expected);
    assert_eq!(seen(&world), natively);

    if version.as_str().unwrap() >= "0.4.0" {
        native.check(&expected).unwrap();
        let natively = seen(&world);
        call("CHECK").go().succeeded();
        assert_eq!(seen(&world), natively);
    }
    let scratch = world.path("root/var/lib/cni/flannel/c1");
    let kept = std::fs::read(&scratch).ok();
    native.del(Some(&expected)).unwrap();
    let natively = seen(&world);
    if let Some(kept) = kept {
        std::fs::write(&scratch, kept).unwrap();
    }
    call("DEL").go().succeeded();
    assert_eq!(seen(&world), natively);
    assert!(!scratch.exists());
    world.assert_clean();

    // A failure in the middle: the same error.
    let last = list["plugins"].as_array().unwrap().last().unwrap()["type"].as_str().unwrap();
    world.tell(&format!("{last}.ADD"), "fail 117 'no more' 'of it'");
    let error = native.add().unwrap_err();
    let answer = call("ADD").go().failed(117).json();
    assert_eq!((&answer["msg"], &answer["details"]), (&error["msg"], &error["details"]));
}

#[test]
fn delegates_see_what_libcni_would_show_them() {
    let runtime_config = json!({
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "bandwidth": {"IngressRate": 1_000_000_000_000_u64, "IngressBurst": 2_147_483_647},
        "io.kubernetes.cri.pod-annotations": {"a<b>": "c&d \u{2028}"}});
    compare(&flannel_list(), Backend::Flannel, &runtime_config);
    compare(&flannel_list(), Backend::Flannel, &json!({}));
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut list = calico_list();
        list["cniVersion"] = json!(version);
        list["plugins"][0]["vendor"] =
            json!({"deep": [{"kept": 1.25}, -3, 18_446_744_073_709_551_615_u64, null, true], "empty": {}});
        list["plugins"][0]["capabilities"] = json!({"io.kubernetes.cri.pod-annotations": true, "portMappings": false});
        list["plugins"][1]["runtimeConfig"] = json!({"from": "the conflist"});
        compare(&list, Backend::Calico, &runtime_config);
        compare(&list, Backend::Calico, &json!({"portMappings": []}));
    }
}
