//! Valid documents with their bytes mangled several times over, at every place where bytes of others come in.

use crate::entries;
use crate::strategies::{cases, conflist, entry, json_value, record, result, state};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What parsers stumble over.
const TOKENS: [&str; 24] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.1",
    "\"cniVersion\":\"0.4.0\",",
    "\"format\":2,",
    "\"plugins\":[],",
    "[[[[[[[[[[[[[[[[",
    "\u{0}",
];

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Put(Index, Vec<u8>),
    Flip(Index, u8),
    Cut(Index, usize),
    Again(Index, usize),
    Nest(Index, usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let bytes =
            prop_oneof![vec(any::<u8>(), 1..6), select(TOKENS.to_vec()).prop_map(|token| token.as_bytes().to_vec()),];
        prop_oneof![
            4 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Self::Put(at, bytes)),
            4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            3 => (any::<Index>(), 1..40_usize).prop_map(|(at, count)| Self::Cut(at, count)),
            3 => (any::<Index>(), 1..80_usize).prop_map(|(at, count)| Self::Again(at, count)),
            1 => (any::<Index>(), 100..400_usize).prop_map(|(at, depth)| Self::Nest(at, depth)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let span = |at: &Index, count: usize| {
            let start = at.index(length + 1);
            start..(start + count).min(length)
        };
        match self {
            Self::Put(at, put) => drop(bytes.splice(span(at, 0), put.iter().copied())),
            Self::Flip(at, bit) => bytes[span(at, 1)].iter_mut().for_each(|byte| *byte ^= 1 << bit),
            Self::Cut(at, count) => drop(bytes.drain(span(at, *count))),
            Self::Again(at, count) => bytes.extend_from_within(span(at, *count)),
            Self::Nest(at, depth) => drop(bytes.splice(span(at, 0), b"[".repeat(*depth))),
        }
    }
}

/// A document, mangled.
fn mangled(document: impl Strategy<Value = serde_json::Value>) -> impl Strategy<Value = Vec<u8>> {
    (document, vec(Change::any(), 0..8)).prop_map(|(document, changes)| {
        let mut bytes = document.to_string().into_bytes();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    })
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn standard_input(input in mangled(prop_oneof![Just(entry()), json_value()])) {
        entries::stdin(&input);
    }

    #[test]
    fn a_state(input in mangled(state().prop_map(|state| state.fields().unwrap().into()))) {
        entries::state(&input);
    }

    #[test]
    fn a_record(input in mangled(record().prop_map(|record| serde_json::to_value(record).unwrap()))) {
        entries::record(&input);
    }

    #[test]
    fn a_conflist(input in mangled(prop_oneof![Just(conflist()), json_value()])) {
        entries::conflist(&input);
    }

    #[test]
    fn a_delegates_result(input in mangled(result())) {
        entries::result(&input);
    }
}
