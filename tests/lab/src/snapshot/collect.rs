//! The node's own words: one script, one section per command.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::node::Node;

/// A line that begins a section.
const MARK: &str = "@@@ ";

/// The commands by section. A tool that has nothing to say, or is missing, leaves its section empty.
const COMMANDS: [(&str, &str); 24] = [
    ("links", "ip -d -j link show"),
    ("addresses", "ip -j addr show"),
    ("routes", "ip -4 route show table all"),
    ("routes6", "ip -6 route show table all"),
    ("rules", "ip -4 rule show"),
    ("rules6", "ip -6 rule show"),
    ("neighbours", "ip neigh show nud permanent; ip neigh show proxy"),
    ("fdb", "bridge fdb show"),
    ("iptables-nft", "iptables-nft-save"),
    ("ip6tables-nft", "ip6tables-nft-save"),
    // Asked only for tables that are there: the question itself must not make one.
    ("iptables-legacy", "[ ! -s /proc/net/ip_tables_names ] || iptables-legacy-save"),
    ("ip6tables-legacy", "[ ! -s /proc/net/ip6_tables_names ] || ip6tables-legacy-save"),
    ("nft", "nft list tables"),
    // What iptables shows is left to it.
    (
        "nft-rules",
        "nft list tables | grep -vE ' (ip|ip6) (filter|nat|mangle|raw|security)$' | while read -r _ family table; do nft -s list table $family $table; done",
    ),
    (
        "hooks",
        "tc qdisc show | grep clsact | while read -r _ _ _ _ dev _; do echo $dev; for hook in ingress egress; do tc filter show dev $dev $hook | sed \"s/^/$dev $hook /\"; done; done",
    ),
    ("ipsec", "ip xfrm policy; ip xfrm state"),
    ("pins", "find /sys/fs/bpf -type f -not -name '*.debug'"),
    ("xdp", "ip -o link show | grep -o '^[0-9]*: [^:]*: .* xdp' | cut -d' ' -f2"),
    ("ipsets", "ipset save"),
    (
        "sysctls",
        "cd /proc/sys/net/ipv4/conf && grep -H . */rp_filter */proxy_arp */send_redirects */route_localnet */forwarding",
    ),
    ("modes", "find $DIRS -printf '%y %m %p %l\\n'"),
    ("sums", "find $DIRS -type f -print0 | xargs -0r sha256sum"),
    ("texts", "find $DIRS -type f -size -2 -not -name '*lock*' -print0 | xargs -0r grep -IH ''"),
    (
        "units",
        "for unit in containerd kubelet; do echo $unit $(systemctl is-active $unit) $(systemctl is-enabled $unit); done",
    ),
];

/// The folders whose files belong to the network.
const FOLDERS: &str = "/etc/cni /opt/cni/bin /var/lib/cni /run/flannel /var/lib/calico /run/calico /var/run/calico \
    /var/log/calico /etc/calico /etc/NetworkManager /etc/systemd/network /etc/firewalld /etc/ufw";

/// Runs all commands; their outputs by section.
pub fn run(node: &dyn Node) -> Result<BTreeMap<String, String>> {
    let mut script = format!(
        "DIRS=; for dir in {FOLDERS}; do [ -L $dir ] || [ ! -e $dir ] || DIRS=\"$DIRS $dir\"; done\n: ${{DIRS:=/nonexistent}}\n"
    );
    for (name, command) in COMMANDS {
        script.push_str(&format!("echo '{MARK}{name}'\n( {command} ) 2>/dev/null\n"));
    }
    let text = node.must(&["sh", "-c", &format!("{script}\ntrue")])?;
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        match line.strip_prefix(MARK) {
            Some(name) => {
                current = name.to_owned();
                sections.entry(current.clone()).or_default();
            }
            None => {
                let section = sections.entry(current.clone()).or_default();
                section.push_str(line);
                section.push('\n');
            }
        }
    }
    Ok(sections)
}
