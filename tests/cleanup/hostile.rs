//! What a cleaner that trusts names, words or tools gets wrong; each is a bug that others have shipped.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture::{CALICO_PARTS, FLANNEL_PARTS, FOREIGN};
use support::Ground;

fn flannel(ground: &Ground, script: &str) {
    ground.build(&format!("{FLANNEL_PARTS}\n{script}"));
}

/// Odd things among Calico's: a set that somebody's rule uses, folders that are file systems of their own, a socket, a link, an
/// administrator's copy of the configuration.
const ODD: &str = "mkdir -p /etc/cni/net.d /var/log/calico /run/calico /var/lib/kubelet/plugins_registry /var/lib/elsewhere
sets
iptables-nft -t nat -A POSTROUTING -m set --match-set cali40masq-ipam-pools src -m comment --comment 'by hand' -j RETURN
iptables-nft -t nat -N cali-nat-outgoing; iptables-nft -t nat -A cali-nat-outgoing -m set --match-set cali40all-ipam-pools src -j RETURN
mount -t tmpfs log /var/log/calico; echo log > /var/log/calico/cni.log
ln -s /var/lib/elsewhere /var/lib/calico
perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => q(/var/lib/kubelet/plugins_registry/csi.tigera.io-reg.sock), Listen => 1) or die'
echo '{}' > /etc/cni/net.d/10-calico.conflist.mine; echo token > /etc/cni/net.d/calico-kubeconfig
mkfifo /var/lib/cni/results/k8s-pod-network-ffff-eth0";

/// The six layouts that flannel has written, as text for a restore: what is in nat and what in filter.
const LAYOUTS: [(&str, &[&str], &[&str]); 6] = [
    (
        "up to 0.5.5",
        &[
            ":FLANNEL - [0:0]",
            "-A POSTROUTING -s NET -j FLANNEL",
            "-A POSTROUTING ! -s NET -d NET -j MASQUERADE",
            "-A FLANNEL -d NET -j ACCEPT",
            "-A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE",
        ],
        &[],
    ),
    (
        "0.5.6 to 0.7",
        &[
            "-A POSTROUTING -s NET -d NET -j RETURN",
            "-A POSTROUTING -s NET ! -d 224.0.0.0/4 -j MASQUERADE",
            "-A POSTROUTING ! -s NET -d NET -j MASQUERADE",
        ],
        &[],
    ),
    (
        "0.8 to 0.16.1",
        &[
            "-A POSTROUTING -s NET -d NET -j RETURN",
            "-A POSTROUTING -s NET ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            "-A POSTROUTING ! -s NET -d POD -j RETURN",
            "-A POSTROUTING ! -s NET -d NET -j MASQUERADE --random-fully",
        ],
        &["-A FORWARD -s NET -j ACCEPT", "-A FORWARD -d NET -j ACCEPT"],
    ),
    (
        "0.16.2 to 0.19",
        &[
            "-A POSTROUTING -s NET -d NET -m comment --comment \"flanneld masq\" -j RETURN",
            "-A POSTROUTING -s NET ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
            "-A POSTROUTING ! -s NET -d POD -m comment --comment \"flanneld masq\" -j RETURN",
            "-A POSTROUTING ! -s NET -d NET -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
        ],
        &[
            "-A FORWARD -s NET -m comment --comment \"flanneld forward\" -j ACCEPT",
            "-A FORWARD -d NET -m comment --comment \"flanneld forward\" -j ACCEPT",
        ],
    ),
    (
        "0.20 to 0.21.2",
        &[
            ":FLANNEL-POSTRTG - [0:0]",
            "-I POSTROUTING 1 -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG",
            "-A FLANNEL-POSTRTG -s NET -d NET -m comment --comment \"flanneld masq\" -j RETURN",
            "-A FLANNEL-POSTRTG -s NET ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE",
        ],
        &[
            ":FLANNEL-FWD - [0:0]",
            "-I FORWARD 1 -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
            "-A FLANNEL-FWD -s NET -m comment --comment \"flanneld forward\" -j ACCEPT",
        ],
    ),
    // The clean-up of 0.27 in the other backend forgets the jump and the filter table.
    (
        "from 0.21.3",
        &[":FLANNEL-POSTRTG - [0:0]", "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG"],
        &[
            ":FLANNEL-FWD - [0:0]",
            "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
            "-A FLANNEL-FWD -s NET -m comment --comment \"flanneld forward\" -j ACCEPT",
            "-A FLANNEL-FWD -d NET -m comment --comment \"flanneld forward\" -j ACCEPT",
        ],
    ),
];

