//! A record's file: a record that is written as it was read, or none.
#![no_main]

use cni_shim::pending::Pending;
use cni_shim::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Record>(input) {
        let text = serde_json::to_vec(&record).expect("it is encoded");
        assert_eq!(serde_json::from_slice::<Record>(&text).expect("it is read again"), record);
        cni_shim::delete::unattended(&record);
    }
    let _ = serde_json::from_slice::<Pending>(input);
});
