#![no_main]

#[path = "../../../tests/shim/entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::stdin(input));
