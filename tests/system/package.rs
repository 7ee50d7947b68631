//! The packages: what is in them, what they need, and their life on a booted node with Debian's own package manager.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use nodectl_lab::command;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::package::{self, Packages};
use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::snapshot::Snapshot;
use nodectl_lab::wait::eventually;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs a shell script on this machine that must succeed; its standard output.
fn sh(script: &str) -> String {
    let done = command::output(Command::new("bash").args(["-eo", "pipefail", "-c", script]), "").unwrap();
    assert!(done.ok(), "{script}: exit {}: {}{}", done.code, done.stdout, done.stderr);
    done.stdout
}

/// Both packages unpacked: (deb, rpm).
fn unpacked(packages: &Packages) -> (tempfile::TempDir, tempfile::TempDir) {
    let (deb, rpm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sh(&format!("dpkg-deb -x {} {}", packages.deb.display(), deb.path().display()));
    // rpm2cpio ends with 1 where the archive's length is not the one in the header, which cargo-generate-rpm counts without the
    // trailer; what came out is compared file by file.
    sh(&format!("cd {}; (rpm2cpio {} || true) | cpio -idm --quiet", rpm.path().display(), packages.rpm.display()));
    (deb, rpm)
}

/// All files under a folder: path, mode and digest.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let listed = sh(&format!(
        "cd {}; find . -type f | sort | while read -r f; do echo \"$f $(stat -c %a \"$f\") $(sha256sum <\"$f\" | cut -c1-16)\"; done",
        folder.display()
    ));
    let row = |line: &str| line.trim_start_matches('.').split_once(' ').map(|(path, rest)| (path.into(), rest.into()));
    listed.lines().filter_map(row).collect()
}

#[test]
fn both_packages_hold_the_same_and_all_of_it() {
    let packages = Packages::under_test().unwrap();
    let (deb, rpm) = unpacked(&packages);
    let (mut deb, mut rpm) = (files(deb.path()), files(rpm.path()));
    let wanted = wanted_files();
    let there: BTreeSet<String> = rpm.keys().cloned().collect();
    assert_eq!(there, wanted, "left: in the package; right: in the source");
    // What only one kind of system wants: nodectl/Cargo.toml says why.
    assert!(rpm.remove("/usr/share/licenses/nodectl/LICENSE").is_some());
    for only in ["changelog.Debian.gz", "copyright"].map(|name| format!("/usr/share/doc/nodectl/{name}")) {
        assert!(deb.remove(&only).is_some(), "{only}");
    }
    assert!(deb.remove("/usr/share/lintian/overrides/nodectl").is_some());
    let zsh = deb.remove("/usr/share/zsh/vendor-completions/_nodectl").unwrap();
    deb.insert("/usr/share/zsh/site-functions/_nodectl".into(), zsh);
    assert_eq!(deb, rpm);
    for program in ["/usr/bin/nodectl", "/usr/libexec/nodectl/cni-shim"] {
        assert!(deb[program].starts_with("755 "), "{program}");
    }
    assert_eq!(deb.values().filter(|row| !row.starts_with("644 ")).count(), 2);
}

/// What the .rpm is to hold, from the source's own folders.
fn wanted_files() -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = [
        "/etc/nodectl/config.toml",
        "/usr/bin/nodectl",
        "/usr/lib/systemd/system-preset/50-nodectl.preset",
        "/usr/libexec/nodectl/cni-shim",
        "/usr/share/bash-completion/completions/nodectl",
        "/usr/share/doc/nodectl/ARCHITECTURE.md",
        "/usr/share/doc/nodectl/README.md",
        "/usr/share/doc/nodectl/changelog.gz",
        "/usr/share/fish/vendor_completions.d/nodectl.fish",
        "/usr/share/licenses/nodectl/LICENSE",
        "/usr/share/zsh/site-functions/_nodectl",
    ]
    .map(str::to_owned)
    .into();
    let names = |folder: &str| sh(&format!("ls {ROOT}/{folder}")).lines().map(str::to_owned).collect::<Vec<_>>();
    wanted.extend(names("systemd").iter().map(|name| {
        let folder = if name.ends_with(".catalog") { "catalog" } else { "system" };
        format!("/usr/lib/systemd/{folder}/{name}")
    }));
    wanted.extend(names("packaging/man").iter().map(|page| {
        let section = page.rsplit('.').next().unwrap_or_default();
        format!("/usr/share/man/man{section}/{page}.gz")
    }));
    wanted
}

