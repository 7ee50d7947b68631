//! Faults of the machine itself: files in the way, no room, read-only directories, a dead runtime, another agent.

use anyhow::Result;
use nodectl_lab::scenario::{Cni, Scenario};

use super::provoke::{fails, provoke, start, warns};

/// Runs a script on the node.
fn sh(script: &'static str) -> impl FnOnce(&Scenario) -> Result<()> {
    move |scenario: &Scenario| scenario.node(1)?.sh(script).map(drop)
}

#[test]
fn configurations_in_the_way_are_named() {
    let scenario = start().unwrap();
    let multus = r#"echo '{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus-shim"}' > /etc/cni/net.d/00-multus.conf"#;
    for expected in [fails("scope", "Multus"), fails("conflist-order", "00-multus.conf")] {
        provoke(&scenario, &expected, sh(multus), sh("rm /etc/cni/net.d/00-multus.conf")).unwrap();
    }
    let first = r#"cp /etc/cni/net.d/10-flannel.conflist /etc/cni/net.d/00-a.conflist"#;
    provoke(&scenario, &fails("conflist-order", "sorts before"), sh(first), sh("rm /etc/cni/net.d/00-a.conflist"))
        .unwrap();
    let canal = r#"sed 's/"hairpinMode"/"type": "calico", "hairpinMode"/' /etc/cni/net.d/10-flannel.conflist > /etc/cni/net.d/10-canal.conflist"#;
    provoke(&scenario, &fails("scope", "Canal"), sh(canal), sh("rm /etc/cni/net.d/10-canal.conflist")).unwrap();
    let chained = "cp -p /etc/cni/net.d/10-flannel.conflist /run/kept; \
        jq '.plugins += [{\"type\":\"cilium-cni\"}]' /run/kept > /etc/cni/net.d/10-flannel.conflist";
    provoke(
        &scenario,
        &fails("scope", "cilium-cni"),
        sh(chained),
        sh("cp -p /run/kept /etc/cni/net.d/10-flannel.conflist"),
    )
    .unwrap();
    // A leftover that names the CNI that is wanted: the node is not on it for that.
    let stray = r#"echo '{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[{"type":"calico"}]}' > /etc/cni/net.d/10-calico.conflist"#;
    let refused = |s: &Scenario| {
        let done = s.nodectl(1, &["migrate", "--yes"])?.expect(3)?;
        let said = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        anyhow::ensure!(said.contains("flanneld runs") && !said.contains("Nothing to do"), "{}", done.all());
        s.node(1)?.sh("rm /etc/cni/net.d/10-calico.conflist").map(drop)
    };
    provoke(&scenario, &fails("cni", "calico-node does not run"), sh(stray), refused).unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
}

#[test]
fn faults_of_the_machine_are_named() {
    let scenario = start().unwrap();
    let full = "mkdir -p /var/lib/nodectl; mount -t tmpfs -o size=8m small /var/lib/nodectl";
    provoke(&scenario, &fails("disk-space", "/var/lib/nodectl has "), sh(full), sh("umount /var/lib/nodectl")).unwrap();
    let locked = "mount --bind /opt/cni/bin /opt/cni/bin; mount -o remount,bind,ro /opt/cni/bin";
    provoke(&scenario, &fails("cni-directories", "/opt/cni/bin"), sh(locked), sh("umount /opt/cni/bin")).unwrap();
    let chains = "iptables-nft -N cali-FORWARD; iptables-nft -A FORWARD -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD";
    let none = "iptables-nft -D FORWARD -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD; iptables-nft -X cali-FORWARD";
    provoke(&scenario, &fails("leftovers", "cali-FORWARD"), sh(chains), sh(none)).unwrap();
    let blackhole = "ip route add blackhole 10.244.1.0/26 proto 80";
    provoke(
        &scenario,
        &fails("leftovers", "route blackhole 10.244.1.0/26"),
        sh(blackhole),
        sh("ip route del blackhole 10.244.1.0/26 proto 80"),
    )
    .unwrap();
    let loose = "sysctl -qw net.ipv4.conf.all.rp_filter=2";
    let strict = "sysctl -qw net.ipv4.conf.all.rp_filter=0";
    provoke(&scenario, &warns("rp-filter", "rp_filter is 2"), sh(loose), sh(strict)).unwrap();
    let kill = |s: &Scenario| s.node(1)?.stop_unit("containerd.service");
    let start = |s: &Scenario| {
        s.node(1)?.start_unit("containerd.service")?;
        s.node(1)?.restart_unit("kubelet.service")?;
        s.cluster.wait_nodes_ready(nodectl_lab::scenario::PATIENCE)
    };
    provoke(&scenario, &fails("runtime", "does not answer"), kill, start).unwrap();
    both_agents(&scenario).unwrap();
    scenario.settled().unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
    open_run(&scenario).unwrap();
}

fn both_agents(scenario: &Scenario) -> Result<()> {
    scenario.node(1)?.sh("cp /bin/sleep /opt/calico-node")?;
    let other = scenario.node(1)?.spawn(&["/opt/calico-node", "300"])?;
    provoke(
        scenario,
        &fails("agents", "both run"),
        |_| Ok(()),
        |_| {
            drop(other);
            Ok(())
        },
    )
}

/// A run whose nodectl was killed.
fn open_run(scenario: &Scenario) -> Result<()> {
    let leave_open = |s: &Scenario| {
        let mut run = s.drive(1, &Scenario::switch_args("calico", &[]))?;
        run.until("step", "hold")?;
        run.kill().map(drop)
    };
    let back = |s: &Scenario| {
        s.nodectl(1, &["revert", "--yes"])?.expect(0)?;
        s.must_be_settled(1, Cni::Flannel)
    };
    provoke(scenario, &fails("open-run", "is open"), leave_open, back)
}
