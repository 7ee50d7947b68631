//! flannel's rules, of all releases: by chain, by comment, by exact shape. Pure.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{comment, jump};

/// flannel's chains, all releases.
pub fn is_flannel_chain(name: &str) -> bool {
    matches!(name, "FLANNEL" | "FLANNEL-POSTRTG" | "FLANNEL-FWD")
}

/// The comment that flannel (0.16.2 and later) gives to what it writes into this chain.
pub fn flannel_comment(table: &str, chain: &str) -> Option<&'static str> {
    match (table, chain) {
        ("nat", "POSTROUTING") => Some("flanneld masq"),
        ("filter", "FORWARD") => Some("flanneld forward"),
        _ => None,
    }
}

/// flannel's rules in others' chains that name it: jumps to its chains, or its comment on a rule as it writes them there.
pub fn is_flannel_rule(table: &str, chain: &str, spec: &str) -> bool {
    let written = || Shape::parse(spec).and_then(|s| s.flannels()).is_some_and(|rule| rule.what.is_in(table));
    jump(spec).is_some_and(is_flannel_chain)
        || comment(spec).is_some_and(|said| flannel_comment(table, chain) == Some(said)) && written()
}

/// flannel's rules in kernel chains that do not name it (0.5.6 to 0.16.1): those of the networks given, and only where the
/// whole set stands, since each alone may be an administrator's. Two rules of FORWARD are no set: administrators let pods
/// through Docker's policy with the same two. They are flannel's beside its masquerading, or where that was `seen` before.
/// As (table, chain, specification).
pub fn unnamed_flannel_rules(save: &str, networks: &[IpNet], seen: &[IpNet]) -> HashSet<(String, String, String)> {
    let masqueraded = unnamed_networks(save, networks);
    let mut found = HashSet::new();
    for (table, chain) in [("nat", "POSTROUTING"), ("filter", "FORWARD")] {
        let rules = unnamed(save, table, chain);
        for network in networks {
            let of = |what: What| rules.iter().any(|(_, rule)| rule.network == *network && rule.what == what);
            let whole = match table {
                "nat" => masqueraded.contains(network),
                _ => (masqueraded.contains(network) || seen.contains(network)) && of(What::From) && of(What::To),
            };
            let chosen = rules.iter().filter(|(_, rule)| whole && rule.network == *network && rule.what.is_in(table));
            found.extend(chosen.map(|(spec, _)| (table.to_owned(), chain.to_owned(), (*spec).to_owned())));
        }
    }
    found
}

/// Those of the networks whose whole masquerading stands without a name.
pub fn unnamed_networks(save: &str, networks: &[IpNet]) -> Vec<IpNet> {
    let (table, chain) = ("nat", "POSTROUTING");
    let rules = unnamed(save, table, chain);
    let is_whole = |network: &&IpNet| {
        let has = |what: What| rules.iter().any(|(_, rule)| rule.network == **network && rule.what == what);
        has(What::Outward) && has(What::Inward) && has(What::Within)
            // Up to 0.5.5 a chain of its own holds the rest.
            || has(What::Inward) && specs(save, table, chain).any(|spec| jump(spec) == Some("FLANNEL"))
    };
    networks.iter().filter(is_whole).copied().collect()
}

/// Rules of FORWARD that let these networks' packets through, without a name.
pub fn unnamed_forward<'s>(save: &'s str, networks: &[IpNet]) -> Vec<&'s str> {
    let rules = unnamed(save, "filter", "FORWARD").into_iter();
    rules
        .filter(|(_, rule)| rule.what.is_in("filter") && networks.contains(&rule.network))
        .map(|(spec, _)| spec)
        .collect()
}

/// Rules without a comment that are as flannel writes them, with what they are.
fn unnamed<'s>(save: &'s str, table: &str, chain: &str) -> Vec<(&'s str, FlannelRule)> {
    let plain = specs(save, table, chain).filter(|spec| comment(spec).is_none());
    plain.filter_map(|spec| Some((spec, Shape::parse(spec)?.flannels()?))).collect()
}

/// The pod networks that flannel's own rules name.
pub fn flannel_networks(save: &str) -> Vec<IpNet> {
    let lines = save.lines().filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
    let own = lines.filter(|(chain, spec)| {
        let told = comment(spec);
        let named = |table| told.is_some() && flannel_comment(table, chain) == told;
        is_flannel_chain(chain) || named("nat") || named("filter")
    });
    own.filter_map(|(_, spec)| {
        let rule = Shape::parse(spec)?.flannels()?;
        (rule.what == What::Outward || rule.what == What::From).then_some(rule.network)
    })
    .collect()
}

/// What of a rule flannel uses: its ends, its target, and nothing else.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    src: Option<(bool, IpNet)>,
    dst: Option<(bool, IpNet)>,
    target: String,
}

/// A rule as flannel writes them outside of its chains.
#[derive(Debug, PartialEq)]
struct FlannelRule {
    what: What,
    network: IpNet,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// Out of the network: masqueraded.
    Outward,
    /// Into the network from elsewhere: masqueraded.
    Inward,
    /// Within the network: left alone.
    Within,
    /// Into this node's part: left alone.
    Local,
    /// Forwarded from the network.
    From,
    /// Forwarded to the network.
    To,
}

