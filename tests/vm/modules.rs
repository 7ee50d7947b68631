//! `nodectl cleanup` and `doctor` on a kernel whose modules come and go: ipip and its tunl0, WireGuard, dummy, legacy iptables.

use std::path::Path;

use nodectl_lab::cluster::Options;
use nodectl_lab::vm::Machine;
use serde_json::Value;

/// What Calico with IPIP and WireGuard leaves, and beside it what others have of the same kinds.
const CALICO: &str = "
ip link add eth0 type dummy; ip address add 192.168.77.1/24 dev eth0; ip link set eth0 up
ip link show dummy0 >/dev/null 2>&1 || ip link add dummy0 type dummy; ip address add 10.9.9.9/32 dev dummy0; ip link set dummy0 up
ip link add wg0 type wireguard; ip address add 10.8.0.1/24 dev wg0; ip link set wg0 up
ip route add 10.244.99.0/24 dev wg0 proto 80
modprobe ipip
echo 10.244.1.1/32 | while read -r a; do ip address add $a dev tunl0; ip link set tunl0 up; done
ip route add 10.244.2.0/26 via 192.168.77.2 dev tunl0 onlink proto bird
ip route add blackhole 10.244.1.0/26 proto bird
ip link add wireguard.cali type wireguard; ip address add 10.244.1.3/32 dev wireguard.cali; ip link set wireguard.cali up
ip route add 10.244.3.0/26 dev wireguard.cali table 1; ip route add throw 10.244.2.0/26 table 1
ip rule add not fwmark 0x200000/0x200000 lookup 1 pref 99
ip link add vxlan.calico type vxlan id 4096 dev eth0 dstport 4789 nolearning
ipset create cali40all-ipam-pools hash:net; ipset add cali40all-ipam-pools 10.244.0.0/16
iptables-nft -t nat -N cali-nat-outgoing
iptables-nft -t nat -A cali-nat-outgoing -m set --match-set cali40all-ipam-pools src -j MASQUERADE
mkdir -p /etc/cni/net.d /var/lib/calico; echo node1 > /var/lib/calico/nodename
";

/// Everything of the kernel's that a cleanup may touch or must not.
const LOOK: &str = "ip -o link | sed 's/^[0-9]*: //; s/ qlen.*//; s/@[^:]*//' | sort; ip -o -4 address | awk '{print $2, $4}' | sort
ip route show table all | grep -v '^local\\|^broadcast' | sort; ip rule; ipset list -n; iptables-nft-save | grep -v '^#' || true";

fn boot() -> Machine {
    let nodectl = Options::default().nodectl.expect("nodectl is built");
    Machine::boot(&[Path::new(&nodectl)]).unwrap()
}

fn json(machine: &mut Machine, command: &str) -> Value {
    let done = machine.run(&format!("{command} --output json 2>/dev/null")).unwrap();
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout))
}

fn modules(machine: &mut Machine) -> Vec<String> {
    let text = machine.must("cut -d' ' -f1 /proc/modules").unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn tunl0_goes_with_its_module_and_looking_does_not_bring_it_back() {
    let mut machine = boot();
    machine.must(CALICO).unwrap();
    let found = json(&mut machine, "nodectl doctor --no-probe");
    let found = found["findings"].as_array().unwrap();
    let tunnel = found.iter().find(|f| f["id"] == "tunl0-address").expect("tunl0's address is a finding");
    assert_eq!(tunnel["objects"], serde_json::json!(["10.244.1.1/32 on tunl0"]));
    println!("{}", machine.must("nodectl cleanup --calico --yes 2>&1").unwrap());
    let left = machine.must(LOOK).unwrap();
    for gone in ["tunl0", "cali", "10.244.2.0", "10.244.3.0", "blackhole", "200000"] {
        assert!(!left.contains(gone), "{gone} is left: {left}");
    }
    for stays in ["dummy0:", "dummy0 10.9.9.9/32", "wg0:", "wg0 10.8.0.1/24", "10.244.99.0/24 dev wg0"] {
        assert!(left.contains(stays), "{stays} has gone: {left}");
    }
    assert!(!modules(&mut machine).contains(&"ipip".into()), "ipip is loaded");
    let again = json(&mut machine, "nodectl cleanup --calico --yes");
    assert_eq!(again["outcome"], "nothing-to-do", "{again:#}");
    let clean = json(&mut machine, "nodectl doctor");
    assert_eq!(clean["findings"], serde_json::json!([]), "{clean:#}");
    let loaded = modules(&mut machine);
    for module in ["ipip", "ip_tables", "iptable_filter", "iptable_nat", "ip6_tables"] {
        assert!(!loaded.contains(&module.into()), "looking has loaded {module}");
    }
}

#[test]
fn a_module_that_others_use_stays_with_its_tunnels() {
    let mut machine = boot();
    // The kernel would unload it under both of them without a word.
    let others = "ip link add site-b type ipip local 192.168.77.1 remote 192.168.77.9; ip address add 10.7.0.1/30 dev site-b\n\
        ip link set site-b up; ip netns add far; ip -n far link add site-c type ipip local 10.1.1.1 remote 10.1.1.2";
    machine.must(&format!("{CALICO}\n{others}")).unwrap();
    let would = json(&mut machine, "nodectl cleanup --calico --dry-run");
    let told = would["stays"].to_string();
    assert!(told.contains("site-b") && told.contains("site-c of another network namespace"), "{would:#}");
    machine.must("nodectl cleanup --calico --yes").unwrap();
    let left = machine.must(&format!("{LOOK}; ip -n far -o link")).unwrap();
    assert!(left.contains("site-b 10.7.0.1/30") && left.contains("site-c"), "{left}");
    assert!(!left.contains("10.244.1.1/32"), "{left}");
    let tunnel = left.lines().find(|line| line.starts_with("tunl0:")).unwrap_or_default();
    assert!(!tunnel.contains(",UP"), "tunl0 is there without an address, and down: {left}");
    assert_eq!(json(&mut machine, "nodectl cleanup --calico --yes")["outcome"], "nothing-to-do");
}

#[test]
fn flannels_tunnels_go_and_a_wireguard_of_the_users_stays() {
    let mut machine = boot();
    let flannel = "
ip link add eth0 type dummy; ip address add 192.168.77.1/24 dev eth0; ip link set eth0 up
ip link add wg0 type wireguard; ip address add 10.8.0.1/24 dev wg0; ip link set wg0 up
mkdir -p /run/flannel /etc/cni/net.d
printf 'FLANNEL_NETWORK=10.244.0.0/16\\nFLANNEL_SUBNET=10.244.1.1/24\\nFLANNEL_MTU=1420\\nFLANNEL_IPMASQ=true\\n' > /run/flannel/subnet.env
ip link add flannel-wg type wireguard; ip address add 10.244.1.0/32 dev flannel-wg; ip link set flannel-wg up
ip route add 10.244.0.0/16 dev flannel-wg
ip link add flannel.ipip type ipip local 192.168.77.1; ip address add 10.244.1.0/32 dev flannel.ipip; ip link set flannel.ipip up
ip route add 10.244.2.0/24 via 192.168.77.2 dev flannel.ipip onlink";
    machine.must(flannel).unwrap();
    machine.must("nodectl cleanup --flannel --yes").unwrap();
    let left = machine.must(LOOK).unwrap();
    assert!(!left.contains("flannel") && !left.contains("10.244."), "{left}");
    assert!(left.contains("wg0 10.8.0.1/24"), "{left}");
    // Neither its own nor anybody's: it is the kernel's, and flannel's cleanup leaves it alone.
    assert!(modules(&mut machine).contains(&"ipip".into()));
}
