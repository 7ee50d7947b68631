//! What a runtime hands over: a request, or an error object with one of the specification's codes.
#![no_main]

use cni_shim::chain::Invocation;
use cni_shim::request::{Request, Verb};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status] {
        let mut version = "1.1.0".to_owned();
        if let Err(error) = Request::parse(verb, Invocation::default(), input, &mut version) {
            assert!([1, 6, 7].contains(&error.code), "{error:?}");
        }
        assert!(cni_shim::convert::is_supported(&version));
    }
});