#[test]
fn every_layout_of_flannels_rules_is_known_in_both_backends() {
    let ground = Ground::crowded();
    for (releases, nat, filter) in LAYOUTS {
        flannel(&ground, "subnet_env");
        for tool in ["iptables-nft-restore", "iptables-legacy-restore"] {
            let text = format!("*nat\n{}\nCOMMIT\n*filter\n{}\nCOMMIT\n", nat.join("\n"), filter.join("\n"));
            let text = text.replace("NET", "10.244.0.0/16").replace("POD", "10.244.1.0/24").replace("\n\n", "\n");
            let done = ground.node().exec_with_input(&[tool, "--noflush"], &text).unwrap();
            assert!(done.ok(), "{releases}: {}", done.stderr);
        }
        ground.must(&["--flannel", "--yes"], 0);
        let left = ground.foreign.diff(&ground.snapshot());
        assert!(left.is_empty(), "{releases}: {left:?}");
    }
}

#[test]
fn one_native_rule_in_a_table_of_iptables_hides_nothing() {
    // iptables-nft-save says that it cannot show the table, and succeeds.
    let native = "nft add rule ip filter FORWARD ct state vmap '{ established : accept, invalid : drop }'\n\
        nft add rule ip nat POSTROUTING ct state vmap '{ established : accept, invalid : accept }'";
    let ground = Ground::with(&format!("{FOREIGN}\n{native}"));
    let rules = |ground: &Ground| ground.node().sh("for t in filter nat; do nft -s list table ip $t; done").unwrap();
    let before = rules(&ground);
    assert!(!ground.node().sh("iptables-nft-save").unwrap().contains("the cali office"), "the table is to be hidden");
    flannel(&ground, "subnet_env; chains iptables-nft $NET $POD 224.0.0.0/4");
    assert!(rules(&ground).contains("FLANNEL-FWD"));
    let would = ground.would(&["--flannel"]);
    assert_eq!((&would["counts"]["nft-rules"], &would["counts"]["chains"]), (&2.into(), &2.into()), "{would:#}");
    ground.must(&["--flannel", "--yes"], 0);
    assert_eq!(rules(&ground), before);
    ground.must_be_as_others_left_it();
    ground.must(&["--flannel", "--yes"], 0);
}

#[test]
fn a_bridge_that_somebody_else_uses_stays() {
    let ground = Ground::with("");
    flannel(
        &ground,
        "subnet_env; ip link add cni0 type bridge; ip address add 10.244.1.1/24 dev cni0; ip link set cni0 up; ip link add tap0 type veth peer name tap1; ip link set tap0 master cni0",
    );
    let would = ground.would(&["--flannel"]);
    assert!(would["undecided"][0]["object"] == "cni0 (bridge)", "{would:#}");
    ground.must(&["--flannel", "--yes"], 0);
    assert!(ground.node().sh("ip link show master cni0").unwrap().contains("tap0"));
    // Another CNI's, with the usual name and other addresses: podman's and CRI-O's samples have it.
    ground.build("ip link del tap0; ip address flush dev cni0; ip address add 10.88.0.1/16 dev cni0");
    flannel(&ground, "subnet_env");
    ground.must(&["--flannel", "--yes"], 0);
    assert!(ground.node().sh("ip address show cni0").unwrap().contains("10.88.0.1/16"));
}

#[test]
fn the_bridge_goes_though_flannels_device_has_gone_before() {
    let ground = Ground::with("");
    flannel(
        &ground,
        "subnet_env; ip link add cni0 type bridge; ip address add 10.244.1.1/24 dev cni0; ip link set cni0 up",
    );
    ground.must(&["--flannel", "--yes"], 0);
    assert_eq!(ground.node().sh("ip -o link show cni0 2>/dev/null || true").unwrap(), "");
}

