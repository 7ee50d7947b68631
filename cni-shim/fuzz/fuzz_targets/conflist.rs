//! A backend's conflist: its plugins as they stand there, or an error.
#![no_main]

use cni_shim::conflist::{List, union_of_capabilities};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match List::parse(input) {
        Ok(list) => {
            union_of_capabilities([&list]);
            let _ = list.resolve("/nowhere");
        }
        Err(error) => assert_eq!(error.code, 7),
    }
});
