//! The main job: node by node from flannel to Calico, and back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, Scenario};
use serde_json::json;

#[test]
fn one_node_goes_to_calico_and_back() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    it_begins_when_it_is_allowed(&scenario);
    nothing_secret_is_left(&scenario);
    scenario.must_be_on(1, Cni::Calico).unwrap();
    println!("{}", scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap().all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
}

/// Switches node 1 in a roll that is paused: refused at first, then waited for.
fn it_begins_when_it_is_allowed(scenario: &Scenario) {
    scenario.cluster_command(&["pause"]).unwrap().expect(0).unwrap();
    let refused = scenario.nodectl(1, &["migrate", "--yes", "--output", "json"]).unwrap().expect(3).unwrap();
    let checks = refused.json().unwrap()["checks"].as_array().unwrap().clone();
    let failed: Vec<&str> =
        checks.iter().filter(|c| c["verdict"] == "fail").map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(failed, ["pace"]);
    let mut waiting = scenario.nodectl_command(1, &["migrate", "--yes", "--when-allowed"], &[]).unwrap();
    let mut waiting = waiting.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(waiting.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("waiting for `nodectl cluster allow`")));
    let rest = std::thread::spawn(move || log.collect::<Vec<String>>().join("\n"));
    scenario.cluster_command(&["allow", "node1"]).unwrap().expect(0).unwrap();
    let status = waiting.wait().unwrap();
    assert!(status.success(), "{}", rest.join().unwrap());
}

/// Neither kubelet's key nor the token of Calico's plugin stands in a journal, a snapshot, a report or a receipt, or is shown. The
/// backup holds files whole, for root alone.
fn nothing_secret_is_left(scenario: &Scenario) {
    let script = r#"
        key=$(sed -n '/PRIVATE KEY/{n;p;q}' /var/lib/kubelet/pki/kubelet-client-current.pem)
        token=$(sed -n 's/.*"\{0,1\}token"\{0,1\}: *"\{0,1\}\([A-Za-z0-9._-]*\).*/\1/p' /etc/cni/net.d/calico-kubeconfig)
        [ ${#key} -gt 30 ] && [ ${#token} -gt 30 ] || { echo "no secrets found to look for"; exit 1; }
        grep -rlF -e "$key" -e "$token" --exclude-dir=backup /var/lib/nodectl /var/lib/cni-shim /run/nodectl && exit 1
        nodectl -vv status --output json 2>&1 | grep -F -e "$key" -e "$token" && exit 1
        [ "$(stat -c %a /var/lib/nodectl/backup)" = 700 ]"#;
    scenario.node(1).unwrap().sh(script).unwrap();
}

#[test]
fn a_pod_that_stays_has_its_grace_before_its_sandbox_is_stopped() {
    let mut daemon = workloads::daemon("graceful");
    let spec = &mut daemon.object["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(20);
    // Slower than any killing: who is killed writes nothing.
    let graceful = "trap 'sleep 1; echo ended >> /var/log/graceful; kill $!; exit' TERM; nodectl-lab pod & wait";
    spec["containers"][0]["command"] = json!(["sh", "-c", graceful]);
    let scenario = Scenario::start(1, &[daemon], |_| {}).unwrap();
    scenario.settled().unwrap();
    scenario.prepare().unwrap();
    let ended = || scenario.node(1).unwrap().sh("cat /var/log/graceful 2>/dev/null || true").unwrap().lines().count();
    scenario.migrate(1, Cni::Calico).unwrap();
    assert_eq!(ended(), 1);
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    assert_eq!(ended(), 2);
}
