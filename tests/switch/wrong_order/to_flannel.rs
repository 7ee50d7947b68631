//! Calico -> flannel, one thing at another place.

use nodectl_lab::scenario::Cni;
use serde_json::json;

use super::bench::{Bench, pause};

const CALICO: Cni = Cni::Calico;

#[test]
fn blackholes_tokens_and_the_condition() {
    let bench = Bench::new("0.27", |_| {});
    // The plugin's token lives for seconds here instead of a day, and is renewed as long as calico-node runs.
    let short =
        json!([{"name": "LAB_TOKEN_SECONDS", "value": "4"}, {"name": "LAB_TOKEN_REFRESH_SECONDS", "value": "1"}]);
    // With a grace period of 0, as in Calico's manifest, the preStop hook may or may not run; here it does.
    let spec = json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "calico-node", "env": short}]});
    bench.change_agent("kube-system", "calico-node", &spec);
    // k3s starts flannel so: the Node's condition is nobody's business then.
    let args = json!(["--ip-masq", "--kube-subnet-mgr", "--set-node-network-unavailable=false"]);
    let spec = json!({"containers": [{"name": "kube-flannel", "args": args}]});
    bench.change_agent("kube-flannel", "kube-flannel-ds", &spec);
    bench.scenario.migrate(1, CALICO).unwrap();
    bench.is_whole("before", CALICO);

    let case =
        "Calico's sandboxes are stopped after its agent has left: its plugin's token is dead, and no DEL succeeds";
    let mut late = bench.plan(Cni::Flannel).with_after("stop-sandboxes", "stop-agent").unwrap();
    for _ in 0..3 {
        late = late.with_new_after(pause(), "stop-agent").unwrap();
    }
    bench.fails_with(case, &late, &["--deadline", "50s"], CALICO, "");

    let case = "cni0 serves before Calico's blackholes go: nobody reaches what hangs on it";
    let late = bench.plan(Cni::Flannel).with_after("clean", "await-pods").unwrap();
    bench.fails(case, &late, CALICO, "does not answer any more");

    let case = "NetworkUnavailable, which calico-node has set when it left, is not cleared: nothing is scheduled here any more";
    let without = bench.plan(Cni::Flannel).without("mark-network-available").unwrap();
    bench.fails_late(case, &without, CALICO, "NetworkUnavailable is True");

    println!("the right order");
    bench.scenario.migrate(1, Cni::Flannel).unwrap();
    bench.is_whole("the right order", Cni::Flannel);
}
