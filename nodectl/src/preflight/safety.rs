//! Checks of what surrounds the switch: the hour, the clock, who else is at work, and what restricts programs and devices.

use std::collections::BTreeMap;

use super::Check;
use crate::facts::{Facts, Surroundings};
use crate::request::Request;
use crate::window;

/// A clock that is so many seconds off is worth a word: journal, Events and deadlines say other times than the cluster.
const ODD_CLOCK_S: i64 = 30;
/// With one so far off, certificates and tokens are refused, and a deadline is another one than was meant.
const WRONG_CLOCK_S: i64 = 300;
/// Devices that Calico makes, as network managers would see them.
const DEVICES: [&str; 2] = ["cali0123456789a", "vxlan.calico"];

/// Those that concern this machine. Where there is nothing to check, there is no check.
pub(super) fn checks(facts: &Facts, request: &Request) -> Vec<Check> {
    let around = &facts.surroundings;
    let checks = [
        maintenance_window(facts, request),
        other_tools(around),
        clock(facts),
        noexec(around),
        selinux(around),
        fapolicyd(around, &facts.files.bin_dir),
        network_manager(around),
        networkd(around),
    ];
    checks.into_iter().flatten().collect()
}

fn maintenance_window(facts: &Facts, request: &Request) -> Option<Check> {
    const NAME: &str = "maintenance-window";
    let all: Vec<String> = request.windows.iter().map(ToString::to_string).collect();
    if all.is_empty() {
        return None;
    }
    Some(match window::ends(&request.windows, facts.observed_at) {
        Some(_) => Check::pass(NAME, "a maintenance window is open; what does not end in it is taken back"),
        None => Check::fail(
            NAME,
            format!("no maintenance window is open now; they are, in UTC: {}", all.join("; ")),
            "wait for one, or change maintenance_windows in /etc/nodectl/config.toml",
        ),
    })
}

/// Two who change one machine at the same time each undo what the other has seen.
fn other_tools(around: &Surroundings) -> Option<Check> {
    let tools: Vec<String> = around
        .at_work
        .iter()
        .map(|tool| match &tool.lock {
            Some(lock) => format!("{} (pid {}) holds {lock}", tool.name, tool.pid),
            None => format!("{} (pid {})", tool.name, tool.pid),
        })
        .collect();
    (!tools.is_empty()).then(|| {
        Check::fail(
            "other-tools",
            format!("another program changes this machine or its network right now: {}", tools.join(", ")),
            "wait until it has ended, then try again",
        )
    })
}

fn clock(facts: &Facts) -> Option<Check> {
    const NAME: &str = "clock";
    let ahead = facts.cluster.as_ref()?.clock_ahead_s?;
    let found = match ahead {
        0.. => format!("this node's clock is {ahead} s ahead of the API server's"),
        _ => format!("this node's clock is {} s behind the API server's", -ahead),
    };
    let fix = "set it, and see that time is synchronised (timedatectl, chronyc tracking)";
    Some(match ahead.abs() {
        0..ODD_CLOCK_S => Check::pass(NAME, "this node's clock and the API server's agree"),
        ODD_CLOCK_S..WRONG_CLOCK_S => Check::warn(NAME, found, fix),
        _ => Check::fail(NAME, found, fix),
    })
}

fn noexec(around: &Surroundings) -> Option<Check> {
    let folder = around.noexec.first()?;
    Some(Check::fail(
        "noexec",
        format!("{folder} is mounted noexec: the runtime could not run the shim from it"),
        format!("mount -o remount,exec the file system of {folder}, or have the runtime use another folder (bin_dir)"),
    ))
}

/// A new file takes the type of its folder: where plugins have another one, somebody has labelled them and not the folder.
fn selinux(around: &Surroundings) -> Option<Check> {
    const NAME: &str = "selinux";
    let kind = |label: &String| label.split(':').nth(2).unwrap_or_default().to_owned();
    let mut labels = around.labels.iter();
    let ((folder, of_folder), plugin) = (labels.next()?, labels.next());
    match plugin {
        Some((plugin, label)) if kind(label) != kind(of_folder) => Some(Check::warn(
            NAME,
            format!(
                "SELinux enforces, and {plugin} has the type {}, its folder {}: the runtime may not be allowed to run a new \
                 plugin there",
                kind(label),
                kind(of_folder)
            ),
            format!("semanage fcontext -a -t {} '{folder}(/.*)?' && restorecon -R {folder}", kind(label)),
        )),
        _ => Some(Check::pass(NAME, format!("SELinux enforces; new plugins get the type {}", kind(of_folder)))),
    }
}

