//! What a power cut leaves of flannel's writing: files with a name and nothing in them, since neither plugin brings them to the disk.
//! An empty note of flannel's keeps its plugin from ever deleting that sandbox ("failed to parse netconf"; a missing one is a
//! success), an empty lease of host-local's its address from ever being free. Right after boot no pod needs either.

use anyhow::Result;

use crate::host::{Host, files};

const NOTES: &str = "/var/lib/cni/flannel";
const LEASES: &str = "/var/lib/cni/networks";

/// Removes them; returns their paths.
pub fn remove_empty(host: &Host) -> Result<Vec<String>> {
    let mut removed = empty_in(host, NOTES, |_| true)?;
    for network in files::list(&host.path(LEASES)).unwrap_or_default() {
        // `lock` is empty at all times.
        let is_address = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
        removed.extend(empty_in(host, &format!("{LEASES}/{network}"), is_address)?);
    }
    for path in &removed {
        files::remove(&host.path(path))?;
    }
    Ok(removed)
}

fn empty_in(host: &Host, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let path = host.path(folder);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let is_empty = |name: &String| {
        std::fs::symlink_metadata(path.join(name)).is_ok_and(|found| found.is_file() && found.len() == 0)
    };
    let names = files::list(&path)?.into_iter().filter(|name| wanted(name)).filter(is_empty);
    Ok(names.map(|name| format!("{folder}/{name}")).collect())
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
    }
}
