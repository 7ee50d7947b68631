//! What a delegate prints: a result that can be converted again and again, or an error.
#![no_main]

use cni_shim::convert;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = serde_json::from_slice(input) else { return };
    for version in convert::SUPPORTED {
        if let Ok(converted) = convert::result(&value, version) {
            assert_eq!(convert::result(&converted, version).expect("it was converted before"), converted);
        }
    }
});
