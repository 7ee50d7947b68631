//! What restricts programs and devices on a machine, and who else is at work there: mounts, labels, locks, services and their files
//! are real on the node, the services themselves sleep.

use anyhow::Result;
use nodectl_lab::node::Node;
use nodectl_lab::scenario::Scenario;

use super::provoke::{fails, look, passes, provoke, start, warns};

/// Starts a service of this name that does nothing, after these files were written: (path, text).
fn service(node: &dyn Node, name: &str, files: &[(&str, &str)]) -> Result<()> {
    for (path, text) in files {
        node.exec_with_input(&["sh", "-ec", &format!("mkdir -p $(dirname {path}); cat > {path}")], text)?;
    }
    let unit = "[Service]\nExecStart=/bin/sleep 1000000\n";
    node.exec_with_input(&["sh", "-ec", &format!("cat > /etc/systemd/system/{name}.service")], unit)?;
    node.start_unit(&format!("{name}.service"))
}

/// Stops it again, and removes these files.
fn without(scenario: &Scenario, name: &str, files: &str) -> Result<()> {
    let node = scenario.node(1)?;
    node.stop_unit(&format!("{name}.service"))?;
    node.sh(&format!("rm -rf /etc/systemd/system/{name}.service {files}")).map(drop)
}

#[test]
fn what_keeps_programs_from_running_is_named() {
    let scenario = start().unwrap();
    let node = scenario.node(1).unwrap();
    let sh = |script: &'static str| move |s: &Scenario| s.node(1)?.sh(script).map(drop);
    let noexec = "mount --bind /opt/cni/bin /opt/cni/bin; mount -o remount,bind,noexec /opt/cni/bin";
    provoke(&scenario, &fails("noexec", "/opt/cni/bin is mounted noexec"), sh(noexec), sh("umount /opt/cni/bin"))
        .unwrap();
    let fapolicyd = |s: &Scenario| {
        service(s.node(1)?, "fapolicyd", &[("/etc/fapolicyd/rules.d/90-deny.rules", "deny perm=any all : all\n")])
    };
    let trusted = |s: &Scenario| {
        s.node(1)?.sh("echo 'allow perm=any all : dir=/opt/cni/bin/' > /etc/fapolicyd/rules.d/30-cni.rules")?;
        look(s, &passes("fapolicyd", "lets programs in /opt/cni/bin run"), &[])?;
        without(s, "fapolicyd", "/etc/fapolicyd")
    };
    provoke(&scenario, &fails("fapolicyd", "does not know /opt/cni/bin/cni-shim"), fapolicyd, trusted).unwrap();
    // The labels are real ones; that a kernel enforces them is said by a file where selinuxfs would be.
    node.sh("mount -t tmpfs fs /sys/fs; mkdir /sys/fs/selinux; echo 1 > /sys/fs/selinux/enforce").unwrap();
    let label = |kind: &str, path: &str| {
        let set = format!("import os; os.setxattr('{path}', 'security.selinux', b'system_u:object_r:{kind}:s0')");
        node.must(&["/usr/bin/python3", "-c", &set]).map(drop)
    };
    let odd = |_: &Scenario| label("usr_t", "/opt/cni/bin").and_then(|()| label("bin_t", "/opt/cni/bin/portmap"));
    let mended = |s: &Scenario| {
        label("bin_t", "/opt/cni/bin")?;
        look(s, &passes("selinux", "new plugins get the type bin_t"), &[])?;
        s.node(1)?.sh("umount /sys/fs").map(drop)
    };
    provoke(&scenario, &warns("selinux", "has the type bin_t, its folder usr_t"), odd, mended).unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
}

#[test]
fn who_else_works_on_the_node_is_named() {
    let scenario = start().unwrap();
    let manager = |s: &Scenario| {
        service(
            s.node(1)?,
            "NetworkManager",
            &[("/etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\n")],
        )
    };
    let told = |s: &Scenario| {
        let quiet = "[keyfile]\\nunmanaged-devices=interface-name:cali*;interface-name:vxlan.calico\\n";
        s.node(1)?.sh(&format!(
            "mkdir -p /etc/NetworkManager/conf.d; printf '{quiet}' > /etc/NetworkManager/conf.d/calico.conf"
        ))?;
        look(s, &passes("networkmanager", "leaves Calico's devices alone"), &[])?;
        without(s, "NetworkManager", "/etc/NetworkManager")
    };
    provoke(&scenario, &warns("networkmanager", "leave Calico's devices"), manager, told).unwrap();
    let claims = [("/etc/systemd/network/90-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n")];
    let networkd = |s: &Scenario| service(s.node(1)?, "systemd-networkd", &claims);
    let gone = |s: &Scenario| {
        s.node(1)?.sh("rm /etc/systemd/network/90-all.network")?;
        look(s, &warns("networkd", "when it is started anew"), &[])?;
        without(s, "systemd-networkd", "")
    };
    provoke(&scenario, &fails("networkd", "90-all.network"), networkd, gone).unwrap();
    let lock = "fcntl.lockf(held, fcntl.LOCK_EX)";
    let holds =
        format!("import fcntl, time; held = open('/var/lib/dpkg/lock-frontend', 'w'); {lock}; time.sleep(1000)");
    scenario.node(1).unwrap().sh("mkdir -p /var/lib/dpkg; cp /bin/sleep /opt/kubeadm").unwrap();
    for (argv, cause) in [
        (vec!["/opt/kubeadm", "1000"], "kubeadm (pid "),
        (vec!["/usr/bin/python3", "-c", &holds], "holds /var/lib/dpkg/lock-frontend"),
    ] {
        let at_work = scenario.node(1).unwrap().spawn(&argv).unwrap();
        let ends = |_: &Scenario| {
            drop(at_work);
            Ok(())
        };
        provoke(&scenario, &fails("other-tools", cause), |_| Ok(()), ends).unwrap();
    }
    scenario.nodectl(1, &["preflight"]).unwrap().expect(0).unwrap();
}
