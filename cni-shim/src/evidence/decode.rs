//! The encodings in which evidence comes: base64 (Go's encoding of bytes in JSON), libcni's pairs of arguments, and the
//! name of Calico's host interface.

use serde_json::Value;

/// Standard base64; `None` if it is not.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held, mut out) = (0_u32, 0_u32, Vec::with_capacity(text.len() / 4 * 3));
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    (!out.is_empty()).then_some(out)
}

/// CNI_ARGS out of libcni's `[[key, value], ...]`.
pub fn arguments(pairs: &[Value]) -> String {
    let pair = |pair: &Value| Some(format!("{}={}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?));
    pairs.iter().filter_map(pair).collect::<Vec<_>>().join(";")
}

/// The name of Calico's host interface of a pod: "cali" and 11 hex digits of the SHA-1 of "namespace.name" (Calico
/// libcalico-go, VethNameForWorkload), with the default interface prefix.
pub fn calico_interface(namespace: &str, name: &str) -> String {
    let digest = sha1(format!("{namespace}.{name}").as_bytes());
    let hex: String = digest.iter().map(|word| format!("{word:08x}")).collect();
    format!("cali{}", hex.get(..11).unwrap_or_default())
}

/// SHA-1 (FIPS 180-4), here to derive a name and not to protect anything.
fn sha1(message: &[u8]) -> [u32; 5] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    let mut hash = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(64) {
        let mut w: Vec<u32> =
            block.chunks_exact(4).map(|b| b.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).collect();
        for i in 16..80 {
            w.push((w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = hash;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        hash = std::array::from_fn(|i| hash[i].wrapping_add([a, b, c, d, e][i]));
    }
    hash
}

#[cfg(test)]
mod tests {
    #[test]
    fn decodes_as_go_and_calico_encode() {
        assert_eq!(super::base64("eyJuYW1lIjoiY2JyMCJ9"), Some(br#"{"name":"cbr0"}"#.to_vec()));
        assert_eq!(super::base64("Zm9vYg=="), Some(b"foob".to_vec()));
        assert_eq!(super::base64("no!"), None);
        for length in [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 200] {
            let hash = super::sha1(&vec![b'a'; length]);
            let mut child = std::process::Command::new("sha1sum")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), &vec![b'a'; length]).unwrap();
            let sum = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            let hex: String = hash.iter().map(|word| format!("{word:08x}")).collect();
            assert!(sum.starts_with(&hex), "{length}: {sum} {hex}");
        }
    }
}
