//! `nodectl doctor`: each finding on real objects, and that its command mends it; no finding where all is well; its four formats.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture::{CALICO, CALICO_PARTS, FLANNEL, FLANNEL_PARTS};
use nodectl_lab::node::Node;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, Scenario};
use serde_json::Value;
use support::Ground;

fn ground(script: &str) -> Ground {
    let ground = Ground::with("");
    ground.build(&format!("{CALICO_PARTS}\n{FLANNEL_PARTS}\n{script}"));
    ground
}

fn doctor(node: &dyn Node) -> Value {
    let done = node.exec(&["nodectl", "doctor", "--output", "json"]).unwrap();
    let said: Value =
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", done.stdout, done.stderr));
    let expected = if said["findings"].as_array().unwrap().is_empty() { 0 } else { 2 };
    assert_eq!(done.code, expected, "{said:#}");
    said
}

fn ids(node: &dyn Node) -> Vec<String> {
    let said = doctor(node);
    said["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap().to_owned()).collect()
}

/// The finding, which must be there and complete.
fn finding(node: &dyn Node, id: &str) -> Value {
    let said = doctor(node);
    let found = said["findings"].as_array().unwrap().iter().find(|f| f["id"] == id).cloned();
    let found = found.unwrap_or_else(|| panic!("{id} is not among {said:#}"));
    for field in ["severity", "what", "causes", "evidence", "command"] {
        assert!(found[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {found:#}");
    }
    found
}

/// The finding is there; what its command does takes it away.
fn mended(node: &dyn Node, id: &str) -> Value {
    let found = finding(node, id);
    let command = found["command"].as_str().unwrap().replace("nodectl cleanup", "nodectl cleanup --yes");
    let command = command.trim_start_matches("where the nodes are gone for good: ");
    node.sh(command).unwrap_or_else(|e| panic!("{command}: {e:#}"));
    let left = ids(node);
    assert!(!left.iter().any(|l| l == id), "{id} is still there after {command}: {left:?}");
    found
}

#[test]
fn what_flannel_left_is_told_with_its_harm_and_goes_with_one_command() {
    let ground = Ground::with("");
    assert!(ids(ground.node()).is_empty());
    ground.build(FLANNEL[0].1);
    let before = ground.snapshot();
    let said = doctor(ground.node());
    let changed = before.diff(&ground.snapshot());
    assert!(changed.is_empty(), "doctor changed {changed:?}");
    assert_eq!((&said["outcome"], &said["changed"]), (&"findings".into(), &false.into()));
    let masquerade = finding(ground.node(), "masquerade-left");
    assert_eq!(masquerade["severity"], "critical");
    assert!(masquerade["objects"].to_string().contains("iptables-legacy nat FLANNEL-POSTRTG"), "{masquerade:#}");
    mended(ground.node(), "flannel-left");
    assert!(ids(ground.node()).is_empty());
}

#[test]
fn what_calico_left_is_told_with_its_harm_and_goes_with_one_command() {
    let ground = Ground::with("");
    ground.build(
        &CALICO[0].1.replace("for n in 22 23 24", "for n in 23 24").replace("await_cali_loss 1", "await_cali_loss 0"),
    );
    assert_eq!(ids(ground.node()), ["policy-left", "calico-left"]);
    mended(ground.node(), "policy-left");
    assert!(ids(ground.node()).is_empty());
}

#[test]
fn a_blackhole_over_cni0_is_found_and_the_way_to_the_pods_comes_back() {
    let pod =
        "subnet_env; pod 2; ip=$(ls /var/lib/cni/networks/cbr0 | grep -E '^[0-9.]+$'); ping -c1 -W2 $ip >/dev/null";
    let ground = ground(pod);
    let _flanneld = ground.process("flanneld", &[]);
    for blackhole in
        ["ip route add blackhole 10.244.1.0/26 proto 80", "ip route replace blackhole 10.244.1.0/24 proto 80"]
    {
        ground.build(blackhole);
        let reach = "ping -c1 -W1 $(ls /var/lib/cni/networks/cbr0 | grep -E '^[0-9.]+$')";
        assert!(!ground.node().exec(&["sh", "-c", reach]).unwrap().ok(), "{blackhole} does no harm");
        assert_eq!(mended(ground.node(), "blackhole-shadows-pods")["severity"], "critical");
        assert!(
            ground.node().exec(&["sh", "-c", reach]).unwrap().ok(),
            "the pod is not reached after the cure of {blackhole}"
        );
    }
}

#[test]
fn the_tunnel_and_the_peers_are_asked() {
    let ground = ground("ip -6 address add fd77::1/64 dev eth0 nodad; subnet_env; vxlan 1 8472");
    let _flanneld = ground.process("flanneld", &[]);
    // Nobody has the peers' addresses.
    let dead = finding(ground.node(), "dead-peers");
    assert_eq!(dead["objects"].as_array().unwrap().len(), 6, "three peers in both families: {dead:#}");
    assert_eq!(ids(ground.node()), ["dead-peers"]);
    mended(ground.node(), "dead-peers");
    assert!(ids(ground.node()).is_empty());
    // A node that answers, whose tunnel does not: entries for it that are wrong, or are missing.
    ground.build(
        "ip neigh replace 10.244.9.0 lladdr 0e:00:00:00:00:09 dev flannel.1 nud permanent\n\
         bridge fdb append 0e:00:00:00:00:09 dev flannel.1 dst 192.168.77.1 self permanent\n\
         ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
    );
    let tunnel = finding(ground.node(), "dead-vtep");
    assert!(tunnel["objects"][0].as_str().unwrap().contains("its node answers, the tunnel does not"), "{tunnel:#}");
    for (break_it, said) in [
        (
            "bridge fdb del 0e:00:00:00:00:09 dev flannel.1 dst 192.168.77.1 self",
            "no forwarding entry for 0e:00:00:00:00:09",
        ),
        ("ip neigh del 10.244.9.0 dev flannel.1", "no permanent neighbour entry"),
        (
            "ip link set flannel.1 type vxlan local 192.168.77.1 2>/dev/null; ip link set flannel-v6.1 down",
            "flannel-v6.1 is down",
        ),
    ] {
        ground.build(break_it);
        assert!(finding(ground.node(), "dead-vtep")["objects"].to_string().contains(said), "{said}");
    }
}

#[test]
fn a_configuration_that_new_pods_do_not_start_with() {
    let ground = ground("files; mkdir -p /etc/cni/net.d");
    let running = [ground.process("kubelet", &[]), ground.process("calico-node", &[])];
    assert!(ids(ground.node()).is_empty());
    // flannel's, which sorts before Calico's.
    ground
        .build("echo '{\"name\":\"cbr0\",\"plugins\":[{\"type\":\"flannel\"}]}' > /etc/cni/net.d/05-flannel.conflist");
    let stale = mended(ground.node(), "stale-conflist");
    assert!(stale["evidence"].as_str().unwrap().contains("no /run/flannel/subnet.env"), "{stale:#}");
    for broken in ["{", "{\"name\":\"x\",\"plugins\":[{\"type\":\"flannel-migration-in-progress\"}]}"] {
        ground.build(&format!("echo '{broken}' > /etc/cni/net.d/01-broken.conflist"));
        mended(ground.node(), "stale-conflist");
    }
    // The command is there to be copied, whatever the file is called; runtimes pass over folders.
    ground.build(
        "mkdir -p /etc/cni/net.d/00-folder.conflist; echo '[1]' > \"/etc/cni/net.d/02 odd \\$(id) 'name'.conf\"",
    );
    let odd = mended(ground.node(), "stale-conflist");
    assert!(odd["what"].as_str().unwrap().ends_with("names no plugin"), "{odd:#}");
    ground.build("mv /opt/cni/bin/portmap /tmp/");
    assert_eq!(finding(ground.node(), "plugin-missing")["objects"], serde_json::json!(["portmap"]));
    ground.build("mv /tmp/portmap /opt/cni/bin/");
    drop(running);
    let kubelet = ground.process("kubelet", &[]);
    let missing = finding(ground.node(), "agent-missing");
    assert!(missing["command"].as_str().unwrap().contains("spec.nodeName="), "not the whole cluster's: {missing:#}");
    // Where nobody makes pods, a configuration is a leftover, and nothing is missing.
    drop(kubelet);
    ground.node().stop_unit("containerd.service").unwrap();
    ground.build("rm /opt/cni/bin/portmap");
    assert_eq!(ids(ground.node()), ["calico-left"]);
}

#[test]
fn pods_that_are_gone_leave_leases_devices_and_port_mappings() {
    let ground = ground("subnet_env; pod 1");
    let _flanneld = ground.process("flanneld", &[]);
    // The runtime knows of no such pod; but it may be just being made.
    assert!(ids(ground.node()).is_empty());
    ground.build("find /var/lib/cni -type f -exec touch -d '1 hour ago' {} +; : > /var/lib/cni/networks/cbr0/10.244.1.99; touch -d '1 hour ago' /var/lib/cni/networks/cbr0/10.244.1.99");
    // podman keeps its own leases there, of containers that this runtime has never known.
    ground.build("printf 'ffff\\r\\neth0' | install -D /dev/stdin /var/lib/cni/networks/podman/10.88.0.5; touch -d '1 hour ago' /var/lib/cni/networks/podman/10.88.0.5");
    assert_eq!(ids(ground.node()), ["leaked-leases", "leaked-veths", "dead-hostports"]);
    mended(ground.node(), "dead-hostports");
    mended(ground.node(), "leaked-veths");
    let leases = mended(ground.node(), "leaked-leases");
    assert_eq!(leases["objects"].as_array().unwrap().len(), 2, "{leases:#}");
    assert!(ids(ground.node()).is_empty());
    // Where the runtime does not answer, nobody is taken for dead.
    ground.build(&format!("{FLANNEL_PARTS}\npod 2; find /var/lib/cni -type f -exec touch -d '1 hour ago' {{}} +"));
    ground.node().stop_unit("containerd.service").unwrap();
    let said = doctor(ground.node());
    assert!(!said.to_string().contains("leaked"), "{said:#}");
    assert_eq!(said["silent"], serde_json::json!(["cluster", "runtime"]));
}

#[test]
fn a_cleanup_that_was_killed_is_told_and_ended_by_its_command() {
    let ground = ground("subnet_env; chains iptables-nft $NET $POD 224.0.0.0/4; vxlan 1 8472");
    for place in ["iptables.restore", "files.rename"] {
        let cleanup = format!("NODECTL_FAULT={place} nodectl cleanup --flannel --yes");
        let killed = ground.node().exec(&["sh", "-c", &cleanup]).unwrap();
        assert_eq!(killed.code, 137, "{place}: {killed:?}");
        let told = mended(ground.node(), "cleanup-unfinished");
        assert_eq!(told["objects"], serde_json::json!(["cleanup of flannel"]), "{place}: {told:#}");
        assert!(ids(ground.node()).is_empty());
        ground.build(&format!("{FLANNEL_PARTS}\nsubnet_env; chains iptables-nft $NET $POD 224.0.0.0/4; vxlan 1 8472"));
    }
}

#[test]
fn a_switch_that_was_killed_and_a_lost_state_are_told_and_mended() {
    let pods = [workloads::daemon("probe")];
    let s = Scenario::start(1, &pods, |_| {}).unwrap();
    s.prepare().unwrap();
    let node = s.node(1).unwrap();
    // In the hold, where new pods wait.
    let killed = s.migrate_with(1, Cni::Calico, &[("NODECTL_FAULT", "shim.state:3")]).unwrap();
    assert_eq!(killed.code, 137, "{}", killed.all());
    let told = finding(node, "open-run");
    assert_eq!(told["command"], "nodectl resume, or nodectl revert");
    s.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    assert!(ids(node).is_empty());
    // Without its state the shim would give new pods the CNI of before the switch.
    for loss in ["rm", "truncate -s 9"] {
        node.sh(&format!("{loss} /var/lib/cni-shim/state.json /var/lib/cni-shim/state.json.prev")).unwrap();
        let status = s.nodectl(1, &["shim", "status"]).unwrap();
        assert_eq!(status.code, 5, "{loss}: {}", status.all());
        let again = s.nodectl(1, &["migrate", "--to", "calico", "--yes"]).unwrap();
        assert_eq!(again.code, 3, "{loss}: a switch to where the node is said that all is well: {}", again.all());
        mended(node, "shim-state-missing");
        assert!(ids(node).is_empty());
        let status = s.nodectl(1, &["shim", "status", "--output", "json"]).unwrap().expect(0).unwrap();
        assert_eq!(status.json().unwrap()["shim"]["state"]["mode"], "calico");
    }
}

#[test]
fn blocks_without_a_pod_beside_others() {
    let ground = ground(
        "files; sets; for n in 0 64; do ip route add blackhole 10.244.1.$n/26 proto 80; done\n\
         ip link add cali0123456789a type veth peer name peer0; ip link set cali0123456789a up; ip route add 10.244.1.7/32 dev cali0123456789a",
    );
    let _node = ground.process("calico-node", &[]);
    let blocks = finding(ground.node(), "empty-blocks");
    assert_eq!((&blocks["objects"], &blocks["severity"]), (&serde_json::json!(["10.244.1.64/26"]), &"notice".into()));
}

#[test]
fn what_names_a_device_that_has_gone_is_told() {
    let ground = Ground::with(
        "mkdir -p /etc/firewalld/zones /etc/NetworkManager/conf.d /etc/systemd/network /etc/ufw\n\
         echo '<zone><interface name=\"cni0\"/></zone>' > /etc/firewalld/zones/trusted.xml\n\
         echo '-A ufw-user-forward -i flannel.1 -j ACCEPT' > /etc/ufw/user.rules\n\
         printf '[keyfile]\\nunmanaged-devices=interface-name:eth7;interface-name:cali*\\n' > /etc/NetworkManager/conf.d/mixed.conf\n\
         printf '[Match]\\nName=vxlan.calico\\n' > /etc/systemd/network/10-calico.network\n\
         iptables-nft -A INPUT -i cni0 -j ACCEPT",
    );
    let told = finding(ground.node(), "names-gone-device");
    for place in [
        "zones/trusted.xml:1 names cni0",
        "ufw/user.rules:1 names flannel.1",
        "mixed.conf:2 names cali*",
        "10-calico.network:2 names vxlan.calico",
        "iptables-nft -A INPUT -i cni0",
    ] {
        assert!(told["objects"].to_string().contains(place), "{place} is not in {told:#}");
    }
    ground.must_be_as_others_left_it();
}

#[test]
fn monitoring_gets_its_formats() {
    let ground = ground("");
    let say = |args: &[&str]| {
        let mut argv = vec!["nodectl", "doctor"];
        argv.extend(args);
        ground.node().exec(&argv).unwrap()
    };
    let clean = say(&["--nagios"]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, "NODECTL OK - no findings | critical=0 warning=0 notice=0\n"));
    assert_eq!(say(&[]).stdout.lines().next(), Some("Nothing is wrong here, as far as can be seen."));
    ground.build(&format!("{FLANNEL_PARTS}\nmkdir -p /run/flannel; echo key > /run/flannel/wgkey"));
    let warning = say(&["--nagios"]);
    assert!(warning.code == 1 && warning.stdout.starts_with("NODECTL WARNING - flannel-left |"), "{warning:?}");
    ground.build(&format!("{FLANNEL_PARTS}\nchains iptables-nft $NET $POD 224.0.0.0/4"));
    let critical = say(&["--nagios"]);
    assert!(critical.code == 2 && critical.stdout.starts_with("NODECTL CRITICAL - masquerade-left, "), "{critical:?}");
    let metrics = say(&["--prometheus"]);
    assert_eq!(metrics.code, 2);
    for line in [
        "# TYPE nodectl_doctor_objects gauge",
        "nodectl_doctor_objects{check=\"masquerade-left\",severity=\"critical\"} 2",
        "nodectl_doctor_objects{check=\"dead-vtep\",severity=\"critical\"} 0",
        "nodectl_doctor_findings{severity=\"critical\"} 1",
    ] {
        assert!(metrics.stdout.lines().any(|l| l == line), "{line} is not in {}", metrics.stdout);
    }
    let text = say(&[]);
    assert!(text.code == 2 && text.stdout.contains("to mend it  nodectl cleanup --flannel\n"), "{text:?}");
    assert_eq!(say(&["--nagios", "--prometheus"]).code, 64);
    // A check needs root to see anything.
    let other = ground.node().exec(&["setpriv", "--reuid", "65534", "nodectl", "doctor", "--nagios"]).unwrap();
    assert!(other.code != 0 && other.stdout.contains("sudo nodectl doctor"), "{other:?}");
}

#[test]
fn a_node_that_works_has_no_findings_before_and_after_a_switch() {
    let scenario =
        Scenario::start(2, &[workloads::daemon("probe"), workloads::host_port("front", 8080)], |_| {}).unwrap();
    let clean = |index: usize| {
        let said = doctor(scenario.node(index).unwrap());
        assert_eq!((&said["findings"], &said["silent"]), (&serde_json::json!([]), &serde_json::json!([])), "{said:#}");
    };
    clean(1);
    scenario.prepare().unwrap();
    scenario.migrate(1, Cni::Calico).unwrap();
    clean(1);
    clean(2);
}