impl What {
    /// Whether flannel has such rules in this table.
    fn is_in(self, table: &str) -> bool {
        (table == "filter") == matches!(self, What::From | What::To)
    }
}

impl Shape {
    /// `None` for a rule that looks at anything else.
    fn parse(spec: &str) -> Option<Shape> {
        let plain = match spec.split_once("-m comment --comment ") {
            Some((before, after)) => {
                let rest = match after.strip_prefix('"') {
                    Some(quoted) => quoted.split_once('"')?.1,
                    None => after.split_once(' ').map_or("", |(_, rest)| rest),
                };
                format!("{before}{rest}")
            }
            None => spec.to_owned(),
        };
        let (mut shape, mut negated) = (Shape::default(), false);
        let mut words = plain.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "!" => negated = true,
                "-s" => shape.src = Some((std::mem::take(&mut negated), words.next()?.parse().ok()?)),
                "-d" => shape.dst = Some((std::mem::take(&mut negated), words.next()?.parse().ok()?)),
                "-j" => shape.target = words.next()?.to_owned(),
                "--random-fully" => {}
                _ => return None,
            }
        }
        Some(shape)
    }

    fn flannels(&self) -> Option<FlannelRule> {
        let multicast = |net: &IpNet| ["224.0.0.0/4", "ff00::/8"].contains(&net.to_string().as_str());
        let rule = |what, network| Some(FlannelRule { what, network });
        match (self.src, self.dst, self.target.as_str()) {
            (Some((false, src)), Some((true, dst)), "MASQUERADE") if multicast(&dst) => rule(What::Outward, src),
            (Some((true, src)), Some((false, dst)), "MASQUERADE") if src == dst => rule(What::Inward, dst),
            (Some((false, src)), Some((false, dst)), "RETURN") if src == dst => rule(What::Within, src),
            (Some((true, net)), Some((false, subnet)), "RETURN") if net.contains(&subnet) => rule(What::Local, net),
            (Some((false, src)), None, "ACCEPT") => rule(What::From, src),
            (None, Some((false, dst)), "ACCEPT") => rule(What::To, dst),
            _ => None,
        }
    }
}

/// Specifications of the rules in one chain of one table.
fn specs<'s>(save: &'s str, table: &str, chain: &str) -> impl Iterator<Item = &'s str> {
    let (table, prefix, mut inside) = (table.to_owned(), format!("-A {chain} "), false);
    save.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            inside = name == table;
        }
        line.strip_prefix(&prefix).filter(|_| inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_without_a_name_are_flannels_only_as_a_whole_set() {
        let net: IpNet = "10.244.0.0/16".parse().unwrap();
        let all = [
            "-s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
            "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            "! -s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN",
            "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully",
        ];
        let save = |rules: &[&str]| {
            let lines: String = rules.iter().map(|r| format!("-A POSTROUTING {r}\n")).collect();
            format!("*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -s 10.244.9.9/32 -j MASQUERADE\n{lines}COMMIT\n")
        };
        let found = |text: &str, net: IpNet, seen: &[IpNet]| unnamed_flannel_rules(text, &[net], seen).len();
        assert_eq!(found(&save(&all), net, &[]), 4);
        assert_eq!(found(&save(&all), "10.0.0.0/8".parse().unwrap(), &[]), 0);
        assert_eq!(found(&save(&all[1..]), net, &[]), 0, "an administrator may have three of them");
        let forward = "*filter\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n-A FORWARD -d 10.244.0.0/16 -j ACCEPT\nCOMMIT\n";
        assert_eq!(found(forward, net, &[]), 0, "an administrator lets pods through with these two");
        assert_eq!(found(&format!("{}{forward}", save(&all)), net, &[]), 6);
        assert_eq!(found(forward, net, &[net]), 2, "the first table has gone, then came a kill");
        let narrower = forward.replace("-d 10.244.0.0/16 -j", "-d 10.244.0.0/16 -i eth0 -j");
        assert_eq!(found(&narrower, net, &[net]), 0);
    }

    #[test]
    fn flannels_comment_alone_makes_no_rule_flannels() {
        let port = "-p udp --dport 8472 -m comment --comment \"flanneld forward\" -j ACCEPT";
        assert!(!is_flannel_rule("filter", "FORWARD", port));
        let forward = "-s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
        assert!(is_flannel_rule("filter", "FORWARD", forward));
        for (table, chain) in [("filter", "OFFICE"), ("filter", "INPUT"), ("nat", "POSTROUTING"), ("mangle", "FORWARD")]
        {
            assert!(!is_flannel_rule(table, chain, forward), "{table} {chain}");
        }
        let accept = "-d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j ACCEPT";
        assert!(!is_flannel_rule("nat", "POSTROUTING", accept), "flannel accepts nothing there");
        let masq = "*nat\n-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n";
        assert_eq!(flannel_networks(masq), ["10.5.0.0/16".parse().unwrap()]);
    }
}