#[test]
fn looking_loads_no_legacy_tables() {
    let ground = Ground::with("");
    flannel(&ground, "subnet_env; chains iptables-nft $NET $POD 224.0.0.0/4");
    ground.must(&["--flannel", "--yes"], 0);
    let names =
        ground.node().sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true").unwrap();
    assert_eq!(names, "");
}

#[test]
fn what_names_a_device_that_goes_is_told_and_not_touched() {
    let ground = Ground::crowded();
    flannel(&ground, "subnet_env; vxlan 1 8472");
    let would = ground.would(&["--flannel"]);
    let told = would["stays"].to_string();
    for place in [
        "/etc/firewalld/zones/trusted.xml:1",
        "/etc/ufw/user.rules:1",
        "/etc/NetworkManager/conf.d/bridges.conf:2",
        "/etc/systemd/network/20-overlays.network:2",
        "iptables-nft -A INPUT -i cni0",
        "iptables-legacy -A INPUT -i cni0",
    ] {
        assert!(told.contains(place), "{place} is not in {told}");
    }
    assert!(!told.contains("localip") && !told.contains("california") && !told.contains("cali*"), "{told}");
    // The same lines name Calico's devices as well.
    ground.build("mkdir /var/lib/calico");
    let told = ground.would(&["--calico"])["stays"].to_string();
    for place in ["trusted.xml:1", "20-overlays.network:2", "mixed.conf:2"] {
        assert!(told.contains(place), "{place} is not in {told}");
    }
    ground.must(&["--calico", "--yes"], 0);
    ground.must(&["--flannel", "--yes"], 0);
    ground.must_be_as_others_left_it();
}

#[test]
fn rules_and_routes_as_an_agent_would_write_them_are_somebody_elses_where_no_agent_writes_them() {
    // Chains of an administrator's, words as long as felix's hash, the two rules that let pods through Docker's policy, and a
    // direct route beside tunnels to nodes that are as near.
    let rules = "iptables-nft -N OFFICE
iptables-nft -A OFFICE -s 10.50.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT
iptables-nft -A OFFICE -s 10.1.1.1 -m comment --comment 'cali:AbCdefghijklmn0p' -j DROP
iptables-nft -A INPUT -s 10.1.1.2 -m comment --comment 'cali:allow-office-vpn' -j ACCEPT
iptables-nft -A FORWARD -s 10.244.0.0/16 -j ACCEPT
iptables-nft -A FORWARD -d 10.244.0.0/16 -j ACCEPT
iptables-nft -t nat -A PREROUTING -d 10.50.0.0/16 -m comment --comment 'flanneld masq' -j ACCEPT";
    let route = "ip route add 10.244.9.0/24 via 192.168.77.99 dev eth0";
    let native = "nft add rule ip filter FORWARD ct state vmap '{ established : accept, invalid : drop }'";
    for (others, what) in [(format!("{rules}\n{route}"), "plain"), (format!("{rules}\n{native}"), "hidden")] {
        let ground = Ground::with(&others);
        let kept = |ground: &Ground| ground.node().sh("nft -s list table ip filter; nft -s list table ip nat").unwrap();
        flannel(&ground, "subnet_env; vxlan 1 8472; chains iptables-nft $NET $POD 224.0.0.0/4");
        ground.build(&format!("{CALICO_PARTS}\nsets; felix_rules iptables-nft 4"));
        // An old flannel wrote to the other variant: its masquerading there says nothing of the rules here.
        for rule in
            ["-s NET -d NET -j RETURN", "-s NET ! -d 224.0.0.0/4 -j MASQUERADE", "! -s NET -d NET -j MASQUERADE"]
        {
            ground.build(&format!("iptables-legacy -t nat -A POSTROUTING {}", rule.replace("NET", "10.244.0.0/16")));
        }
        let told = ground.would(&["--flannel"])["undecided"].to_string();
        if what == "plain" {
            for object in ["filter FORWARD: -s 10.244.0.0/16 -j ACCEPT", "10.244.9.0/24 via 192.168.77.99 dev eth0"] {
                assert!(told.contains(object), "{object} is not in {told}");
            }
        }
        for cni in ["--flannel", "--calico"] {
            ground.must(&[cni, "--yes"], 0);
            assert_eq!(ground.would(&[cni])["outcome"], "nothing-to-do", "{what}");
        }
        ground.must_be_as_others_left_it();
        for word in ["10.50.0.0/16", "10.1.1.1", "10.1.1.2"] {
            assert!(kept(&ground).contains(word), "{what}: {word} has gone: {}", kept(&ground));
        }
    }
}