/// fapolicyd lets nothing run that no package brought and nobody trusts by name.
fn fapolicyd(around: &Surroundings, bin_dir: &str) -> Option<Check> {
    const NAME: &str = "fapolicyd";
    let texts = around.fapolicyd.as_ref()?;
    let lines = || texts.values().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.starts_with('#'));
    let folder = format!("dir={}/", bin_dir.trim_end_matches('/'));
    let (by_rule, shim) =
        (|line: &str| line.starts_with("allow") && line.contains(&folder), format!("{bin_dir}/cni-shim "));
    if lines().any(|line| by_rule(line) || line.starts_with(&shim)) {
        return Some(Check::pass(NAME, format!("fapolicyd lets programs in {bin_dir} run")));
    }
    Some(Check::fail(
        NAME,
        format!("fapolicyd runs and does not know {bin_dir}/cni-shim: the runtime would not be allowed to run it"),
        format!(
            "echo 'allow perm=any all : {folder}' > /etc/fapolicyd/rules.d/30-cni.rules && fagenrules --load && systemctl restart fapolicyd"
        ),
    ))
}

fn network_manager(around: &Surroundings) -> Option<Check> {
    const NAME: &str = "networkmanager";
    let texts = around.network_manager.as_ref()?;
    let patterns: Vec<&str> = values(texts, "unmanaged-devices").flat_map(|value| value.split([';', ','])).collect();
    let left_alone = |device: &str| {
        let named = |pattern: &&str| pattern.trim().strip_prefix("interface-name:").is_some_and(|p| matches(p, device));
        patterns.iter().any(named)
    };
    let managed: Vec<&str> = DEVICES.into_iter().filter(|device| !left_alone(device)).collect();
    if managed.is_empty() {
        return Some(Check::pass(NAME, "NetworkManager leaves Calico's devices alone"));
    }
    Some(Check::warn(
        NAME,
        "NetworkManager runs and was not told to leave Calico's devices (cali*, vxlan.calico) alone: it may take their addresses and routes away",
        "printf '[keyfile]\\nunmanaged-devices=interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico;\
         interface-name:flannel*;interface-name:cni0\\n' > /etc/NetworkManager/conf.d/calico.conf && nmcli general reload",
    ))
}

/// networkd configures every device that a .network file matches, and when it starts anew drops routes that it has not made.
fn networkd(around: &Surroundings) -> Option<Check> {
    const NAME: &str = "networkd";
    let texts = around.networkd.as_ref()?;
    for (path, text) in texts.iter().filter(|(path, _)| path.ends_with(".network")) {
        if let Some(device) = DEVICES.into_iter().find(|device| claims(text, device)) {
            return Some(Check::fail(
                NAME,
                format!(
                    "{path} makes systemd-networkd configure {device}: it would take Calico's addresses and routes off it"
                ),
                format!(
                    "give its [Match] section the names of the machine's own devices, e.g. Name=en* eth* (now it matches {device} too)"
                ),
            ));
        }
    }
    let off = |key: &str| values(texts, key).last().is_some_and(|value| ["no", "false", "off", "0"].contains(&value));
    if off("ManageForeignRoutes") && off("ManageForeignRoutingPolicyRules") {
        return Some(Check::pass(NAME, "systemd-networkd leaves Calico's devices, routes and rules alone"));
    }
    Some(Check::warn(
        NAME,
        "systemd-networkd drops routes and rules that are not its own when it is started anew, Calico's and flannel's among them",
        "mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\\nManageForeignRoutes=no\\nManageForeignRoutingPolicyRules=no\\n' \
         > /etc/systemd/networkd.conf.d/calico.conf",
    ))
}

/// Whether the [Match] section of a .network file is for this device. One without Name= is not taken for one of everything:
/// it matches by driver, MAC or type.
fn claims(text: &str, device: &str) -> bool {
    let section = text.split("\n[").find(|part| part.trim_start_matches(['[', '\n']).starts_with("Match]"));
    let mut names = section.into_iter().flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("Name="));
    names.any(|value| {
        let patterns: Vec<&str> = value.split_whitespace().collect();
        match value.trim().strip_prefix('!') {
            Some(not) => !not.split_whitespace().any(|pattern| matches(pattern, device)),
            None => patterns.iter().any(|pattern| matches(pattern, device)),
        }
    })
}

/// The values of a key in files of `key=value` lines, in the order of their paths.
fn values<'a>(texts: &'a BTreeMap<String, String>, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = texts.values().flat_map(|text| text.lines());
    lines.filter_map(move |line| {
        line.trim().strip_prefix(key)?.trim_start_matches(['+', ' ']).strip_prefix('=').map(str::trim)
    })
}

