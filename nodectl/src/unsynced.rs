//! What flannel's plugins write for each pod and do not bring to the disk: a power cut leaves files with a name and nothing in them.
//! An empty note of flannel's keeps its plugin from ever deleting that sandbox ("failed to parse netconf"; a missing one is a
//! success), an empty lease of host-local's its address from ever being free.

use std::fs::{self, File};

use anyhow::Result;

use crate::host::{Host, files};

const NOTES: &str = "/var/lib/cni/flannel";
const LEASES: &str = "/var/lib/cni/networks";

/// Removes those that are empty; returns their paths. For right after boot, when no pod needs them.
pub fn remove_empty(host: &Host) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for path in notes_and_leases(host)? {
        if fs::symlink_metadata(host.path(&path)).is_ok_and(|found| found.is_file() && found.len() == 0) {
            files::remove(&host.path(&path))?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Brings them to the disk: a run has its pods built anew, and nobody removes what a power cut leaves of them once it is closed.
pub fn bring_to_disk(host: &Host) -> Result<()> {
    for path in notes_and_leases(host)? {
        // A pod goes with its files at any time.
        if let Ok(file) = File::open(host.path(&path)) {
            file.sync_all()?;
        }
    }
    Ok(())
}

fn notes_and_leases(host: &Host) -> Result<Vec<String>> {
    let mut found = names_in(host, NOTES)?;
    for network in names_in(host, LEASES)? {
        // Others, as `lock`, are empty at all times.
        let is_address =
            |path: &String| path.rsplit('/').next().is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok());
        found.extend(names_in(host, &network)?.into_iter().filter(is_address));
    }
    Ok(found)
}

fn names_in(host: &Host, folder: &str) -> Result<Vec<String>> {
    let path = host.path(folder);
    let names = if path.is_dir() { files::list(&path)? } else { Vec::new() };
    Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_and_a_note_or_a_lease_goes() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let host = Host::new(root.path());
        assert_eq!(remove_empty(&host).unwrap(), [""; 0]);
        write("var/lib/cni/flannel/torn", "");
        write("var/lib/cni/flannel/whole", "{}");
        write("var/lib/cni/networks/cbr0/10.244.1.4", "");
        write("var/lib/cni/networks/cbr0/10.244.1.5", "abc\r\neth0");
        write("var/lib/cni/networks/cbr0/lock", "");
        write("var/lib/cni/networks/cbr0/last_reserved_ip.0", "");
        let gone = ["/var/lib/cni/flannel/torn", "/var/lib/cni/networks/cbr0/10.244.1.4"];
        assert_eq!(remove_empty(&host).unwrap(), gone);
        assert_eq!(remove_empty(&host).unwrap(), [""; 0]);
        assert!(root.path().join("var/lib/cni/networks/cbr0/lock").exists());
        let left = ["/var/lib/cni/flannel/whole", "/var/lib/cni/networks/cbr0/10.244.1.5"];
        assert_eq!(notes_and_leases(&host).unwrap(), left);
        bring_to_disk(&host).unwrap();
    }
}
