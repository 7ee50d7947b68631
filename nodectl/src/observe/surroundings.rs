//! Who else changes this machine right now, and what restricts programs and devices on it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::CniDirectories;
use crate::facts::{Process, Surroundings, Tool, Unit};
use crate::host::run::Run;
use crate::host::{Host, files, locks, machine, process};

/// Programs that change packages, and with them units, binaries and kernels. Those of containers change other things.
const PACKAGE_TOOLS: [&str; 14] = [
    "apt",
    "apt-get",
    "aptitude",
    "bootc",
    "dnf",
    "dnf5",
    "dpkg",
    "packagekitd",
    "rpm",
    "rpm-ostree",
    "transactional-update",
    "unattended-upgrade",
    "yum",
    "zypper",
];
/// Programs that change the cluster's software or its pod network, in a container or not.
const CLUSTER_TOOLS: [&str; 7] = [
    "calicoctl",
    "cilium",
    "flannel-migration-controller",
    "k3s-killall.sh",
    "k3s-uninstall.sh",
    "kubeadm",
    "migration-controller",
];
/// Locks that package managers hold while they change something, also from within other programs (Ansible's modules).
const LOCKS: [&str; 4] =
    ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock"];
/// Where NetworkManager, networkd and fapolicyd are told what to do: folders, the suffix of their files, and single files.
const NETWORK_MANAGER: [(&str, &str); 4] = [
    ("/etc/NetworkManager", "NetworkManager.conf"),
    ("/etc/NetworkManager/conf.d", ".conf"),
    ("/run/NetworkManager/conf.d", ".conf"),
    ("/usr/lib/NetworkManager/conf.d", ".conf"),
];
const NETWORKD: [(&str, &str); 7] = [
    ("/etc/systemd", "networkd.conf"),
    ("/etc/systemd/networkd.conf.d", ".conf"),
    ("/run/systemd/networkd.conf.d", ".conf"),
    ("/usr/lib/systemd/networkd.conf.d", ".conf"),
    ("/etc/systemd/network", ".network"),
    ("/run/systemd/network", ".network"),
    ("/usr/lib/systemd/network", ".network"),
];
const FAPOLICYD: [(&str, &str); 4] = [
    ("/etc/fapolicyd", "fapolicyd.rules"),
    ("/etc/fapolicyd", "fapolicyd.trust"),
    ("/etc/fapolicyd/rules.d", ".rules"),
    ("/etc/fapolicyd/trust.d", ""),
];

/// All of it. `units` are those that systemd knows.
pub(super) fn observe(host: &Host, dirs: &CniDirectories, units: &BTreeMap<String, Unit>) -> Result<Surroundings> {
    let runs = |name: &str| units.get(name).is_some_and(|unit| unit.active == "active");
    let told = |name: &str, places: &[(&str, &str)]| runs(name).then(|| texts(host, places));
    let noexec = machine::is_noexec(&host.path(&dirs.bin_dir))?;
    Ok(Surroundings {
        at_work: at_work(host)?,
        noexec: if noexec { vec![dirs.bin_dir.clone()] } else { Vec::new() },
        labels: labels(host, &dirs.bin_dir),
        fapolicyd: told("fapolicyd.service", &FAPOLICYD),
        network_manager: told("NetworkManager.service", &NETWORK_MANAGER),
        networkd: told("systemd-networkd.service", &NETWORKD),
    })
}

/// Programs at work, each once: by name, or by the lock that they hold.
fn at_work(host: &Host) -> Result<Vec<Tool>> {
    let here = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let machine = here(1);
    let mut tools: Vec<Tool> = Vec::new();
    for process in process::scan()? {
        let name = program(&process);
        let changes_packages = PACKAGE_TOOLS.contains(&name.as_str()) && here(process.pid) == machine;
        if changes_packages || CLUSTER_TOOLS.contains(&name.as_str()) {
            tools.push(Tool { name, pid: process.pid, lock: None });
        }
    }
    for lock in LOCKS {
        for pid in locks::holders(&host.path(lock))? {
            let name = process::read(pid).map_or_else(|| "a process".to_owned(), |process| program(&process));
            match tools.iter_mut().find(|tool| tool.pid == pid) {
                Some(tool) => tool.lock = Some(lock.to_owned()),
                None => tools.push(Tool { name, pid, lock: Some(lock.to_owned()) }),
            }
        }
    }
    Ok(tools)
}

/// The program's name; of a script, the script's and not its interpreter's.
fn program(process: &Process) -> String {
    let interprets = |name: &str| ["bash", "dash", "perl", "sh"].contains(&name) || name.contains("python");
    let script = process.args.get(1).filter(|arg| interprets(&process.name) && arg.starts_with('/'));
    let script = script.and_then(|path| Path::new(path).file_name());
    script.map_or_else(|| process.name.clone(), |name| name.to_string_lossy().into_owned())
}

/// The label of the plugin directory, and of a plugin in it, where SELinux enforces.
fn labels(host: &Host, bin_dir: &str) -> BTreeMap<String, String> {
    let enforces = files::read_found_text(Path::new("/sys/fs/selinux/enforce")).ok().flatten();
    if enforces.as_deref().map(str::trim) != Some("1") {
        return BTreeMap::new();
    }
    let folder = host.path(bin_dir);
    let plugin = ["portmap", "host-local", "bridge"].iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let label = |path: &Path| {
        let label = Run::new("stat").args(["-c".as_ref(), "%C".as_ref(), path.as_os_str()]).text().ok()?;
        Some((path.display().to_string(), label.trim().to_owned()))
    };
    std::iter::once(folder).chain(plugin).filter_map(|path| label(&path)).collect()
}

/// The files of these folders whose names end so, by path.
fn texts(host: &Host, places: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (folder, suffix) in places {
        let names = files::list(&host.path(folder)).unwrap_or_default();
        for name in names.iter().filter(|name| name.ends_with(suffix)) {
            let path = format!("{folder}/{name}");
            if let Ok(Some(text)) = files::read_found_text(&host.path(&path)) {
                texts.insert(path, text);
            }
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_goes_by_its_own_name() {
        let process = |words: &[&str]| Process {
            pid: 1,
            name: Path::new(words[0]).file_name().unwrap().to_string_lossy().into_owned(),
            args: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        assert_eq!(program(&process(&["/usr/bin/python3", "/usr/bin/dnf", "upgrade"])), "dnf");
        // EL 8's own.
        assert_eq!(program(&process(&["/usr/libexec/platform-python", "/usr/bin/dnf"])), "dnf");
        assert_eq!(program(&process(&["/usr/bin/python3", "-c", "/usr/bin/dnf"])), "python3");
        assert_eq!(program(&process(&["apt-get", "/usr/bin/x"])), "apt-get");
    }
}
