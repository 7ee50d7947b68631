//! Properties that hold for whatever stands in a file or on standard input: an answer or an error object, never a panic; and
//! what is read is what was written, or nothing.

use crate::common::{is_full, seed};
use cni_shim::chain::{Invocation, parse_result};
use cni_shim::conflist::{Backends, List};
use cni_shim::evidence::{self, Sought};
use cni_shim::exec::Outcome;
use cni_shim::record::{DelList, Phase, PluginCall, Pod, Record};
use cni_shim::request::{Request, Verb, environment};
use cni_shim::state::{Backend, Mode, Owner, State};
use cni_shim::{Error, Paths, convert};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::env::VarError;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

/// Any JSON document of a few levels.
fn json_value() -> impl Strategy<Value = Value> {
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
fn word() -> impl Strategy<Value = String> {
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
fn confused(document: Value) -> impl Strategy<Value = Value> {
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
fn torn(text: String) -> impl Strategy<Value = Vec<u8>> {
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

fn entry() -> Value {
    json!({"type": "cni-shim", "name": "cbr0", "cniVersion": "1.1.0", "stateDir": "/nowhere", "root": "/nowhere", "default": "flannel",
        "backends": {"flannel": "/a", "calico": "/b"}, "deadlinesMs": {"add": 1}, "runtimeConfig": {"portMappings": [{"HostPort": 1}]},
        "prevResult": {"cniVersion": "1.1.0"}, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
}

fn verb() -> impl Strategy<Value = Verb> {
    select(vec![Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status])
}

fn conflist() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0"], "disableCheck": "true", "plugins": [
        {"type": "calico", "ipam": {"type": "calico-ipam"}, "vendor": [1.5, null]},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

fn state() -> impl Strategy<Value = State> {
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

fn record() -> impl Strategy<Value = Record> {
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
fn result() -> impl Strategy<Value = Value> {
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
            convert::result(&result, version).unwrap()
        },
    )
}

fn invocation() -> Invocation {
    Invocation { container_id: "c1".into(), ifname: "eth0".into(), ..Invocation::default() }
}

/// The file of a stored value, to be torn.
fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// So many cases, always the same ones unless NODECTL_TESTS_SEED names others; many more where every case is wanted.
fn cases(count: u32) -> ProptestConfig {
    let cases = if is_full() { count * 50 } else { count };
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed()), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn standard_input_is_a_request_or_an_error(
        verb in verb(),
        input in prop_oneof![
            vec(any::<u8>(), 0..64),
            torn(entry().to_string()),
            confused(entry()).prop_map(|config| config.to_string().into_bytes()),
        ],
    ) {
        let mut version = "1.1.0".to_owned();
        match Request::parse(verb, invocation(), &input, &mut version) {
            Ok(request) => prop_assert!(convert::is_supported(&request.version) && !request.name.is_empty()),
            Err(error) => prop_assert!([1, 6, 7].contains(&error.code) && !error.msg.is_empty(), "{error:?}"),
        }
        prop_assert!(convert::is_supported(&version));
    }

    #[test]
    fn an_environment_is_checked_whatever_is_in_it(verb in verb(), values in vec(option::of(".{0,20}"), 5), odd in 0..8_usize) {
        let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_PATH"];
        let variables: BTreeMap<_, _> = names.into_iter().zip(values).collect();
        let read = |name: &str| match variables.get(name).cloned().flatten() {
            _ if names.get(odd) == Some(&name) => Err(VarError::NotUnicode("\u{fffd}".into())),
            value => value.ok_or(VarError::NotPresent),
        };
        match environment(verb, read) {
            Err(error) => prop_assert_eq!(error.code, 4),
            Ok(call) if matches!(verb, Verb::Add | Verb::Del | Verb::Check) => {
                // What names a file never leads out of its folder.
                let path = Paths::under("/x").record(&call.container_id, &call.ifname);
                prop_assert_eq!(path.parent(), Some(Path::new("/x/var/lib/cni-shim/attachments")));
                prop_assert!(!call.container_id.is_empty() && !call.ifname.is_empty());
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_or_not_at_all(state in state(), index in any::<Index>(), byte in any::<u8>()) {
        let fields = state.fields().unwrap();
        prop_assert_eq!(State::parse(fields.clone()), Ok(state.clone()));
        let mut bytes = serde_json::to_vec(&fields).unwrap();
        let at = index.index(bytes.len());
        bytes[at] = byte;
        if let Some(Ok(read)) = serde_json::from_slice(&bytes).ok().map(State::parse) {
            prop_assert_eq!(read, state, "one byte was changed: {}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn hostile_states_are_refused(fields in btree_map(word(), json_value(), 0..8), owned in confused(json!({"format": 1, "mode": "hold",
        "before": "flannel", "owner": {"run": "r", "pid": 1, "boot_id": "b"}, "deadline_boot_ms": 7, "generation": 3})))
    {
        for fields in [Some(fields.into_iter().collect::<Map<_, _>>()), owned.as_object().cloned()].into_iter().flatten() {
            if let Ok(state) = State::parse(fields) {
                prop_assert_eq!(state.format, 1);
                // A hold by itself knows where it goes back to.
                prop_assert!(state.mode != Mode::Hold || state.before.is_some());
                state.route(None, 0);
                state.route(Some("r"), u64::MAX);
            }
        }
    }

    #[test]
    fn a_conflist_is_kept_as_it_is_or_refused(input in prop_oneof![
        vec(any::<u8>(), 0..64),
        torn(conflist().to_string()),
        confused(conflist()).prop_map(|list| list.to_string().into_bytes()),
        json_value().prop_map(|list| list.to_string().into_bytes()),
    ]) {
        match List::parse(&input) {
            Err(error) => prop_assert_eq!(error.code, 7),
            Ok(list) => {
                let given: Value = serde_json::from_slice(&input).unwrap();
                prop_assert_eq!(&given["name"], &json!(list.name));
                prop_assert!(list.plugins.iter().all(|plugin| plugin["type"].as_str().is_some_and(|kind| !kind.is_empty())));
                if given.get("plugins").is_some() {
                    prop_assert_eq!(&given["plugins"], &json!(list.plugins), "vendors' fields are kept");
                }
                // Nothing is there to be run. A list without plugins may have some beside it.
                let runs = list.plugins.is_empty() && convert::is_supported(&list.cni_version);
                prop_assert_eq!(list.resolve("/nowhere::relative:").is_ok(), runs);
            }
        }
    }

    #[test]
    fn conversion_keeps_what_both_versions_know(result in result(), to in select(convert::SUPPORTED.to_vec())) {
        let converted = convert::result(&result, to).unwrap();
        prop_assert_eq!(&converted["cniVersion"], to);
        prop_assert_eq!(&convert::result(&converted, to).unwrap(), &converted, "again is the same");
        let from = result["cniVersion"].as_str().unwrap();
        prop_assert_eq!(convert::result(&converted, from).unwrap(), result.clone(), "there and back");
        for key in ["interfaces", "routes", "vendor.example/x"] {
            prop_assert_eq!(&converted[key], &result[key]);
        }
        for (new, old) in converted["ips"].as_array().unwrap().iter().zip(result["ips"].as_array().unwrap()) {
            for key in ["address", "gateway", "interface"] {
                prop_assert_eq!(new.get(key), old.get(key));
            }
            let family = if new["address"].as_str().unwrap().contains(':') { "6" } else { "4" };
            prop_assert_eq!(new.get("version").cloned(), to.starts_with('0').then(|| json!(family)));
        }
    }

    #[test]
    fn hostile_results_are_refused_or_converted(value in prop_oneof![json_value(), confused(json!({"cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.1/24", "interface": 0}], "dns": {}}))])
    {
        for version in convert::SUPPORTED {
            if let Err(error) = convert::result(&value, version) {
                prop_assert_eq!(error.code, 6);
            }
        }
    }

    #[test]
    fn a_delegates_answer_is_a_result_or_an_error(
        status in option::of(any::<u16>()),
        stdout in prop_oneof![vec(any::<u8>(), 0..64), json_value().prop_map(|value| value.to_string().into_bytes())],
        stderr in vec(any::<u8>(), 0..64),
    ) {
        let status = status.map(|status| ExitStatus::from_raw(i32::from(status)));
        let succeeded = status.is_some_and(|status| status.success());
        let list = List::parse(conflist().to_string().as_bytes()).unwrap();
        let call = PluginCall { kind: "calico".into(), path: "/x".into(), config: list.plugins[0].clone() };
        let list = DelList { network: list.name, cni_version: "1.0.0".into(), plugins: vec![call.clone()],
            runtime_config: Map::new(), args: String::new(), disable_check: false };
        match (Outcome { status, stdout: stdout.clone(), stderr }).result("whose") {
            Ok(output) => {
                prop_assert!(succeeded && output == stdout);
                match parse_result(&output, &list, &call) {
                    Ok(result) => prop_assert!(convert::is_supported(result["cniVersion"].as_str().unwrap())),
                    Err(error) => prop_assert_eq!(error.code, 6),
                }
            }
            Err(_) => prop_assert!(!succeeded),
        }
    }

    #[test]
    fn no_error_text_of_a_del_reads_like_a_success(msg in "(?i)(no|t| |f|not found|no such file or directory|.){0,12}", details in ".{0,20}not found.{0,9}") {
        let text = Error::new(5, msg, details).unswallowed().to_string().to_ascii_lowercase();
        prop_assert!(!text.contains("not found") && !text.contains("no such file or directory"), "{text}");
    }
}

proptest! {
    // Each case writes files.
    #![proptest_config(cases(100))]

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all(record in record(), index in any::<Index>(), byte in any::<u8>()) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let paths = Paths::under(dir.path());
        record.store(&paths, false).unwrap();
        prop_assert_eq!(Record::load(&paths, "c1", "eth0").unwrap(), Some(record));
        let path = paths.record("c1", "eth0");
        let mut bytes = text_of(&path).into_bytes();
        let at = index.index(bytes.len());
        bytes[at] = byte;
        fs::write(&path, &bytes).unwrap();
        match Record::load(&paths, "c1", "eth0") {
            Ok(read) => prop_assert!(read.is_some_and(|read| read.container_id == "c1" && read.ifname == "eth0")),
            Err(error) => prop_assert!([6, 7].contains(&error.code), "{error:?}"),
        }
        let (read, unreadable) = Record::list(&paths).unwrap();
        prop_assert_eq!(read.len() + unreadable.len(), 1, "none is overlooked");
    }

    #[test]
    fn evidence_is_whatever_can_be_read(
        cache in prop_oneof![torn(r#"{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"cbr0",
            "cniArgs":[["a","b"]],"capabilityArgs":{},"result":{"cniVersion":"1.0.0"}}"#.to_owned()), vec(any::<u8>(), 0..40)],
        scratch in vec(any::<u8>(), 0..40),
        lease in vec(any::<u8>(), 0..40),
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let paths = Paths::under(dir.path());
        for (path, bytes) in [
            ("var/lib/cni/results/cbr0-c1-eth0", &cache),
            ("var/lib/cni/flannel/c1", &scratch),
            ("var/lib/cni/networks/cbr0/10.244.1.2", &lease),
        ] {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), bytes).unwrap();
        }
        let sought = Sought { container_id: "c1", ifname: "eth0", args: "K8S_POD_NAME=x", cni_path: "/nowhere", torn: true };
        if let Ok(Some(record)) = evidence::import_record(&paths, &Backends::default(), &sought) {
            prop_assert!(record.imported && !record.del.is_empty() && record.phase == Phase::Added);
        }
    }
}