/// A pattern of a shell, with `*` and `?`.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            matches(&pattern[1..], text) || text.chars().next().is_some_and(|c| matches(pattern, &text[c.len_utf8()..]))
        }
        (Some(p), Some(c)) if p == c || p == '?' => matches(&pattern[p.len_utf8()..], &text[c.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{ClusterView, Tool};
    use crate::preflight::Verdict;

    fn found(surroundings: Surroundings) -> Vec<(Verdict, String)> {
        let mut facts = Facts { surroundings, ..Facts::default() };
        facts.files.bin_dir = "/opt/cni/bin".into();
        let checks = checks(&facts, &Request::default());
        checks
            .into_iter()
            .map(|check| (check.verdict, format!("{}: {}. {}", check.name, check.found, check.fix)))
            .collect()
    }

    fn files(of: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        Some(of.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn a_switch_begins_in_its_window_alone() {
        let request = Request { windows: vec!["Sat 02:00-05:00".parse().unwrap()], ..Request::default() };
        let at = |time: &str| {
            let observed_at = time.parse::<jiff::Timestamp>().unwrap().as_second();
            checks(&Facts { observed_at, ..Facts::default() }, &request).remove(0)
        };
        assert_eq!(at("2026-11-21T03:00:00Z").verdict, Verdict::Pass);
        let closed = at("2026-11-21T05:00:00Z");
        assert!(closed.verdict == Verdict::Fail && closed.found.contains("Sat 02:00-05:00"), "{closed:?}");
        assert!(checks(&Facts::default(), &Request::default()).is_empty());
    }

    #[test]
    fn who_else_is_at_work_is_named_with_its_lock() {
        let tool = |name: &str, lock: Option<&str>| Tool { name: name.into(), pid: 7, lock: lock.map(str::to_owned) };
        let at_work = vec![tool("kubeadm", None), tool("python3", Some("/var/lib/dpkg/lock"))];
        let found = found(Surroundings { at_work, ..Surroundings::default() });
        assert!(found[0].0 == Verdict::Fail, "{found:?}");
        assert!(found[0].1.contains("kubeadm (pid 7), python3 (pid 7) holds /var/lib/dpkg/lock"), "{found:?}");
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much() {
        let check = |clock_ahead_s| {
            let cluster = Some(ClusterView { clock_ahead_s, ..ClusterView::default() });
            checks(&Facts { cluster, ..Facts::default() }, &Request::default()).pop()
        };
        assert_eq!(check(None), None);
        let verdict = |seconds| check(Some(seconds)).map(|check| check.verdict);
        assert_eq!(
            (verdict(-29), verdict(30), verdict(-300)),
            (Some(Verdict::Pass), Some(Verdict::Warn), Some(Verdict::Fail))
        );
        assert!(check(Some(-400)).unwrap().found.contains("400 s behind"));
    }

    #[test]
    fn what_keeps_the_shim_from_running_is_named() {
        let label = |kind: &str| format!("system_u:object_r:{kind}:s0");
        let labels = |plugin: &str| {
            BTreeMap::from([
                ("/opt/cni/bin".to_owned(), label("usr_t")),
                ("/opt/cni/bin/portmap".to_owned(), label(plugin)),
            ])
        };
        let noexec = vec!["/opt/cni/bin".to_owned()];
        let found_ =
            found(Surroundings { noexec, labels: labels("bin_t"), fapolicyd: files(&[]), ..Surroundings::default() });
        assert_eq!(
            found_.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(),
            [Verdict::Fail, Verdict::Warn, Verdict::Fail]
        );
        assert!(found_[1].1.contains("semanage fcontext -a -t bin_t '/opt/cni/bin(/.*)?'"), "{found_:?}");
        let trusted = [
            ("/etc/fapolicyd/rules.d/30-cni.rules", "# dir=/opt/cni/bin/\nallow perm=any all : dir=/opt/cni/bin/\n"),
            ("/etc/fapolicyd/fapolicyd.trust", "/opt/cni/bin/cni-shim 7 abc\n"),
        ];
        for one in trusted {
            let fine =
                found(Surroundings { labels: labels("usr_t"), fapolicyd: files(&[one]), ..Surroundings::default() });
            assert!(fine.iter().all(|(verdict, _)| *verdict == Verdict::Pass), "{fine:?}");
        }
    }

    #[test]
    fn managers_that_would_take_calicos_devices_are_named() {
        let nm = |text: &str| {
            found(Surroundings { network_manager: files(&[("/etc/x.conf", text)]), ..Surroundings::default() })
        };
        assert_eq!(nm("[keyfile]\nunmanaged-devices=interface-name:cali*\n")[0].0, Verdict::Warn);
        assert_eq!(nm("unmanaged-devices = interface-name:cali*;interface-name:vxlan.*")[0].0, Verdict::Pass);
        let networkd =
            |of: &[(&str, &str)]| found(Surroundings { networkd: files(of), ..Surroundings::default() }).remove(0);
        let quiet =
            ("/etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n");
        let claims = networkd(&[quiet, ("/etc/systemd/network/all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n")]);
        assert!(claims.0 == Verdict::Fail && claims.1.contains("all.network"), "{claims:?}");
        let own = ("/etc/systemd/network/en.network", "[Match]\nName=en* eth?\n[Network]\nDHCP=yes\n");
        assert_eq!(networkd(&[own]).0, Verdict::Warn);
        assert_eq!(networkd(&[own, quiet]).0, Verdict::Pass);
        let but = ("/etc/systemd/network/b.network", "[Match]\nName=!cali* vxlan.*\n[Network]\nDHCP=yes\n");
        assert_eq!(networkd(&[but, quiet]).0, Verdict::Pass);
    }
}
