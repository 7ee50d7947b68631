//! The encodings in which evidence comes: base64 (Go's encoding of bytes in JSON), libcni's pairs of arguments, and the
//! names of Calico's host interfaces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha1::{Digest as _, Sha1};

/// Standard base64; `None` if it is not, or nothing.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

/// CNI_ARGS out of libcni's `[[key, value], ...]`.
pub fn arguments(pairs: &[Value]) -> String {
    let pair = |pair: &Value| Some(format!("{}={}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?));
    pairs.iter().filter_map(pair).collect::<Vec<_>>().join(";")
}

/// The name of Calico's host interface of a pod: the prefix ("cali" unless configured) and 11 hex digits of the SHA-1 of
/// "namespace.name" (Calico libcalico-go, VethNameForWorkload).
pub fn calico_interface(prefix: &str, namespace: &str, name: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{name}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", hex.get(..11).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #[test]
    fn decodes_as_go_and_calico_encode() {
        assert_eq!(super::base64("eyJuYW1lIjoiY2JyMCJ9"), Some(br#"{"name":"cbr0"}"#.to_vec()));
        assert_eq!(super::base64("Zm9vYg=="), Some(b"foob".to_vec()));
        assert_eq!(super::base64("no!"), None);
        assert_eq!(super::base64(""), None);
        assert_eq!(super::calico_interface("cali", "default", "web-0"), "cali0d7763386da");
        assert_eq!(super::calico_interface("cali", "default", "nginx"), "calic440f455693");
    }
}
