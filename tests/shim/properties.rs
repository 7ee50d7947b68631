//! Properties that hold for whatever stands in a file or on standard input: an answer or an error object, never a panic; and
//! what is read is what was written, or nothing.

use crate::strategies::{cases, conflist, confused, entry, json_value, record, result, state, torn, word};
use cni_shim::request::Request;
use cni_spec::chain::{DelList, PluginCall};
use cni_spec::chain::{Invocation, parse_result};
use cni_spec::conflist::List;
use cni_spec::exec::Outcome;
use cni_spec::skel::{Input, Verb, environment};
use cni_spec::{Error, convert};
use cni_store::Paths;
use cni_store::backends::Backends;
use cni_store::evidence::{self, Sought};
use cni_store::record::{Phase, Record};
use cni_store::state::{Mode, State};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::env::VarError;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

fn verb() -> impl Strategy<Value = Verb> {
    select(vec![Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status])
}

fn invocation() -> Invocation {
    Invocation { container_id: "c1".into(), ifname: "eth0".into(), ..Invocation::default() }
}

/// The file of a stored value, to be torn.
fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
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
        match Input::parse(verb, invocation(), &input, &mut version).and_then(Request::of) {
            Ok(request) => prop_assert!(convert::is_supported(&request.input.version) && !request.input.name.is_empty()),
            Err(error) => {
                prop_assert!([1, 6, 7].contains(&error.code) && !error.msg.is_empty(), "{error:?}");
                prop_assert_eq!(error.details.matches("To fix it: ").count(), 1, "{:?}", error);
            }
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
            Err(error) => prop_assert!(error.code == 4 && error.details.contains("To fix it: "), "{error:?}"),
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
        let converted = convert::result(result.clone(), to).unwrap();
        prop_assert_eq!(&converted["cniVersion"], to);
        prop_assert_eq!(&convert::result(converted.clone(), to).unwrap(), &converted, "again is the same");
        let from = result["cniVersion"].as_str().unwrap();
        prop_assert_eq!(convert::result(converted.clone(), from).unwrap(), result.clone(), "there and back");
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
            if let Err(error) = convert::result(value.clone(), version) {
                prop_assert!(error.code == 6 && error.details.contains("To fix it: "), "{error:?}");
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
                    Err(error) => prop_assert!(error.code == 6 && error.details.contains("To fix it: "), "{error:?}"),
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
