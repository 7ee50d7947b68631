//! Seeded samples: the same seed picks the same cases; all of them with NODECTL_TESTS_FULL=1.

/// Picks `count` of the cases, in their order; all where the full counts are asked for.
pub fn sample<T: Clone>(cases: &[T], count: usize, salt: u64) -> Vec<T> {
    if full() || count >= cases.len() {
        return cases.to_vec();
    }
    let mut chosen = places(cases.len(), count, salt).get(..count).unwrap_or_default().to_vec();
    chosen.sort_unstable();
    chosen.into_iter().filter_map(|place| cases.get(place).cloned()).collect()
}

/// All cases in another order, which the salt and the seed decide.
pub fn shuffled<T: Clone>(cases: &[T], salt: u64) -> Vec<T> {
    let places = places(cases.len(), cases.len(), salt);
    places.into_iter().filter_map(|place| cases.get(place).cloned()).collect()
}

/// Places of a list, of which the first `count` are as a Fisher-Yates shuffle leaves them.
fn places(length: usize, count: usize, salt: u64) -> Vec<usize> {
    let mut state = seed() ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut places: Vec<usize> = (0..length).collect();
    for at in 0..count {
        let left = places.len() - at;
        let other = at + usize::try_from(next(&mut state)).unwrap_or(0) % left;
        places.swap(at, other);
    }
    places
}

/// True where every case is to be run.
pub fn full() -> bool {
    std::env::var("NODECTL_TESTS_FULL").is_ok_and(|value| value == "1")
}

/// The seed of this run; a fixed one unless NODECTL_TESTS_SEED names another.
pub fn seed() -> u64 {
    std::env::var("NODECTL_TESTS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}

/// splitmix64, shifted so that it fits every machine's `usize`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_ordered_distinct_and_the_same_for_a_seed() {
        let cases: Vec<u32> = (0..21).collect();
        for salt in 0..50 {
            let chosen = sample(&cases, 5, salt);
            assert!(full() || chosen.len() == 5);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
            assert_eq!(chosen, sample(&cases, 5, salt));
        }
    }
}
