//! Observing a node whose files are a directory of the test's own and whose network is a namespace of the test thread's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::{Duration, Instant};

use nodectl::facts::Facts;
use nodectl::host::Host;
use nodectl::observe;

#[path = "support/namespace.rs"]
mod namespace;
use namespace::sh;

fn write(root: &std::path::Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn what_can_be_seen_is_seen_and_the_rest_is_named() {
    namespace::enter();
    sh("ip link add cni0 type bridge; ip addr add 10.244.1.1/24 dev cni0; iptables-nft -t nat -N FLANNEL-POSTRTG");
    sh("iptables-nft -t mangle -N KUBE-KUBELET-CANARY; ipset create cali40all hash:net; nft add table inet admin");
    let root = tempfile::tempdir().unwrap();
    let flannel = r#"{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}"#;
    write(root.path(), "etc/cni/net.d/10-flannel.conflist", flannel);
    write(root.path(), "etc/cni/net.d/20-broken.conf", "{");
    sh(&format!("mkfifo {}/etc/cni/net.d/30-pipe.conf", root.path().display()));
    write(root.path(), "etc/cni/net.d/README", "not read by any runtime");
    write(root.path(), "opt/cni/bin/flannel", "abc");
    write(root.path(), "run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_MTU=1450\n");
    write(root.path(), "var/lib/cni/networks/cbr0/10.244.1.2", "x\neth0");
    write(root.path(), "var/lib/nodectl/open", "20261121T020000-1a2b\n");
    write(root.path(), "var/lib/nodectl/journal/20261120T010000-0000.jsonl", "");
    write(root.path(), "var/lib/nodectl/journal/20261121T020000-1a2b.jsonl", "");
    let start = Instant::now();
    let facts = observe::node(&Host::new(root.path()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    assert_eq!(facts.files.conf_names, ["10-flannel.conflist", "20-broken.conf", "30-pipe.conf"]);
    assert_eq!(facts.files.confs["10-flannel.conflist"]["name"], "cbr0");
    assert!(facts.files.confs["20-broken.conf"].is_null() && facts.files.confs["30-pipe.conf"].is_null());
    assert_eq!(facts.files.binaries["flannel"], 3);
    assert_eq!(facts.files.subnet_env["FLANNEL_MTU"], "1450");
    for path in ["/etc/cni/net.d/10-flannel.conflist", "/run/flannel/subnet.env", "/var/lib/cni/networks/cbr0"] {
        assert!(facts.files.present.iter().any(|p| p == path), "{path} is not in {:?}", facts.files.present);
    }
    assert_eq!(facts.runs.open.as_deref(), Some("20261121T020000-1a2b"));
    assert_eq!(facts.runs.closed, ["20261120T010000-0000"]);
    assert!(facts.network.link("cni0").is_some() && facts.shim.mode.is_none());
    assert_eq!(facts.firewall.active, Some(nodectl::facts::Backend::Nft));
    assert!(facts.firewall.saved[0].text.contains(":FLANNEL-POSTRTG - [0:0]"));
    assert_eq!(
        (facts.firewall.sets.as_slice(), facts.firewall.nft_tables.as_slice()),
        (&["cali40all".to_owned()][..], &["inet admin".to_owned()][..])
    );
    assert!(facts.sysctls.contains_key("net.ipv4.ip_forward") && !facts.machine.boot_id.is_empty());
    assert!(facts.machine.free_bytes.contains_key("/etc/cni/net.d"));
    let unobserved: Vec<_> = facts.unobserved.keys().map(String::as_str).collect();
    assert_eq!(unobserved, ["cluster", "runtime", "the open run's journal"], "{:?}", facts.unobserved);

    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
}
