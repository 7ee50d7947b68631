//! Normal forms of what the tools print.

use anyhow::Result;

use super::links;

/// A section's lines, without what changes by itself, in a fixed order where the order means nothing.
pub fn section(name: &str, text: &str) -> Result<Vec<String>> {
    match name {
        "links" => return links::links(text),
        "addresses" => return links::addresses(text),
        _ => {}
    }
    let mut lines: Vec<String> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match name {
        // The order of rules is what they mean.
        "iptables-nft" | "ip6tables-nft" | "iptables-legacy" | "ip6tables-legacy" => return Ok(rules(lines)),
        "routes" => lines.iter_mut().for_each(|line| *line = route(line)),
        "routes6" => {
            lines.retain(|line| !follows_link_local(line));
            lines.iter_mut().for_each(|line| *line = route(line));
        }
        // Learned entries come and go.
        "fdb" => lines.retain(|line| (line.contains("permanent") || line.contains(" dst ")) && !is_multicast(line)),
        "ipsets" => return Ok(sets(lines)),
        "sums" => lines.iter_mut().for_each(|line| *line = sum(line)),
        _ => {}
    }
    lines.sort();
    Ok(lines)
}

/// What the kernel adds by itself a second after a link-local address, when nobody else has claimed it.
fn follows_link_local(line: &str) -> bool {
    ["local fe80:", "anycast fe80:", "multicast ff00:"].iter().any(|start| line.starts_with(start))
}

/// Groups that a device listens to: they follow its addresses, with a delay.
fn is_multicast(line: &str) -> bool {
    line.starts_with("33:33:") || line.starts_with("01:00:5e:")
}

/// Rules without comments and counters, each with its table, chains sorted.
fn rules(lines: Vec<String>) -> Vec<String> {
    let (mut table, mut chains, mut rules) = (String::new(), Vec::new(), Vec::new());
    for line in lines {
        match line.chars().next() {
            Some('*') => table = line.trim_start_matches('*').to_owned(),
            Some(':') => {
                let words: Vec<&str> = line.split_whitespace().take(2).collect();
                chains.push(format!("{table} {}", words.join(" ")));
            }
            Some('-') => rules.push(format!("{table} {line}")),
            _ => {}
        }
    }
    chains.sort();
    // Stable: within a chain the order stays.
    rules.sort_by_key(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
    chains.extend(rules);
    chains
}

/// A route without its timers.
fn route(line: &str) -> String {
    let mut words = Vec::new();
    let mut rest = line.split_whitespace();
    while let Some(word) = rest.next() {
        match word {
            "expires" | "age" | "hoplimit" => drop(rest.next()),
            // Says whether the device has a carrier just now.
            "linkdown" | "dead" => {}
            _ => words.push(word),
        }
    }
    words.join(" ")
}

/// Sets, each followed by its members in order; without what the kernel chose.
fn sets(lines: Vec<String>) -> Vec<String> {
    let mut sets: Vec<String> =
        lines.iter().map(|line| line.split(" initval ").next().unwrap_or(line).to_owned()).collect();
    sets.sort();
    sets
}

/// "path hash", the hash shortened.
fn sum(line: &str) -> String {
    let (hash, path) = line.split_once("  ").unwrap_or((line, ""));
    format!("{path} {}", hash.get(..16).unwrap_or(hash))
}

/// True for a line that belongs to one pod.
pub fn is_of_a_pod(section: &str, line: &str) -> bool {
    let is_host_side = |word: &str| word.starts_with("veth") || word.starts_with("cali");
    match section {
        "links" | "addresses" => line.split_whitespace().next().is_some_and(is_host_side),
        "routes" | "routes6" | "neighbours" | "fdb" => line.split_whitespace().any(is_host_side),
        "sysctls" => is_host_side(line),
        "iptables-nft" | "iptables-legacy" | "ip6tables-nft" | "ip6tables-legacy" => {
            ["CNI-DN-", " cali-tw-", " cali-fw-", "-i cali", "-o cali"].iter().any(|mark| line.contains(mark))
        }
        "modes" | "sums" | "texts" => {
            ["/var/lib/cni/results/", "/var/lib/cni/networks/", "/var/lib/cni/flannel/", "/run/calico/"]
                .iter()
                .any(|folder| line.contains(folder))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_order_within_a_chain_and_lose_their_counters() {
        let text = "# Generated\n*nat\n:B - [1:2]\n:A ACCEPT [3:4]\n-A B -j x\n-A A -j z\n-A A -j y\nCOMMIT\n";
        assert_eq!(
            section("iptables-nft", text).unwrap(),
            ["nat :A ACCEPT", "nat :B -", "nat -A A -j z", "nat -A A -j y", "nat -A B -j x"]
        );
    }

    #[test]
    fn routes_lose_their_timers() {
        assert_eq!(route("fe80::/64 dev a expires 10sec pref medium linkdown"), "fe80::/64 dev a pref medium");
    }
}
