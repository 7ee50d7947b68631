//! Taking secrets out of text that leaves the node. Pure.
//!
//! By what a secret looks like and by what it is called, in YAML, JSON (also JSON within JSON) and on command lines. What this
//! does not know stays, so the archive is to be read before it is passed on, and its first page says so.

use std::sync::LazyLock;

use regex_lite::Regex;

/// What is found, and what stands there instead.
static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        // A private key, also one whose end was cut off; with its line ends as they are or as JSON has them.
        (
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
            "[redacted private key]",
        ),
        // The same in base64, as kubeconfigs have it; certificates begin alike and go too.
        (r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]+", "[redacted PEM]"),
        // A signed token (RFC 7519), wherever it stands.
        (r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*", "[redacted token]"),
        // Before named values: the name and the password of a proxy.
        (r#"://[^/\s:@"'\\]*:[^/\s@"'\\]+@"#, "://[redacted]@"),
        (
            concat!(
                r"(?i)((?:token|client-key-data|password|passwd|passphrase|secret|api[-_]?key|authorization|private[-_]?key|psk)",
                r#"["'\\]*\s*[:=]\s*["'\\]*)(?:(?:bearer|basic)\s+)?[^\s"'\\,{}\[\]]+"#
            ),
            "${1}[redacted]",
        ),
    ];
    // Each is tried by a test, so none is left out.
    rules.into_iter().filter_map(|(rule, with)| Some((Regex::new(rule).ok()?, with))).collect()
});

/// The text without its secrets, and how many there were.
pub fn redact(text: &str) -> (String, usize) {
    let (mut text, mut count) = (text.to_owned(), 0);
    for (secret, with) in SECRETS.iter() {
        let found = secret.find_iter(&text).count();
        if found > 0 {
            count += found;
            text = secret.replace_all(&text, *with).into_owned();
        }
    }
    (text, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_whatever_they_stand_in() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----";
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";
        for (text, wanted) in [
            (key.to_owned(), "[redacted private key]"),
            (format!("{{\"pem\":{:?}}}", key), r#"{"pem":"[redacted private key]"}"#),
            ("a -----BEGIN PRIVATE KEY-----\nMII".to_owned(), "a [redacted private key]"),
            (
                "client-certificate-data: LS0tLS1CRUdJTiBDRVJU\nx: y".into(),
                "client-certificate-data: [redacted PEM]\nx: y",
            ),
            (format!("mount {jwt} here"), "mount [redacted token] here"),
            ("    token: abc.def\n    user: x".into(), "    token: [redacted]\n    user: x"),
            (r#"{"token":"abc","node":"n1"}"#.into(), r#"{"token":"[redacted]","node":"n1"}"#),
            (
                r#"{"text":"{\"id-token\": \"abc\", \"a\":1}"}"#.into(),
                r#"{"text":"{\"id-token\": \"[redacted]\", \"a\":1}"}"#,
            ),
            ("Authorization: Bearer abc".into(), "Authorization: [redacted]"),
            ("run --password=hunter2 --x".into(), "run --password=[redacted] --x"),
            ("proxy-url: http://me:word@proxy:3128".into(), "proxy-url: http://[redacted]@proxy:3128"),
        ] {
            assert_eq!(redact(&text), (wanted.to_owned(), 1), "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "tokenFile: /var/run/secrets/token",
            "fe80::1@if5",
            "https://10.96.0.1:443/api",
            r#"{"secret": {"name": "x"}, "token": ""}"#,
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
            "-A cali-fw-x -m comment --comment \"cali:tYk3vXa_9bFqQ1xA\" -j MARK",
        ] {
            assert_eq!(redact(text), (text.to_owned(), 0));
        }
    }
}