#[test]
fn the_programs_need_nothing_of_the_system() {
    let (deb, _rpm) = unpacked(&Packages::under_test().unwrap());
    let root = deb.path().display();
    for program in ["usr/bin/nodectl", "usr/libexec/nodectl/cni-shim"] {
        let headers = sh(&format!("readelf -ldW --dyn-syms {root}/{program}"));
        for word in ["INTERP", "(NEEDED)", "@GLIBC_"] {
            assert!(!headers.contains(word), "{program} has {word}: {headers}");
        }
    }
    // A root with nothing else in it, not even a libc or a loader.
    let version = sh(&format!("chroot {root} /usr/bin/nodectl --version"));
    assert_eq!(version, format!("nodectl {}\n", env!("CARGO_PKG_VERSION")));
    let said = sh(&format!(
        "CNI_COMMAND=VERSION chroot {root} /usr/libexec/nodectl/cni-shim <<<'{{\"cniVersion\":\"1.0.0\"}}'"
    ));
    assert!(said.contains("supportedVersions"), "{said}");
    assert!(sh(&format!("stat -c %s {root}/usr/bin/nodectl")).trim().parse::<u64>().unwrap() < 10_000_000);
}

#[test]
fn linters_have_nothing_to_say() {
    let packages = Packages::under_test().unwrap();
    let said = sh(&format!("lintian --allow-root --fail-on none {} 2>&1", packages.deb.display()));
    assert_eq!(said, "", "lintian");
    let config = format!("{ROOT}/packaging/lint/rpmlint.toml");
    let said = sh(&format!("rpmlint -c {config} {} 2>&1 || true", packages.rpm.display()));
    assert!(said.contains(" 0 errors, 0 warnings"), "rpmlint: {said}");
}

#[test]
fn the_rpm_keeps_settings_asks_for_programs_and_has_the_debs_scripts() {
    let rpm = Packages::under_test().unwrap().rpm;
    let query = |what: &str| sh(&format!("rpm -qp {what} {}", rpm.display()));
    assert_eq!(query("--configfiles"), "/etc/nodectl/config.toml\n");
    let requires = query("--requires");
    for name in ["iptables", "ipset", "iproute", "kmod"] {
        assert!(requires.lines().any(|line| line == name), "{name} is not in {requires}");
    }
    let scripts = query("--scripts");
    for (kind, name) in [("postinstall", "postinst"), ("preuninstall", "prerm"), ("postuninstall", "postrm")] {
        let script = std::fs::read_to_string(format!("{ROOT}/packaging/scripts/{name}")).unwrap();
        assert!(scripts.contains(kind) && scripts.contains(script.trim_end()), "{name} is not in {scripts}");
    }
    assert!(query("--qf '%{ARCH} %{LICENSE} %{NAME}'").starts_with(std::env::consts::ARCH));
}

#[test]
fn two_builds_from_two_places_give_the_same_bytes() {
    if !nodectl_lab::scenario::full() {
        return;
    }
    // Both are copied before anything is built, so that both hold the same.
    let copied = |folder: &str| {
        let place = tempfile::Builder::new().prefix(folder).tempdir().unwrap();
        sh(&format!(
            "cd {ROOT}; git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t {}",
            place.path().display()
        ));
        place
    };
    let made = |place: &Path| {
        let at = place.display();
        sh(&format!(
            "cd {at}; export PATH=$(packaging/tools):$PATH CARGO_TARGET_DIR={at}/built SOURCE_DATE_EPOCH=1700000000
             packaging/package {at}/out >/dev/null; rm -rf {at}/built"
        ));
        let packages = Packages::in_folder(&place.join("out")).unwrap();
        (std::fs::read(packages.deb).unwrap(), std::fs::read(packages.rpm).unwrap())
    };
    let places = ["one", "another-place"].map(copied);
    let [one, other] = places.each_ref().map(|place| made(place.path()));
    assert!(one.0 == other.0, "the .deb differs");
    assert!(one.1 == other.1, "the .rpm differs");
}

