//! The built package on a virtual machine that is a whole Debian node: its own kernel with modules, systemd and udev, containerd, a
//! disk. Installed, switched as a unit, upgraded before the switch is confirmed, taken back, cut off from its power in the middle of another
//! switch, removed. With the full counts only (see tests/run).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodectl_lab::cluster::until;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::objects::{self, workloads};
use nodectl_lab::package::{self, Packages};
use nodectl_lab::scenario::{Cni, Scenario, full};
use nodectl_lab::wait::patiently;

/// How long what the machine does by itself may take.
const LIMIT: Duration = Duration::from_secs(300);
/// What the operator writes; an emulated processor needs longer than the lab's others.
const CONFIG: &str = "to = 'calico'\nconfirm_timeout = '30m'\ndrain_timeout = 120\nagent_timeout = 120\n";

/// A node that is a machine and a light one, with flannel and pods.
fn start() -> Result<Scenario> {
    let scenario = Scenario::start(2, &[], |options| options.kinds = vec![Kind::FullMachine])?;
    objects::install(&scenario.client, &[workloads::daemon("stays")])?;
    patiently(|| scenario.settled())?;
    Ok(scenario)
}

/// It is what the container's test cannot say: a machine, with what a distribution's system has there.
fn must_be_a_machine(node: &dyn Node) -> Result<()> {
    let seen = node.sh(
        "uname -r; cat /proc/1/comm; systemctl is-active systemd-udevd containerd kubelet; stat -f -c %T /; grep -c '^vxlan ' /proc/modules",
    )?;
    let seen: Vec<&str> = seen.lines().collect();
    ensure!(
        seen[0].starts_with("6.1.") && seen[1..] == ["systemd", "active", "active", "active", "ext2/ext3", "1"],
        "{seen:?}"
    );
    Ok(())
}

/// The node is on this CNI, its run closed, and its pods are well.
fn must_be_on(scenario: &Scenario, cni: Cni) -> Result<()> {
    patiently(|| scenario.must_be_on(1, cni))?;
    patiently(|| scenario.settled())
}

/// What nodectl's units said, for a message.
fn told(node: &dyn Node) -> String {
    node.sh("journalctl -b -n 120 --no-pager -o cat -u cni-migrate -u 'nodectl-*' -u kubelet").unwrap_or_default()
}

/// A switch in whose middle the power is cut: the boot-time units end it, one way or the other.
fn ends_after_a_power_cut(scenario: &Scenario) -> Result<Cni> {
    let node = scenario.node(1)?;
    node.sh("sync; nodectl migrate --to calico --yes </dev/null >/root/migrate.log 2>&1 &")?;
    until(LIMIT, || {
        let begun = node.sh("cat /proc/sys/net/ipv4/conf/vxlan.calico/forwarding 2>/dev/null || true")?;
        Ok(begun.is_empty().then(|| "the overlay has not changed hands".to_owned()))
    })?;
    node.power_cut()?;
    node.start()?;
    until(LIMIT, || {
        let state = node.sh("systemctl is-enabled nodectl-settle.service || true")?;
        Ok((scenario.is_open(1)? || state.trim() != "disabled").then(|| format!("the run is open: {state}")))
    })?;
    scenario.comes_to_one_of_both(1, LIMIT)
}

#[test]
fn a_package_on_a_machine_is_installed_used_upgraded_and_removed() -> Result<()> {
    // A whole Debian on an emulated processor takes its time.
    if !full() {
        println!("passed over: with NODECTL_TESTS_FULL=1 alone");
        return Ok(());
    }
    let packages = Packages::under_test()?;
    let begun = Instant::now();
    let done = |what: &str| println!("{what}: {:.1} s", begun.elapsed().as_secs_f32());
    let scenario = start()?;
    let node = scenario.node(1)?;
    done("started");
    must_be_a_machine(node)?;
    package::bare(node)?;
    package::install_quietly(node, &packages.deb)?;
    done("installed");
    patiently(|| scenario.prepare())?;
    node.sh(&format!("cat >/etc/nodectl/config.toml <<'END'\n{CONFIG}END"))?;

    node.must(&["systemctl", "start", "cni-migrate"]).with_context(|| told(node))?;
    done("switched");
    let status = scenario.nodectl(1, &["status"])?.expect(5)?;
    ensure!(status.stdout.contains("done and unconfirmed"), "{}", status.all());
    // What was switched by one version is confirmed and taken back by the next.
    let folder = tempfile::tempdir()?;
    package::install(node, &package::later(&packages.deb, folder.path())?)?;
    ensure!(node.sh("systemctl is-active nodectl-deadman.timer; dpkg-query -W nodectl")?.contains("+later"));
    scenario.nodectl(1, &["confirm"])?.expect(0)?;
    must_be_on(&scenario, Cni::Calico)?;
    done("upgraded and confirmed");
    scenario.nodectl(1, &["revert", "--yes"])?.expect(0)?;
    must_be_on(&scenario, Cni::Flannel)?;
    done("reverted");

    let cni = ends_after_a_power_cut(&scenario).with_context(|| told(node))?;
    must_be_on(&scenario, cni)?;
    done(&format!("cut off, booted, on {}", cni.name()));
    package::must_refuse_to_go(node, "To fix it: nodectl shim retire")?;
    scenario.nodectl(1, &["shim", "retire", "--yes"])?.expect(0)?;
    package::remove_and_purge(node)?;
    patiently(|| scenario.settled())?;
    done("removed");
    Ok(())
}
