//! felix's iptables rules, as text and with their hashes. Pure.

use base64::Engine;
use sha2::{Digest, Sha256};

use crate::agent::family::Family;

use super::desired::{Desired, device_name};
use super::ipsets;

/// A table's share of felix's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// filter, nat, mangle or raw.
    pub name: &'static str,
    /// felix's own chains.
    pub chains: Vec<(String, Vec<Rule>)>,
    /// Rules at the top of the kernel's chains.
    pub inserts: Vec<(&'static str, Vec<Rule>)>,
    /// Rules at the end of the kernel's chains.
    pub appends: Vec<(&'static str, Vec<Rule>)>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Sixteen characters that depend on the chain, the rules above and the rule.
    pub hash: String,
    /// The whole rule as iptables-restore wants it, without `-A CHAIN`.
    pub text: String,
}

/// Packets that policy let through.
const ACCEPT: &str = "0x10000/0x10000";
/// Scratch bit 0 (bit 0x40000 means drop, from 3.30 on): packets that came from a pod.
const FROM_POD: &str = "0x80000/0x80000";

/// Gives the rules of a chain their hashes: each depends on the one before.
fn hashed(chain: &str, rules: &[String]) -> Vec<Rule> {
    let mut previous = chain.to_owned();
    let hash = |rule: &String| {
        previous = format!("{previous}\n{rule}");
        let digest = Sha256::digest(&previous);
        let hash: String = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest).chars().take(16).collect();
        let text = format!("-m comment --comment \"cali:{hash}\" {rule}");
        Rule { hash, text }
    };
    rules.iter().map(hash).collect()
}

fn chain(name: &str, rules: &[String]) -> (String, Vec<Rule>) {
    (name.to_owned(), hashed(name, rules))
}

fn hook(kernel: &'static str, rules: &[String]) -> (&'static str, Vec<Rule>) {
    (kernel, hashed(&format!("hook {kernel}"), rules))
}