#[test]
fn installed_upgraded_in_mid_run_refused_removed_and_purged() {
    let packages = Packages::under_test().unwrap();
    let scenario = Scenario::start(2, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full]).unwrap();
    let node = scenario.node(1).unwrap();
    package::bare(node).unwrap();
    package::install_quietly(node, &packages.deb).unwrap();

    scenario.settled().unwrap();
    scenario.prepare().unwrap();
    killed_in_mid_run(&scenario, || refused(node, "another nodectl works on this node"));
    // Killed in the middle, and finished by the version that comes with the upgrade.
    refused(node, "is open. To fix it: `nodectl resume`");
    let folder = tempfile::tempdir().unwrap();
    package::install(node, &package::later(&packages.deb, folder.path()).unwrap()).unwrap();
    assert!(node.sh("dpkg-query -W nodectl; test -e /var/lib/nodectl/open").unwrap().contains("+later"));
    scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();

    refused(node, "To fix it: nodectl shim retire");
    // What the .rpm runs before it goes is the same script, told by a number.
    let as_rpm = node.exec(&["sh", "/var/lib/dpkg/info/nodectl.prerm", "0"]).unwrap();
    assert!(!as_rpm.ok() && as_rpm.stderr.contains("every new pod is attached through it"), "{as_rpm:?}");
    assert!(node.exec(&["sh", "/var/lib/dpkg/info/nodectl.prerm", "1"]).unwrap().ok());
    scenario.nodectl(1, &["shim", "retire", "--yes"]).unwrap().expect(0).unwrap();

    package::remove_and_purge(node).unwrap();
    scenario.settled().unwrap();
}

/// The package manager refuses to remove the package, and says why.
#[track_caller]
fn refused(node: &dyn Node, why: &str) {
    package::must_refuse_to_go(node, why).unwrap();
}

/// A switch of the first node to Calico that is killed in its middle, after something else was done meanwhile.
fn killed_in_mid_run(scenario: &Scenario, meanwhile: impl FnOnce()) {
    let node = scenario.node(1).unwrap();
    let mut migrate = scenario.nodectl_command(1, &["migrate", "--yes", "--agent-timeout", "60"], &[]).unwrap();
    let mut migrate = migrate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the device is renamed", || {
        node.exec(&["ip", "link", "show", "vxlan.calico"]).is_ok_and(|link| link.ok())
    });
    meanwhile();
    node.sh("pkill -KILL -x nodectl").unwrap();
    migrate.wait().unwrap();
}

#[test]
fn rpm_installs_refuses_in_mid_run_reinstalls_and_removes() {
    let packages = Packages::under_test().unwrap();
    let scenario = Scenario::start(2, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full]).unwrap();
    let node = scenario.node(1).unwrap();
    package::bare(node).unwrap();
    let file = package::send(node, &packages.rpm).unwrap();
    // What it asks for is there from Debian's packages, of which rpm knows nothing.
    let rpm =
        |arguments: &str| node.exec(&["sh", "-c", &format!("rpm --force-debian --nodeps {arguments} 2>&1")]).unwrap();
    let must = |arguments: &str| {
        let done = rpm(arguments);
        assert!(done.ok(), "rpm {arguments}: {done:?}");
        done.stdout
    };
    let refused = |why: &str| {
        let done = rpm("-e nodectl");
        assert!(!done.ok() && done.stdout.contains("nothing was changed") && done.stdout.contains(why), "{done:?}");
        assert_eq!(must("-V nodectl"), "", "every file is as it was packed");
    };

    let before = Snapshot::take(node).unwrap();
    must(&format!("-i {file}"));
    assert_eq!(before.diff(&Snapshot::take(node).unwrap()), Vec::<String>::new(), "installing changed the network");
    package::must_be_idle(node).unwrap();
    node.sh("systemctl cat cni-migrate.service nodectl-boot.service; test ! -e /var/lib/nodectl").unwrap();

    scenario.prepare().unwrap();
    killed_in_mid_run(&scenario, || refused("another nodectl works on this node"));
    refused("is open. To fix it: `nodectl resume`");
    // As in an upgrade: what goes makes room for what came.
    must(&format!("-U --replacepkgs {file}"));
    node.sh("test -x /usr/bin/nodectl; test -e /var/lib/nodectl/open").unwrap();
    scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    refused("To fix it: nodectl shim retire");
    scenario.nodectl(1, &["shim", "retire", "--yes"]).unwrap().expect(0).unwrap();
    assert!(must("-e nodectl").contains("stay in /var/lib/nodectl"));
    node.sh("test ! -e /usr/bin/nodectl; ls /var/lib/nodectl/journal/*.jsonl").unwrap();
    assert_eq!(
        node.sh("find /etc /usr -path /usr/local -prune -o -name '*nodectl*' -print").unwrap(),
        "",
        "left behind"
    );
    package::must_be_idle(node).unwrap();
    scenario.settled().unwrap();
}
