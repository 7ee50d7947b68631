//! Documents for the property tests: valid ones, confused ones and torn ones.

use crate::common::{is_full, seed};
use cni_spec::chain::{DelList, PluginCall};
use cni_spec::convert;
use cni_store::record::{Phase, Pod, Record};
use cni_store::state::{Backend, Mode, Owner, State};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

/// Any JSON document of a few levels.
pub fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(word(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Words that mean something here, and any others.
pub fn word() -> impl Strategy<Value = String> {
    let known = [
        "name",
        "type",
        "plugins",
        "cniVersion",
        "cniVersions",
        "capabilities",
        "runtimeConfig",
        "prevResult",
        "stateDir",
        "root",
        "default",
        "backends",
        "flannel",
        "calico",
        "deadlinesMs",
        "ips",
        "address",
        "interface",
        "interfaces",
        "routes",
        "dns",
        "version",
        "0.3.1",
        "1.0.0",
        "1.1.0",
        "10.0.0.1/24",
        "fd00::1/64",
        "",
        "..",
        "\u{0}",
        "not found",
        "hold",
        "format",
    ];
    prop_oneof![3 => select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,12}"]
}

/// The document with one of its values replaced, wherever it is.
pub fn confused(document: Value) -> impl Strategy<Value = Value> {
    (vec(any::<Index>(), 0..5), json_value()).prop_map(move |(path, by)| {
        let mut document = document.clone();
        replace(&mut document, &path, by);
        document
    })
}

fn replace(document: &mut Value, path: &[Index], by: Value) {
    let children: Vec<&mut Value> = match document {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(list) => list.iter_mut().collect(),
        _ => Vec::new(),
    };
    let count = children.len();
    match path.split_first() {
        Some((step, deeper)) if count > 0 => {
            children
                .into_iter()
                .nth(step.index(count))
                .into_iter()
                .for_each(|child| replace(child, deeper, by.clone()));
        }
        _ => *document = by,
    }
}

/// Some bytes changed, cut off, zeroed or put in, as a torn disk or a bad editor does.
pub fn torn(text: String) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), 0..5_usize, any::<u8>(), vec(any::<u8>(), 0..12)).prop_map(move |(place, how, byte, more)| {
        let mut bytes = text.as_bytes().to_vec();
        let at = place.index(bytes.len());
        match how {
            0 => bytes.truncate(at),
            1 => bytes[at..].fill(0),
            2 => bytes[at] = byte,
            3 => bytes.splice(at..at, more).for_each(drop),
            _ => bytes.extend_from_within(at..),
        }
        bytes
    })
}

/// The shim's entry as a runtime hands it over.
pub fn entry() -> Value {
    json!({"type": "cni-shim", "name": "cbr0", "cniVersion": "1.1.0", "stateDir": "/nowhere", "root": "/nowhere", "default": "flannel",
        "backends": {"flannel": "/a", "calico": "/b"}, "deadlinesMs": {"add": 1}, "runtimeConfig": {"portMappings": [{"HostPort": 1}]},
        "prevResult": {"cniVersion": "1.1.0"}, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
}

/// A conflist of Calico's.
pub fn conflist() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0"], "disableCheck": "true", "plugins": [
        {"type": "calico", "ipam": {"type": "calico-ipam"}, "vendor": [1.5, null]},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

/// Any state.
pub fn state() -> impl Strategy<Value = State> {
    let backend = || select(vec![Backend::Flannel, Backend::Calico]);
    let owner = (word(), any::<u32>(), word(), option::of(any::<u64>()));
    let owner = owner.prop_map(|(run, pid, boot_id, started)| Owner { run, pid, boot_id, started });
    let mode = select(vec![Mode::Flannel, Mode::Calico, Mode::Hold]);
    let numbers = (any::<u64>(), option::of(any::<u64>()), any::<bool>());
    (mode, backend(), option::of(backend()), option::of(owner), numbers).prop_map(
        |(mode, before, next, owner, (since_ms, deadline_boot_ms, defer_failed_del))| State {
            mode,
            before: Some(before),
            next,
            owner,
            since_ms,
            deadline_boot_ms,
            defer_failed_del,
            ..State::routed(Backend::Flannel)
        },
    )
}

/// Any record of one attachment.
pub fn record() -> impl Strategy<Value = Record> {
    let call = (word(), json_value()).prop_map(|(kind, config)| PluginCall {
        kind,
        path: "/opt/cni/bin/x".into(),
        config: config.as_object().cloned().unwrap_or_default(),
    });
    let list = (word(), vec(call, 0..3), json_value(), word(), any::<bool>()).prop_map(
        |(network, plugins, config, args, disable_check)| DelList {
            network,
            cni_version: "1.0.0".into(),
            plugins,
            runtime_config: config.as_object().cloned().unwrap_or_default(),
            args,
            disable_check,
        },
    );
    let pod = (word(), word(), word()).prop_map(|(namespace, name, uid)| Pod { namespace, name, uid });
    let phase = select(vec![Phase::Intent, Phase::Added, Phase::Deleting]);
    (vec(list, 0..3), option::of(json_value()), option::of(word()), option::of(pod), phase).prop_map(
        |(del, result, flannel_scratch, pod, phase)| {
            let record = Record::new("c1", "eth0", Backend::Calico, del);
            // serde reads null as none.
            Record { result: result.filter(|result| !result.is_null()), flannel_scratch, pod, phase, ..record }
        },
    )
}

/// A result as a plugin of this version would give it.
pub fn result() -> impl Strategy<Value = Value> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| format!("{}/24", std::net::Ipv4Addr::from(ip))),
        any::<[u8; 16]>().prop_map(|ip| format!("{}/64", std::net::Ipv6Addr::from(ip))),
    ];
    let ip = (address, option::of(0..3_u8)).prop_map(|(address, interface)| match interface {
        Some(interface) => json!({"address": address, "interface": interface, "gateway": "10.0.0.1"}),
        None => json!({"address": address}),
    });
    let interface =
        word().prop_map(|name| json!({"name": name, "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}));
    (vec(ip, 0..4), vec(interface, 0..3), json_value(), select(convert::SUPPORTED.to_vec())).prop_map(
        |(ips, interfaces, vendor, version)| {
            let result = json!({"cniVersion": "1.1.0", "interfaces": interfaces, "ips": ips, "routes": [{"dst": "0.0.0.0/0"}],
                "vendor.example/x": vendor});
            convert::result(result.clone(), version).unwrap()
        },
    )
}

/// So many cases, always the same ones unless NODECTL_TESTS_SEED names others; many more where every case is wanted.
pub fn cases(count: u32) -> ProptestConfig {
    let cases = if is_full() { count * 50 } else { count };
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed()), failure_persistence: None, ..ProptestConfig::default() }
}