fn text(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

/// All four tables.
pub fn tables(wanted: &Desired) -> Vec<Table> {
    vec![raw(wanted), mangle(), nat(wanted), filter(wanted)]
}

fn raw(wanted: &Desired) -> Table {
    let mut incoming = text(&["-j MARK --set-xmark 0x0/0xf0000"]);
    let mut outgoing = text(&["-j MARK --set-xmark 0x0/0xf0000"]);
    if wanted.vxlan_on {
        let untracked = |kind: &str| {
            format!("-p udp -m udp --dport {} -m addrtype --{kind} LOCAL -j CT --notrack", wanted.config.port)
        };
        incoming.push(untracked("dst-type"));
        outgoing.push(untracked("src-type"));
    }
    incoming.push(format!("-i cali+ -j MARK --set-xmark {FROM_POD}"));
    incoming.push(format!("-m mark --mark {FROM_POD} -j cali-rpf-skip"));
    // Strict: a pod's packet whose way back is not its own interface is forged.
    incoming.push(format!("-m mark --mark {FROM_POD} -m rpfilter --validmark --invert -j DROP"));
    incoming.push(format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    outgoing.push(format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    Table {
        name: "raw",
        chains: vec![chain("cali-PREROUTING", &incoming), chain("cali-rpf-skip", &[]), chain("cali-OUTPUT", &outgoing)],
        inserts: vec![hook("PREROUTING", &text(&["-j cali-PREROUTING"])), hook("OUTPUT", &text(&["-j cali-OUTPUT"]))],
        appends: Vec::new(),
    }
}

fn mangle() -> Table {
    let established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned();
    let accepted = |verdict: &str| format!("-m mark --mark {ACCEPT} -j {verdict}");
    Table {
        name: "mangle",
        chains: vec![
            chain("cali-PREROUTING", &[established, accepted("ACCEPT")]),
            chain("cali-POSTROUTING", &[accepted("RETURN")]),
        ],
        inserts: vec![
            hook("PREROUTING", &text(&["-j cali-PREROUTING"])),
            hook("POSTROUTING", &text(&["-j cali-POSTROUTING"])),
        ],
        appends: Vec::new(),
    }
}

fn nat(wanted: &Desired) -> Table {
    let set = |id: &str| ipsets::name(wanted.family, id);
    let outgoing = format!(
        "-m set --match-set {} src -m set ! --match-set {} dst -j MASQUERADE --random-fully",
        set("masq-ipam-pools"),
        set("all-ipam-pools")
    );
    let mut postrouting = text(&["-j cali-fip-snat", "-j cali-nat-outgoing"]);
    if wanted.vxlan_on {
        let device = device_name(wanted.family);
        postrouting.push(format!("-o {device} -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL -j MASQUERADE --random-fully"));
    }
    Table {
        name: "nat",
        chains: vec![
            chain("cali-PREROUTING", &text(&["-j cali-fip-dnat"])),
            chain("cali-OUTPUT", &text(&["-j cali-fip-dnat"])),
            chain("cali-POSTROUTING", &postrouting),
            chain("cali-fip-dnat", &[]),
            chain("cali-fip-snat", &[]),
            chain("cali-nat-outgoing", &[outgoing]),
        ],
        inserts: vec![hook("PREROUTING", &text(&["-j cali-PREROUTING"])), hook("OUTPUT", &text(&["-j cali-OUTPUT"]))],
        // Always appended, whatever the insert mode.
        appends: vec![hook("POSTROUTING", &text(&["-j cali-POSTROUTING"]))],
    }
}

fn filter(wanted: &Desired) -> Table {
    let mut chains = vec![
        chain("cali-INPUT", &input(wanted)),
        chain("cali-FORWARD", &forward()),
        chain("cali-OUTPUT", &output()),
        chain("cali-wl-to-host", &to_host(wanted)),
        chain("cali-from-wl-dispatch", &dispatch(wanted, "-i", "fw")),
        chain("cali-to-wl-dispatch", &dispatch(wanted, "-o", "tw")),
    ];
    let mut namespaces: Vec<&str> = wanted.endpoints.iter().map(|endpoint| endpoint.namespace.as_str()).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let allow = [
            format!("-m comment --comment \"Profile kns.{namespace}\" -j MARK --set-xmark {ACCEPT}"),
            format!("-m mark --mark {ACCEPT} -j RETURN"),
        ];
        chains.push(chain(&profile("pri", namespace), &allow));
        chains.push(chain(&profile("pro", namespace), &allow));
    }
    for endpoint in &wanted.endpoints {
        chains.push(chain(
            &format!("cali-tw-{}", endpoint.interface),
            &endpoint_rules(&[], &profile("pri", &endpoint.namespace)),
        ));
        chains.push(chain(
            &format!("cali-fw-{}", endpoint.interface),
            &endpoint_rules(&forbidden(wanted), &profile("pro", &endpoint.namespace)),
        ));
    }
    Table {
        name: "filter",
        chains,
        inserts: vec![
            hook("INPUT", &text(&["-j cali-INPUT"])),
            hook("FORWARD", &text(&["-j cali-FORWARD"])),
            hook("OUTPUT", &text(&["-j cali-OUTPUT"])),
        ],
        appends: vec![hook(
            "FORWARD",
            &[
                format!(
                    "-m comment --comment \"Policy explicitly accepted packet.\" -m mark --mark {ACCEPT} -j ACCEPT"
                ),
                format!("-j MARK --set-xmark {ACCEPT}"),
            ],
        )],
    }
}

fn input(wanted: &Desired) -> Vec<String> {
    let mut rules = Vec::new();
    if wanted.vxlan_on {
        let (port, family, hosts) = (wanted.config.port, wanted.family, ipsets::name(wanted.family, "all-vxlan-net"));
        rules.push(format!("-p udp -m comment --comment \"Allow {family} VXLAN packets from allowed hosts\" -m multiport --dports {port} -m set --match-set {hosts} src -m addrtype --dst-type LOCAL -j ACCEPT"));
        rules.push(format!("-p udp -m comment --comment \"Drop {family} VXLAN packets from non-allowed hosts\" -m multiport --dports {port} -m addrtype --dst-type LOCAL -j DROP"));
    }
    rules.push("-i cali+ -g cali-wl-to-host".to_owned());
    rules.push(format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    rules.push("-j MARK --set-xmark 0x0/0xf0000".to_owned());
    rules
}

fn forward() -> Vec<String> {
    text(&["-j MARK --set-xmark 0x0/0xe0000", "-i cali+ -j cali-from-wl-dispatch", "-o cali+ -j cali-to-wl-dispatch"])
}

fn output() -> Vec<String> {
    let accepted = format!("-m mark --mark {ACCEPT} -j ACCEPT");
    vec![accepted.clone(), "-o cali+ -j RETURN".to_owned(), "-j MARK --set-xmark 0x0/0xf0000".to_owned(), accepted]
}

fn to_host(wanted: &Desired) -> Vec<String> {
    // Listener queries and reports, router and neighbour discovery: without them IPv6 does not begin to work.
    const DISCOVERY: [u8; 6] = [130, 131, 132, 133, 135, 136];
    let mut rules = Vec::new();
    if wanted.family == Family::V6 {
        rules.extend(DISCOVERY.map(|kind| format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT")));
    }
    rules.push("-j cali-from-wl-dispatch".to_owned());
    let action = &wanted.config.endpoint_to_host;
    rules.push(format!("-m comment --comment \"Configured DefaultEndpointToHostAction\" -j {action}"));
    rules
}

/// One branch per endpoint; whatever else bears a cali name is dropped.
fn dispatch(wanted: &Desired, direction: &str, kind: &str) -> Vec<String> {
    let branch = |endpoint: &crate::calico::endpoint::Endpoint| {
        format!("{direction} {0} -g cali-{kind}-{0}", endpoint.interface)
    };
    let mut rules: Vec<String> = wanted.endpoints.iter().map(branch).collect();
    rules.push("-m comment --comment \"Unknown interface\" -j DROP".to_owned());
    rules
}

fn endpoint_rules(extra: &[String], profile: &str) -> Vec<String> {
    let mut rules = text(&[
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m conntrack --ctstate INVALID -j DROP",
        "-j MARK --set-xmark 0x0/0x30000",
    ]);
    rules.extend_from_slice(extra);
    rules.push(format!("-j {profile}"));
    rules.push(format!("-m comment --comment \"Return if profile accepted\" -m mark --mark {ACCEPT} -j RETURN"));
    rules.push("-m comment --comment \"Drop if no profiles matched\" -j DROP".to_owned());
    rules
}

/// Pods may not send tunnelled packets themselves.
fn forbidden(wanted: &Desired) -> Vec<String> {
    let vxlan = format!(
        "-p udp -m comment --comment \"Drop VXLAN encapped packets originating in workloads\" -m multiport --dports {} -j DROP",
        wanted.config.port
    );
    let mut rules = vec![vxlan];
    if wanted.family == Family::V4 {
        // By number, as felix gives it: a machine may lack /etc/protocols.
        let ipip = "-p 4 -m comment --comment \"Drop IPinIP encapped packets originating in workloads\" -j DROP";
        rules.push(ipip.to_owned());
    }
    rules
}

/// A profile's chain; names beyond the kernel's 28 characters are hashed.
fn profile(kind: &str, namespace: &str) -> String {
    let name = format!("cali-{kind}-kns.{namespace}");
    if name.len() <= 28 {
        return name;
    }
    let digest = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Sha256::digest(namespace));
    format!("cali-{kind}-_{}", digest.chars().take(16).collect::<String>())
}
