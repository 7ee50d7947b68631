//! The folders of CNI files: whether nodectl can write them, and whether its units can.

use std::path::Path;

use super::Check;
use crate::facts::Facts;

/// The units that change a node's CNI.
const UNITS_OF_RUNS: [&str; 3] = ["cni-migrate", "nodectl-settle", "nodectl-deadman"];
/// What they cannot write (ProtectSystem=yes, ProtectHome=yes), and in it what they can (ReadWritePaths=).
const CLOSED: [&str; 5] = ["/usr", "/boot", "/efi", "/home", "/root"];
const OPENED: [&str; 4] = ["/usr/lib/cni", "/usr/libexec/cni", "/usr/libexec/kubernetes", "/usr/local"];

/// The folders that a run writes to.
pub(super) fn directories(facts: &Facts) -> Check {
    let bad: Vec<String> = facts.machine.unwritable.iter().map(|(dir, why)| format!("{dir}: {why}")).collect();
    let (conf, bin) = (&facts.files.conf_dir, &facts.files.bin_dir);
    let closed: Vec<&str> = [conf.as_str(), bin].into_iter().filter(|dir| is_closed_to_units(dir)).collect();
    let drop_in = || {
        let units = UNITS_OF_RUNS.join(", ");
        format!("a drop-in with ReadWritePaths={} for {units}", closed.join(" "))
    };
    if !bad.is_empty() {
        let mut fix = "remount or unlock the directory (read-only /opt, immutable flag)".to_owned();
        if !closed.is_empty() {
            fix += &format!("; where nodectl is run by systemd: {}", drop_in());
        }
        return Check::fail("cni-directories", bad.join(", "), fix);
    }
    if !closed.is_empty() {
        let dirs = closed.join(" and ");
        let what =
            format!("nodectl's units may not be able to write {dirs}, so a reboot in mid-run may not be settled");
        return Check::warn("cni-directories", what, drop_in());
    }
    Check::pass("cni-directories", format!("{conf} and {bin} can be written"))
}

/// Whether the units as packaged cannot write there.
fn is_closed_to_units(dir: &str) -> bool {
    let within = |all: &[&str]| all.iter().any(|parent| Path::new(dir).starts_with(parent));
    within(&CLOSED) && !within(&OPENED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn folders_that_the_units_cannot_write_are_named() {
        let check = |conf: &str, bin: &str| {
            let mut facts = Facts::default();
            (facts.files.conf_dir, facts.files.bin_dir) = (conf.into(), bin.into());
            directories(&facts)
        };
        assert_eq!(check("/etc/kubernetes/cni/net.d", "/usr/local/lib/cni").verdict, Verdict::Pass);
        let warned = check("/etc/cni/net.d", "/usr/share/cni");
        assert_eq!(warned.verdict, Verdict::Warn);
        assert!(warned.fix.contains("ReadWritePaths=/usr/share/cni for cni-migrate"));
    }

    #[test]
    fn the_units_write_where_preflight_says() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");
        for unit in UNITS_OF_RUNS {
            let text = std::fs::read_to_string(format!("{folder}/{unit}.service")).unwrap();
            let opened: Vec<String> = OPENED.iter().map(|dir| format!("-{dir}")).collect();
            for line in
                [format!("ReadWritePaths={}", opened.join(" ")), "ProtectSystem=yes".into(), "ProtectHome=yes".into()]
            {
                assert!(text.lines().any(|l| l == line), "{unit}: {line}");
            }
        }
    }
}
