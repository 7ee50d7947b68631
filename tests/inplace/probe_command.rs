//! `nodectl probe` as it is called by hand, on a node with pods that real plugins have wired.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../shim/nodes/fixture.rs"]
mod fixture;

use fixture::Bench;
use nodectl_lab::node::Kind;
use serde_json::{Value, json};

fn of<'a>(document: &'a Value, from: &str, to: &str) -> &'a Value {
    let flows = document["flows"].as_array().unwrap();
    let starts = |flow: &Value| flow["to"].as_str().is_some_and(|text| text.starts_with(to));
    flows.iter().find(|f| f["from"] == from && starts(f)).unwrap_or_else(|| panic!("{from} -> {to}: {document}"))
}

#[test]
fn pods_and_host_are_probed_by_name() {
    let bench = Bench::new(Kind::Light);
    let (a, ip) = bench.run("a");
    bench.run("b");
    let quick = ["--rate", "50", "--duration", "1"];
    let mut args =
        vec!["probe", "--from", "all", "--to", "udp:default/a", "--to", "tcp:default/b", "--to", "icmp:default/a"];
    args.extend(quick);
    let document = bench.json(&args, 0);
    assert_eq!(
        (&document["outcome"], &document["changed"], &document["rate"]),
        (&json!("as-expected"), &json!(false), &json!(50))
    );
    // Three sources, three targets, nobody to itself.
    assert_eq!(document["flows"].as_array().unwrap().len(), 6, "{document}");
    for (from, to) in
        [("host", "default/a:"), ("default/b", "default/a:"), ("default/a", "default/b:"), ("default/b", "default/a")]
    {
        let flow = of(&document, from, to);
        assert!(flow["sent"].as_u64().unwrap() > 20 && flow["lost"] == 0, "{flow}");
    }
    assert_eq!(of(&document, "host", "default/b:")["retransmitted"], 0);
    // Forbidden, and answered all the same; not forbidden, and nobody listens.
    let to = format!("connect:{ip}:9");
    let mut args = vec!["probe", "--refuse", "icmp:default/a", "--to", &to];
    args.extend(quick);
    let document = bench.json(&args, 1);
    assert_eq!(document["surprises"].as_array().unwrap().len(), 2, "{document}");
    let text = bench.nodectl(&args);
    assert_eq!(text.code, 1);
    assert!(
        text.stdout.contains("FROM")
            && text.stdout.contains("to be refused")
            && text.stdout.contains("was never answered"),
        "{text:?}"
    );
    // A node without an overlay has its gateway at least, if it has one.
    bench.node().sh("ip route replace default via 192.168.77.254").unwrap();
    let output = bench.nodectl(&["probe", "--duration", "1", "--output", "json"]);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(of(&document, "host", "192.168.77.254")["kind"], "icmp");
    bench.stop(&a);
}

#[test]
fn what_makes_no_sense_is_said() {
    let bench = Bench::new(Kind::Light);
    bench.run("a");
    for (args, said) in [
        (&["probe", "--to", "sctp:1.2.3.4:5"][..], "is no target"),
        (&["probe", "--to", "icmp:default/nobody"], "no pod default/nobody"),
        (&["probe", "--from", "default/nobody"], "no pod default/nobody"),
        (&["probe", "--rate", "0"], "rate"),
        (&["probe", "--from", "default/a", "--to", "icmp:default/a"], "a pod and itself say nothing about the network"),
    ] {
        let output = bench.nodectl(args);
        assert_eq!(output.code, 64, "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    }
}
