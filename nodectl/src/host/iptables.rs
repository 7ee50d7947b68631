//! iptables, both variants and both families.
//!
//! Dumps and everything that must be atomic go through `iptables-save` and `iptables-restore`; the iptables crate answers single
//! questions. Always the tools of one variant by name (`iptables-nft-save`): what plain `iptables` means is the
//! distribution's choice, and the node's truth is where kubelet and kube-proxy write.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::nft;
use super::run::{self, Run};
use crate::facts::{Backend, Family, Firewall, Saved};
use crate::fault;

/// How long the tools wait for the lock that they share with kube-proxy and felix.
const LOCK_WAIT: &str = "5";

/// Time given to one tool; a node with many services has tens of thousands of rules.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Chains that kubelet and iptables-wrapper keep for telling which variant is in use.
const HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// The variant that plain `iptables` is, where the suffixed tools do not exist (RHEL 8 has only nft, older systems only legacy).
static PLAIN: LazyLock<Option<Backend>> = LazyLock::new(|| {
    let version = Run::new("iptables").args(["-V"]).text().ok()?;
    Some(if version.contains("(nf_tables)") { Backend::Nft } else { Backend::Legacy })
});

/// Full paths of the tools that answer single questions: the iptables crate wants them for as long as the program runs, and
/// would look for names in the caller's PATH.
static LOOKERS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let names = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "iptables", "ip6tables"];
    let paths = run::PATH.split(':').flat_map(|dir| names.iter().map(move |name| format!("{dir}/{name}")));
    paths.filter(|path| Path::new(path).exists()).map(|path| &*path.leak()).collect()
});

/// Both variants and families, and which variant Kubernetes writes to.
pub fn observe() -> Result<Firewall> {
    let saved = saved()?;
    Ok(Firewall { active: active(&saved), saved, ..Firewall::default() })
}

/// `iptables-save` of every variant and family that has tables.
pub fn saved() -> Result<Vec<Saved>> {
    let mut saved = Vec::new();
    for backend in [Backend::Nft, Backend::Legacy] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let raw = save_raw(backend, family)?;
            let (text, opaque) = (normalise(&raw), opaque(&raw));
            if !text.is_empty() || !opaque.is_empty() {
                saved.push(Saved { backend, family, text, opaque });
            }
        }
    }
    Ok(saved)
}

/// An error where the kernel has tables that no tool here can show: an agent in a container brings tools of its own.
pub fn readable() -> Result<()> {
    let families = [Family::Ipv4, Family::Ipv6];
    let lacks = |backend, family| tool(backend, family, "-save").is_none();
    let native =
        if families.iter().any(|family| lacks(Backend::Nft, *family)) { nft::tables_of_iptables()? } else { vec![] };
    let is_there = |backend: Backend, family: Family| match backend {
        Backend::Legacy => legacy_in_use(family),
        Backend::Nft => {
            let start = if family == Family::Ipv4 { "ip " } else { "ip6 " };
            native.iter().any(|table| table.starts_with(start))
        }
    };
    let all = [Backend::Nft, Backend::Legacy].into_iter().flat_map(|b| families.into_iter().map(move |f| (b, f)));
    let missing = all.filter(|(b, f)| lacks(*b, *f) && is_there(*b, *f));
    let missing: Vec<String> = missing.map(|(b, f)| format!("{}-{}", base(f), name(b))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the kernel has tables of {}, and the tool is not installed, so nobody can see what is in them. To fix it: install \
         iptables (both variants, where the distribution has two packages)",
        missing.join(", ")
    )
}

/// The variant that Kubernetes writes to, by its chains; `None` where neither has any.
pub fn active(saved: &[Saved]) -> Option<Backend> {
    let lines = |backend: Backend| saved.iter().filter(move |s| s.backend == backend).flat_map(|s| s.text.lines());
    let hinted = |backend| lines(backend).any(|line| HINTS.iter().any(|hint| line.starts_with(hint)));
    let used = |backend| lines(backend).filter(|line| line.starts_with(":KUBE-")).count();
    match (hinted(Backend::Nft), hinted(Backend::Legacy)) {
        (true, false) => Some(Backend::Nft),
        (false, true) => Some(Backend::Legacy),
        // Both or neither: leftovers of a change of variant are fewer than what is in use.
        _ => match (used(Backend::Nft), used(Backend::Legacy)) {
            (0, 0) => None,
            (nft, legacy) if nft >= legacy => Some(Backend::Nft),
            _ => Some(Backend::Legacy),
        },
    }
}

/// `iptables-save` of one variant and family in normal form: no comments, counters zero. Empty where it has no tables.
pub fn save(backend: Backend, family: Family) -> Result<String> {
    save_raw(backend, family).map(|text| normalise(&text))
}

fn save_raw(backend: Backend, family: Family) -> Result<String> {
    if backend == Backend::Legacy && !legacy_in_use(family) {
        return Ok(String::new());
    }
    let Some(tool) = tool(backend, family, "-save") else {
        // Without the tool nobody can have written with it from here; but the nft variant may be a container's.
        return Ok(String::new());
    };
    Run::new(&tool).timeout(TIMEOUT).text().context("could not read the packet filter")
}

