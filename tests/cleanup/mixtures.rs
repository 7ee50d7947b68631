//! Random mixtures of what both CNIs and others own, made in random order: what a cleanup leaves equals the rest, made alone.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture::{CALICO_PARTS, FLANNEL_PARTS};
use nodectl_lab::scenario::{full, seed, shuffled};
use support::Ground;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Owner {
    Flannel,
    Calico,
    Others,
}
use Owner::{Calico, Flannel, Others};

/// One thing of somebody's, made by one line.
type Piece = (Owner, &'static str);

/// A rule of iptables in a table, in both backends where felix or flannel may have written to either.
const PIECES: &[Piece] = &[
    (Flannel, "vxlan 1 8472"),
    (Flannel, "chains iptables-nft $NET $POD 224.0.0.0/4"),
    (Flannel, "chains ip6tables-nft $NET6 $POD6 ff00::/8"),
    (Flannel, "chains iptables-legacy $NET $POD 224.0.0.0/4"),
    // Appended: cni0's own network may be there before it.
    (Flannel, "ip route append blackhole 10.244.1.0/24"),
    (
        Flannel,
        "ip link add cni0 address 0a:00:00:00:00:01 type bridge; ip address add 10.244.1.1/24 dev cni0; ip link set cni0 up",
    ),
    (
        Flannel,
        "nft 'add table ip flannel-ipv4; add chain ip flannel-ipv4 forward { type filter hook forward priority 0; }'",
    ),
    (
        Flannel,
        "ip xfrm policy add src 10.244.1.0/24 dst 10.244.2.0/24 dir out tmpl src 192.168.77.1 dst 192.168.77.2 proto esp reqid 11 mode tunnel",
    ),
    (Flannel, "printf 'abcd\\r\\neth0' | install -D /dev/stdin /var/lib/cni/networks/cbr0/10.244.1.9"),
    (
        Flannel,
        "for r in '-s NET -d NET -j RETURN' '-s NET ! -d 224.0.0.0/4 -j MASQUERADE' '! -s NET -d NET -j MASQUERADE'; do iptables-nft -t nat -A POSTROUTING $(echo \"$r\" | sed \"s|NET|$NET|g\"); done",
    ),
    (Calico, "vxlan_calico"),
    (Calico, "felix_routes"),
    (Calico, "felix_rules iptables-nft 4"),
    (Calico, "felix_rules ip6tables-nft 6"),
    (Calico, "felix_rules iptables-legacy 4"),
    (Calico, "ip route add 10.244.8.0/26 via 192.168.77.8 dev eth0 proto bird"),
    (Calico, "ip route add blackhole 10.244.9.0/26 proto bird"),
    (Calico, "ip rule add not fwmark 0x200000/0x200000 lookup 1 pref 99; ip route add throw 10.244.2.0/26 table 1"),
    (Calico, "nft add table ip6 calico"),
    (Calico, "nft add table arp calico-arp"),
    (
        Calico,
        "ip link add cali0123456789a address ee:ee:ee:ee:ee:ee type veth peer name cal-peer address 02:00:00:00:00:aa; ip route add blackhole 10.244.1.77/32 proto 80",
    ),
    (
        Calico,
        "ip link add bpfin.cali address 66:00:00:00:00:10 type veth peer name bpfout.cali address 66:00:00:00:00:11",
    ),
    (
        Others,
        "ip link add br-user address 02:42:00:00:00:02 type bridge; ip address add 172.30.0.1/24 dev br-user; ip link set br-user up; ip route add 10.244.200.0/24 via 172.30.0.7 dev br-user",
    ),
    (Others, "ip route add 10.244.201.0/26 via 192.168.77.9 dev eth0 proto static"),
    (Others, "ip route add blackhole 10.244.202.0/24 proto static"),
    (
        Others,
        "ip route add blackhole 10.244.203.0/24 proto 80 table 100; ip rule add from 172.30.0.0/24 lookup 100 pref 99",
    ),
    (Others, "ip route add 192.0.2.0/24 via 192.168.77.9 dev eth0 proto 80"),
    (Others, "ip route add 192.0.3.0/24 via 192.168.77.9 dev eth0 proto bird"),
    (Others, "iptables-nft -A FORWARD -s 10.244.0.0/16 -i eth0 -m comment --comment 'cali and flannel' -j ACCEPT"),
    (Others, "iptables-nft -I FORWARD 1 -m comment --comment localip -j ACCEPT"),
    (Others, "iptables-legacy -A INPUT -p udp --dport 8472 -m comment --comment 'flanneld forward' -j ACCEPT"),
    (Others, "iptables-nft -t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE"),
    (Others, "iptables-nft -t nat -I POSTROUTING 1 -s 10.9.0.0/16 -d 10.9.0.0/16 -j RETURN"),
    (Others, "iptables-nft -N california; iptables-nft -A OUTPUT -j california"),
    (Others, "ip6tables-nft -A FORWARD -s fd30::/64 -j ACCEPT"),
    (Others, "ipset create cali4ever hash:ip; ipset create users hash:ip; ipset add users 172.30.0.9"),
    (Others, "nft 'add table inet calico; add table inet firewalld; add chain inet firewalld f'"),
    (
        Others,
        "ip link add flannelx address 02:42:00:00:00:05 type bridge; ip link add localcali0 address 02:42:00:00:00:06 type bridge",
    ),
    (
        Others,
        "ip xfrm policy add src 172.30.0.0/24 dst 172.31.0.0/24 dir out tmpl src 192.168.77.1 dst 192.0.2.1 proto esp reqid 11 mode tunnel",
    ),
    (
        Others,
        "mkdir -p /etc/calico; echo x > /etc/calico/calicoctl.cfg; echo '{\"name\":\"o\",\"plugins\":[{\"type\":\"bridge\"}]}' > /etc/cni/net.d/99-o.conflist",
    ),
];

/// What tells each network apart is always there, first: without it a cleanup leaves what it cannot be sure of.
fn script(pieces: &[Piece], with: &[Owner]) -> String {
    // host-local's own folder is everybody's: whoever comes first makes it, and it stays.
    let mut text = format!("{FLANNEL_PARTS}\n{CALICO_PARTS}\nmkdir -p /var/lib/cni/networks\n");
    if with.contains(&Flannel) {
        text.push_str("subnet_env\n");
    }
    if with.contains(&Calico) {
        text.push_str("sets\n");
    }
    let chosen = pieces.iter().filter(|(owner, _)| with.contains(owner));
    chosen.for_each(|(_, line)| text.push_str(&format!("{line}\n")));
    text
}

#[test]
fn what_is_left_is_what_the_others_own() {
    for case in 0..if full() { 100 } else { 4 } {
        println!("seed {}, case {case}", seed());
        let salt = 7 + case;
        let pieces = shuffled(PIECES, salt);
        let some = &pieces[..pieces.len() / 2 + usize::try_from(salt % 7).unwrap()];
        let (goes, flag) = if case % 2 == 0 { (Flannel, "--flannel") } else { (Calico, "--calico") };
        let rest: Vec<Owner> = [Flannel, Calico, Others].into_iter().filter(|owner| *owner != goes).collect();
        let ground = Ground::with("");
        ground.build(&script(some, &[Flannel, Calico, Others]));
        ground.must(&[flag, "--yes"], 0);
        // With the other CNI on the node too, a plugin that both bring stays.
        ground.build("rm -f /opt/cni/bin/flannel");
        let alone = Ground::with(&format!("{}\nrm -f /opt/cni/bin/flannel", script(some, &rest)));
        let difference = alone.foreign.diff(&ground.snapshot());
        assert!(
            difference.is_empty(),
            "seed {}, case {case}, {flag}, of {some:#?}:\n{}",
            seed(),
            difference.join("\n")
        );
    }
}