#[test]
fn what_cannot_go_is_told_and_keeps_nothing_else_from_going() {
    let ground = Ground::with("mkdir -p /var/lib/cni/results");
    ground.build(&format!("{CALICO_PARTS}\n{ODD}"));
    let told = ground.would(&["--calico"])["stays"].to_string();
    assert!(told.contains("cali40masq-ipam-pools") && told.contains("by hand"), "{told}");
    let done = ground.must(&["--calico", "--yes"], 0);
    assert!(done.stdout.contains("cali40masq-ipam-pools: a rule of somebody else's"), "{}", done.stdout);
    let left = "ipset list -n; ls /var/log/calico; ls /etc/cni/net.d; ls /var/lib/kubelet/plugins_registry; ls -d /var/lib/elsewhere";
    let left = ground.node().sh(left).unwrap();
    assert_eq!(left, "cali40masq-ipam-pools\n10-calico.conflist.mine\n/var/lib/elsewhere\n");
    let kept = ground.node().sh("cat /var/lib/nodectl/backup/*/files/var/log/calico/cni.log").unwrap();
    assert_eq!(kept, "log\n");
    let again = ground.would(&["--calico"]);
    assert_eq!(again["outcome"], "nothing-to-do", "{again:#}");
    assert!(again["stays"].to_string().contains("a mount point cannot be removed"), "{again:#}");
    // Once nobody uses the set any more, it goes.
    ground.build("iptables-nft -t nat -F POSTROUTING; umount /var/log/calico; rmdir /var/log/calico");
    ground.must(&["--calico", "--yes"], 0);
    assert_eq!(ground.node().sh("ipset list -n").unwrap(), "");
}

#[test]
fn a_file_that_came_after_a_kill_is_kept_beside_the_one_before() {
    let ground = Ground::with("");
    flannel(&ground, "subnet_env");
    let kill = ["env", "NODECTL_FAULT=files.rename", "nodectl", "cleanup", "--flannel", "--yes"];
    assert_eq!(ground.node().exec(&kill).unwrap().code, 137);
    ground.build("echo '{\"name\":\"cbr0\",\"plugins\":[{\"type\":\"flannel\"}],\"by\":\"hand\"}' > /etc/cni/net.d/10-flannel.conflist");
    ground.must(&["--flannel", "--yes"], 0);
    let kept = ground.node().sh("cat /var/lib/nodectl/backup/*/files/etc/cni/net.d/10-flannel.conflist*").unwrap();
    assert!(kept.contains("isDefaultGateway") && kept.contains("\"by\":\"hand\""), "{kept}");
}

#[test]
fn a_file_that_is_none_is_waited_for_by_nobody() {
    let ground = Ground::with("");
    let files = [
        "rm /run/flannel/subnet.env; mkfifo /run/flannel/subnet.env",
        "rm /run/flannel/subnet.env; mkdir /run/flannel/subnet.env",
        "printf 'FLANNEL_NETWORK=\\377\\376\\nFLANNEL_SUBNET=9\\n' > /run/flannel/subnet.env",
        "mkdir -p /var/lib/cni/flannel; mkfifo /var/lib/cni/flannel/ffff",
        "mkdir /etc/cni/net.d/00-folder.conflist; ln -s /nowhere /etc/cni/net.d/99-link.conf; mkfifo /etc/cni/net.d/98.conf",
    ];
    for file in files {
        flannel(&ground, &format!("subnet_env; vxlan 1 8472; {file}"));
        let done = ground.node().exec(&["timeout", "20", "nodectl", "cleanup", "--flannel", "--yes"]).unwrap();
        assert_eq!(done.code, 0, "{file}: {}{}", done.stdout, done.stderr);
        assert_eq!(
            ground.node().sh("ip -o link | grep -c flannel || true; ls -d /run/flannel 2>/dev/null || true").unwrap(),
            "0\n"
        );
    }
}