/// Tables of which `iptables-nft-save` says, and with success, that it cannot show them: somebody has put a rule of nftables'
/// own into one.
fn opaque(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.strip_prefix("# Table `"));
    named.filter_map(|rest| rest.split_once("' is incompatible")).map(|(table, _)| table.to_owned()).collect()
}

/// Applies a batch in the syntax of `iptables-save`, each table of it in one piece; chains that it does not name stay.
pub fn restore(backend: Backend, family: Family, batch: &str) -> Result<()> {
    fault::point("iptables.restore");
    let tool = tool(backend, family, "-restore")
        .ok_or_else(|| anyhow!("there is no iptables-restore of the {} variant on this node", name(backend)))?;
    Run::new(&tool).args(["--noflush", "-w", LOCK_WAIT]).stdin(batch).timeout(TIMEOUT).text()?;
    Ok(())
}

/// Whether a chain exists.
pub fn chain_exists(backend: Backend, family: Family, table: &str, chain: &str) -> Result<bool> {
    // Listing a chain of a table that does not exist would create the table.
    let text = save(backend, family)?;
    if !text.lines().any(|line| line.strip_prefix('*') == Some(table)) {
        return Ok(false);
    }
    looker(backend, family)?
        .chain_exists(table, chain)
        .map_err(|e| anyhow!("could not look for the chain {chain}: {e}"))
}

/// The rules of a chain as `iptables -S` shows them.
pub fn list(backend: Backend, family: Family, table: &str, chain: &str) -> Result<Vec<String>> {
    if !chain_exists(backend, family, table, chain)? {
        return Ok(Vec::new());
    }
    looker(backend, family)?.list(table, chain).map_err(|e| anyhow!("could not list the chain {chain}: {e}"))
}

/// The legacy tools load their kernel modules when they only look, so the kernel is asked first, for the namespace of this
/// thread.
fn legacy_in_use(family: Family) -> bool {
    let file = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(file).is_ok_and(|names| !names.trim().is_empty())
}

fn looker(backend: Backend, family: Family) -> Result<iptables::IPTables> {
    let tool = tool(backend, family, "")
        .ok_or_else(|| anyhow!("there is no iptables of the {} variant on this node", name(backend)))?;
    let cmd = LOOKERS.iter().find(|path| path.ends_with(&format!("/{tool}")));
    let cmd = cmd.ok_or_else(|| anyhow!("{tool} was not found"))?;
    Ok(iptables::IPTables { cmd, has_check: true, has_wait: true, is_numeric: false })
}

/// The name of a tool of one variant: the suffixed one where it is installed, the plain one where that is of this variant.
fn tool(backend: Backend, family: Family, verb: &str) -> Option<String> {
    let base = base(family);
    let suffixed = format!("{base}-{}{verb}", name(backend));
    if run::installed(&suffixed) {
        return Some(suffixed);
    }
    let plain = format!("{base}{verb}");
    (*PLAIN == Some(backend) && run::installed(&plain)).then_some(plain)
}

fn base(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::Nft => "nft",
        Backend::Legacy => "legacy",
    }
}

fn normalise(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.rsplit_once(" [").filter(|(_, counters)| line.starts_with(':') && counters.ends_with(']')) {
            Some((chain, _)) => lines.push_str(&format!("{chain} [0:0]\n")),
            None => lines.push_str(&format!("{line}\n")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(backend: Backend, text: &str) -> Saved {
        Saved { backend, family: Family::Ipv4, text: text.to_owned(), opaque: Vec::new() }
    }

    #[test]
    fn the_variant_with_the_hint_is_the_active_one() {
        let hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
        let old = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\nCOMMIT\n";
        let (nft, legacy) = (Backend::Nft, Backend::Legacy);
        assert_eq!(active(&[saved(nft, hint), saved(legacy, old)]), Some(nft));
        assert_eq!(active(&[saved(nft, old), saved(legacy, hint)]), Some(legacy));
        assert_eq!(active(&[saved(legacy, old)]), Some(legacy));
        assert_eq!(active(&[saved(nft, "*nat\n:DOCKER - [0:0]\nCOMMIT\n")]), None);
    }

    #[test]
    fn tables_that_cannot_be_shown_are_named() {
        let text = "# Table `filter' is incompatible, use 'nft' tool.\n*nat\nCOMMIT\n# Table `raw' is incompatible, use 'nft' tool.\n";
        assert_eq!(opaque(text), ["filter", "raw"]);
        assert!(opaque("*nat\n-A POSTROUTING -m comment --comment \"is incompatible\" -j RETURN\nCOMMIT\n").is_empty());
    }

    #[test]
    fn dumps_are_comparable() {
        let text = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [12:3456]\n:X - [0:0]\n-A X -m comment --comment \"a [b]\" -j RETURN\nCOMMIT\n# done\n";
        let wanted =
            "*nat\n:PREROUTING ACCEPT [0:0]\n:X - [0:0]\n-A X -m comment --comment \"a [b]\" -j RETURN\nCOMMIT\n";
        assert_eq!(normalise(text), wanted);
    }
}
