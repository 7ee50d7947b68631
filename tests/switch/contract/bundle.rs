//! The archive for somebody elsewhere: all that tells of the node, and no secret.

use std::path::Path;

use nodectl_lab::scenario::Scenario;

use super::provoke::start;

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";

#[test]
fn a_bundle_tells_of_the_node_and_keeps_its_secrets() {
    let scenario = start().unwrap();
    scenario.nodectl(1, &Scenario::switch_args("calico", &["--reason", "a ticket"])).unwrap().expect(0).unwrap();
    let node = scenario.node(1).unwrap();
    let secrets = format!(
        "mkdir -p /etc/nodectl; echo '# token = \"{TOKEN}\"' > /etc/nodectl/config.toml
         echo '{{\"name\":\"x\",\"plugins\":[],\"password\":\"hunter2\"}}' > /etc/cni/net.d/90-x.conflist
         echo 'token: {TOKEN}' > /etc/cni/net.d/calico-kubeconfig
         mkfifo /var/lib/nodectl/reports/waits"
    );
    node.sh(&secrets).unwrap();
    let written =
        scenario.nodectl(1, &["bundle", "--out", "/tmp/b.tar.gz", "--output", "json"]).unwrap().expect(0).unwrap();
    let document = written.json().unwrap();
    assert_eq!((&document["outcome"], &document["file"]), (&"written".into(), &"/tmp/b.tar.gz".into()), "{document}");
    assert!(document["redacted"].as_u64() >= Some(2), "{document}");
    assert_eq!(node.sh("stat -c %a /tmp/b.tar.gz").unwrap().trim(), "600");
    node.sh("cd /tmp && tar xzf b.tar.gz && mv nodectl-bundle-* b").unwrap();
    let entries = document["entries"].as_array().unwrap();
    for entry in entries {
        let path = Path::new("/tmp/b").join(entry.as_str().unwrap());
        let text = node.sh(&format!("cat '{}'", path.display())).unwrap();
        assert!(!text.trim().is_empty() && !text.contains("hunter2") && !text.contains(TOKEN), "{}", path.display());
    }
    let holds = |name: &str, what: &str| {
        let text = node.sh(&format!("cat /tmp/b/{name}")).unwrap();
        assert!(text.contains(what), "{name} does not say {what}:\n{text}");
    };
    holds("README.txt", "files/etc/nodectl/config.toml");
    holds("README.txt", "read it before you pass it on");
    holds("status.txt", "calico");
    holds("history.txt", "a ticket");
    holds("preflight.txt", "ok");
    holds("facts.json", "\"vxlan.calico\"");
    holds("files/etc/cni/net.d/90-x.conflist", "[redacted]");
    holds("files/var/lib/nodectl/journal/*.jsonl", "\"record\":\"close\"");
    holds("files/var/lib/cni-shim/state.json", "calico");
    let names = |part: &str| entries.iter().any(|entry| entry.as_str().is_some_and(|name| name.contains(part)));
    assert!(!names("kubeconfig") && !names("waits"), "{entries:?}");
    // What is there is not overwritten; stdout takes it too.
    let again = scenario.nodectl(1, &["bundle", "--out", "/tmp/b.tar.gz"]).unwrap().expect(1).unwrap();
    assert!(again.stderr.contains("is there already") && again.stderr.contains("To fix it: "), "{}", again.all());
    let nowhere = scenario.nodectl(1, &["bundle", "--out", "/nowhere/b.tar.gz"]).unwrap().expect(1).unwrap();
    assert!(
        nowhere.stderr.contains("could not be made") && nowhere.stderr.contains("To fix it: "),
        "{}",
        nowhere.all()
    );
}
