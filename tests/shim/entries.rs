//! Where bytes of others come in, each with what must hold for any of them: for the fuzz targets (cni-shim/fuzz) and for
//! mangled.rs.

use cni_shim::request::Request;
use cni_spec::chain::Invocation;
use cni_spec::conflist::List;
use cni_spec::convert;
use cni_spec::skel::{Input, Verb};
use cni_store::backends::union_of_capabilities;
use cni_store::pending::Pending;
use cni_store::record::Record;
use cni_store::state::State;

/// What a runtime hands over: a request, or an error object with one of the specification's codes.
pub fn stdin(input: &[u8]) {
    for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status] {
        let mut version = "1.1.0".to_owned();
        if let Err(error) = Input::parse(verb, Invocation::default(), input, &mut version).and_then(Request::of) {
            assert!([1, 6, 7].contains(&error.code), "{error:?}");
        }
        assert!(convert::is_supported(&version));
    }
}

/// A state file: a state that is written as it was read, or none.
pub fn state(input: &[u8]) {
    let Ok(fields) = serde_json::from_slice(input) else { return };
    if let Ok(state) = State::parse(fields) {
        state.route(None, 0);
        state.route(Some("r"), u64::MAX);
        assert_eq!(State::parse(state.fields().expect("it is encoded")), Ok(state));
    }
}

/// A record's file, or a pending DEL's: one that is written as it was read, or none.
pub fn record(input: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(input) {
        let text = serde_json::to_vec(&record).expect("it is encoded");
        assert_eq!(serde_json::from_slice::<Record>(&text).expect("it is read again"), record);
        cni_store::delete::unattended(&record);
    }
    if let Ok(pending) = serde_json::from_slice::<Pending>(input) {
        let text = serde_json::to_vec(&pending).expect("it is encoded");
        assert_eq!(serde_json::from_slice::<Pending>(&text).expect("it is read again"), pending);
    }
}

/// A backend's conflist: its plugins as they stand there, or an error.
pub fn conflist(input: &[u8]) {
    match List::parse(input) {
        Ok(list) => {
            union_of_capabilities([&list]);
            let _ = list.resolve("/nowhere");
        }
        Err(error) => assert_eq!(error.code, 7, "{error:?}"),
    }
}

/// What a delegate prints: a result that can be converted again and again, or an error.
pub fn result(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    for version in convert::SUPPORTED {
        if let Ok(converted) = convert::result(value.clone(), version) {
            assert_eq!(convert::result(converted.clone(), version).expect("it was converted before"), converted);
        }
    }
}
