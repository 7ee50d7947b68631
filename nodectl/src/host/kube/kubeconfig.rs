//! Where kubeconfigs are: kubelet's own on a node, an administrator's elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::host::{Host, process};

/// Where kubelet's kubeconfig is, by distribution: kubeadm, EKS and others, k3s, RKE2, microk8s, k0s.
const OF_KUBELET: [&str; 7] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "/var/snap/microk8s/current/credentials/kubelet.config",
    "/var/lib/k0s/kubelet.conf",
    "/etc/kubernetes/kubeconfig-kubelet",
];

/// Where an administrator's is, after `KUBECONFIG` and the home directory.
const OF_ADMIN: [&str; 4] = [
    "/etc/kubernetes/admin.conf",
    "/etc/rancher/k3s/k3s.yaml",
    "/etc/rancher/rke2/rke2.yaml",
    "/var/snap/microk8s/current/credentials/client.config",
];

/// Finds kubelet's kubeconfig: the one that the configuration names, else the one that a running kubelet was given, else the first that exists where distributions keep it.
pub(super) fn of_kubelet(host: &Host) -> Result<PathBuf> {
    if let Some(named) = &host.overrides().kubeconfig {
        let path = host.path(named);
        ensure!(
            path.exists(),
            "kubelet's kubeconfig {} is not there. To fix it: correct kubeconfig in the configuration",
            path.display()
        );
        return Ok(path);
    }
    let running = process::scan()?.into_iter().filter(|p| p.name == "kubelet");
    let given = running.filter_map(|p| option(&p.args, "--kubeconfig")).map(PathBuf::from);
    let known = OF_KUBELET.iter().map(PathBuf::from);
    let found = given.chain(known).map(|path| host.path(path)).find(|path| path.exists());
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "kubelet's kubeconfig was not found: no running kubelet names one, and none is at {}. To fix it: name it in the configuration (kubeconfig)",
            OF_KUBELET.join(", ")
        )
    })
}

/// Finds an administrator's kubeconfig as kubectl does, and then where distributions keep it.
pub(super) fn of_admin(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> = std::env::split_paths(&listed).filter(|p| !p.as_os_str().is_empty()).collect();
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let mut candidates = listed.clone();
    if listed.is_empty() {
        candidates.extend(home);
        candidates.extend(OF_ADMIN.iter().map(PathBuf::from));
    }
    if let Some(found) = candidates.iter().find(|path| path.exists()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = candidates.iter().map(|p| p.display().to_string()).collect();
    bail!("no kubeconfig was found (looked at {}). To fix it: name one with --kubeconfig", looked.join(", "))
}

/// The value of an option given as `--name=value` or `--name value`.
pub(crate) fn option(args: &[String], name: &str) -> Option<String> {
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if let Some(value) = arg.strip_prefix(name).and_then(|a| a.strip_prefix('=')) {
            return Some(value.to_owned());
        }
        if arg == name {
            return rest.next().cloned();
        }
    }
    None
}
