//! A node crowded with what others own: whatever is done to its CNI, none of this may change.

use anyhow::Result;

use super::Scenario;
use crate::snapshot::Snapshot;

/// What an administrator, a VPN, Docker and a chatty colleague leave on a node. Doing it twice changes nothing.
const SCRIPT: &str = "
ip link show docker0 >/dev/null 2>&1 && exit 0
ip link add docker0 address 02:42:00:00:00:01 type bridge
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
# The administrator's own bridge, with routes inside the pod network and inside this node's part of it.
ip link add br-user address 02:42:00:00:00:02 type bridge
ip address add 172.30.0.1/24 dev br-user
ip link set br-user up
ip route add 10.244.200.0/26 dev br-user proto static
ip route add $POD_NET.240/29 dev br-user proto static
ip route add blackhole 10.244.201.0/24 proto static
# Protocol 80 is felix's in the main table; a VPN may use it in its own, inside the pod network too.
ip route add 198.51.100.0/24 dev br-user proto 80 table 100
ip route add blackhole 203.0.113.0/24 proto 80 table 100
ip route add blackhole 10.244.202.0/24 proto 80 table 100
ip rule add from 172.30.0.0/24 lookup 100 pref 1000
# Not every kernel has the dummy driver.
ip link add dummy0 type dummy 2>/dev/null || ip link add dummy0 type bridge
ip link set dummy0 address 02:42:00:00:00:03
ip link set dummy0 up
ip neigh add 172.30.0.9 lladdr 02:00:00:00:00:09 dev br-user nud permanent
ipset create users hash:ip
ipset add users 172.30.0.9
iptables-nft-restore --noflush <<'RULES'
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:california - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -s 172.30.0.0/24 -m comment --comment \"the cali office\" -j california
-A FORWARD -m set --match-set users src -m comment --comment \"cali4 is no set of felix here\" -j ACCEPT
-A INPUT -p udp -m udp --dport 9999 -m comment --comment \"a flannel shirt\" -j ACCEPT
-A INPUT -i dummy0 -m comment --comment localip -j ACCEPT
-A california -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.30.0.0/24 -d 10.244.0.0/16 -m comment --comment \"flannel or cali, we masquerade\" -j MASQUERADE
COMMIT
RULES
echo 'by hand' > /etc/cni/net.d/README.user
echo 'by hand' > /opt/cni/bin/a-plugin-of-ours
";

/// Words that name these objects.
const MARKS: [&str; 12] = [
    "docker0",
    "DOCKER",
    "br-user",
    "dummy0",
    "california",
    "172.30.0.",
    "172.17.0.",
    "table 100",
    "10.244.201.0",
    "users",
    "README.user",
    "a-plugin-of-ours",
];

impl Scenario {
    /// Crowds a node. To be done again after a reboot, which takes all but the files.
    pub fn crowd(&self, index: usize) -> Result<()> {
        let script = SCRIPT.replace("$POD_NET", &format!("10.244.{index}"));
        self.node(index)?.sh(&script).map(drop)
    }

    /// What others own on a node: those objects, kube-proxy's rules, eth0 and its routes, each in its order.
    pub fn foreign(&self, index: usize) -> Result<Snapshot> {
        let snapshot = Snapshot::take(self.node(index)?)?.without_pods();
        Ok(snapshot.without(|section, line| !is_foreign(section, line)))
    }
}

/// Rules of nobody in particular count as well: all but the two CNIs' own.
fn is_foreign(section: &str, line: &str) -> bool {
    // Built-in chains come with the first rule that anybody writes into their table.
    if line.ends_with(" ACCEPT") && line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(':')) {
        return false;
    }
    if MARKS.iter().any(|mark| line.contains(mark)) {
        return true;
    }
    match section {
        "links" | "addresses" => line.starts_with("eth0") || line.starts_with("lo"),
        "routes" | "routes6" => line.contains("dev eth0") && !line.contains("10.244."),
        "rules" | "rules6" => true,
        "iptables-nft" | "ip6tables-nft" | "iptables-legacy" | "ip6tables-legacy" => {
            !["FLANNEL", "flanneld", "cali-", "cali:", "CNI-"].iter().any(|word| line.contains(word))
        }
        _ => false,
    }
}
