//! A state file: a state that is written as it was read, or none.
#![no_main]

use cni_shim::state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(fields) = serde_json::from_slice(input) else { return };
    if let Ok(state) = State::parse(fields) {
        state.route(None, 0);
        assert_eq!(State::parse(state.fields().expect("it is encoded")), Ok(state));
    }
});
