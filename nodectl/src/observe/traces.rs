//! What CNIs leave beside links, routes, iptables rules and sets. A part that cannot be looked at is named, as everywhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde_json::Value;

use crate::facts::{Backend, Facts, Family, Mention, NftTable, Note, Traces};
use crate::host::{Host, files, ipset, kmod, mount, netlink, netns, nft_rules, sockets, sysctl, xfrm};
use crate::ownership::files::{LEASES, RESULTS, SNIPPETS, plugin_types};
use crate::ownership::known::owner_of_plugin;
use crate::ownership::links::TUNL0;
use crate::ownership::{files as owned_files, kernel, stays};

/// Tables of nftables that plugins share.
const SHARED: [&str; 3] = ["inet cni_plugins_masquerade", "ip cni_hostport", "ip6 cni_hostport"];
/// Names of felix's sets of pools, behind `cali40` or `cali60`.
const POOLS: [&str; 3] = ["all-ipam-pools", "masq-ipam-pools", "network-ip-pools"];
/// Where Debian's package manager notes the files of each package.
const DPKG: &str = "/var/lib/dpkg/info";
/// The largest configuration file of others that is looked through, in bytes.
const LARGEST: u64 = 4 << 20;

type Failed = BTreeMap<String, String>;

/// Everything, and what could not be looked at.
pub(super) fn observe(host: &Host, facts: &Facts) -> (Traces, Failed) {
    let mut failed = Failed::new();
    let listings = listings(host, facts);
    let notes = notes(host, &listings);
    let traffic = part(&mut failed, "traffic control", netlink::traffic());
    let modules = part(&mut failed, "modules", modules());
    let traces = Traces {
        nft_tables: part(&mut failed, "nftables rules", nft_tables(facts)),
        pools: part(&mut failed, "pools", pools(facts)),
        filters: traffic.filters,
        clsact: traffic.clsact,
        xfrm_policies: part(&mut failed, "IPsec policies", xfrm::policies()),
        xfrm_states: part(&mut failed, "IPsec states", xfrm::states()),
        connections: part(&mut failed, "connections", sockets::established()),
        mounts: part(&mut failed, "mounts", mount::points()),
        ipip_users: if modules.is_empty() { Vec::new() } else { part(&mut failed, "tunnels", ipip_users(facts)) },
        modules,
        mentions: mentions(host),
        snippets: snippets(host, &listings),
        packaged: packaged(host, facts, &listings),
        sysctls: kernel::sysctls().filter_map(|n| Some((n.to_owned(), sysctl::read(n).ok()??))).collect(),
        sysctls_then: sysctls_then(host).unwrap_or_default(),
        listings,
        notes,
        peers: Vec::new(),
    };
    (traces, failed)
}

fn part<T: Default>(failed: &mut Failed, name: &str, found: Result<T>) -> T {
    found.unwrap_or_else(|error| {
        failed.insert(name.to_owned(), format!("{error:#}"));
        T::default()
    })
}

/// Plugins' shared tables, and those that iptables cannot show.
fn nft_tables(facts: &Facts) -> Result<Vec<NftTable>> {
    let mut names: Vec<String> = Vec::new();
    for saved in facts.firewall.saved.iter().filter(|s| s.backend == Backend::Nft) {
        let family = if saved.family == Family::Ipv4 { "ip" } else { "ip6" };
        names.extend(saved.opaque.iter().map(|table| format!("{family} {table}")));
    }
    names.extend(facts.firewall.nft_tables.iter().filter(|t| SHARED.contains(&t.as_str())).cloned());
    let mut tables = Vec::new();
    for name in names {
        tables.extend(nft_rules::read(&name)?);
    }
    Ok(tables)
}

/// Members of felix's sets of pools, whichever backend it writes to.
fn pools(facts: &Facts) -> Result<Vec<IpNet>> {
    let is_pools = |name: &str| {
        let rest = name.strip_prefix("cali40").or_else(|| name.strip_prefix("cali60"));
        rest.is_some_and(|rest| POOLS.contains(&rest))
    };
    let names: Vec<&String> = facts.firewall.sets.iter().filter(|name| is_pools(name)).collect();
    let text = ipset::save(&names)?;
    let mut members: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("add ")?.split(' ').nth(1).map(str::to_owned)).collect();
    for table in facts.firewall.nft_tables.iter().filter(|t| ["ip calico", "ip6 calico"].contains(&t.as_str())) {
        members.extend(nft_rules::elements(table, is_pools)?);
    }
    let mut pools: Vec<IpNet> = members.iter().filter_map(|member| member.parse().ok()).collect();
    pools.sort_unstable();
    pools.dedup();
    Ok(pools)
}

fn modules() -> Result<Vec<String>> {
    let mut loaded = Vec::new();
    for name in kernel::MODULES {
        if kmod::loaded(name)? {
            loaded.push(name.to_owned());
        }
    }
    Ok(loaded)
}

/// Tunnels of ipip here and in other namespaces; every namespace may have a tunl0 of its own, which counts for nothing.
fn ipip_users(facts: &Facts) -> Result<Vec<String>> {
    let is_user = |l: &crate::facts::Link| l.kind == "ipip" && l.name != TUNL0;
    let mut users: Vec<String> = facts.network.links.iter().filter(|l| is_user(l)).map(|l| l.name.clone()).collect();
    for path in netns::others()? {
        // One that is gone by now has no tunnel.
        let Ok(Ok(links)) = netns::enter(&path, netlink::links) else { continue };
        users.extend(links.iter().filter(|l| is_user(l)).map(|l| format!("{} of another network namespace", l.name)));
    }
    Ok(users)
}

/// Names in the directories that hold what the CNIs leave. A directory that is a link is listed under its own name alone.
fn listings(host: &Host, facts: &Facts) -> BTreeMap<String, Vec<String>> {
    let mut directories = owned_files::directories(&facts.files.conf_dir, &facts.files.bin_dir);
    directories.extend(kernel::pin_directories());
    directories.push(format!("{}/calico/xdp", kernel::BPFFS));
    let mut listings = BTreeMap::new();
    for directory in directories {
        let path = host.path(&directory);
        let linked = path.ancestors().take_while(|p| *p != host.root()).any(Path::is_symlink);
        let names = files::list(&path).unwrap_or_default();
        if !linked && !names.is_empty() {
            listings.insert(directory, names);
        }
    }
    listings
}

/// Cached results, leases, and what flannel's plugin saved. One that cannot be read tells what its name tells.
fn notes(host: &Host, listings: &BTreeMap<String, Vec<String>>) -> Vec<Note> {
    let list = |dir: &str| listings.get(dir).into_iter().flatten();
    let mut notes = Vec::new();
    for dir in RESULTS {
        for name in list(dir) {
            let path = format!("{dir}/{name}");
            let value = read_json(&host.path(&path));
            notes.extend(result(&path, name, &value));
        }
    }
    for network in list(LEASES) {
        let dir = format!("{LEASES}/{network}");
        for name in files::list(&host.path(&dir)).unwrap_or_default() {
            let Ok(ip) = name.parse() else { continue };
            let path = format!("{dir}/{name}");
            let text = files::read_found_text(&host.path(&path)).ok().flatten().unwrap_or_default();
            let container = text.lines().next().unwrap_or_default().trim().to_owned();
            notes.push(Note { path, network: network.clone(), container, ips: vec![ip], ..Note::default() });
        }
    }
    for container in files::list(&host.path("/var/lib/cni/flannel")).unwrap_or_default() {
        let path = format!("/var/lib/cni/flannel/{container}");
        let value = read_json(&host.path(&path));
        let dsts = value["ipam"]["routes"].as_array().into_iter().flatten().filter_map(|r| r["dst"].as_str());
        let ranges =
            value["ipam"]["ranges"].as_array().into_iter().flatten().flat_map(|r| r.as_array().into_iter().flatten());
        let subnets = ranges.filter_map(|r| r["subnet"].as_str());
        let networks = subnets.chain(dsts).filter_map(|net| net.parse().ok()).collect();
        let network = value["name"].as_str().unwrap_or_default().to_owned();
        notes.push(Note { path, network, container, networks, ..Note::default() });
    }
    for note in &mut notes {
        // One that cannot be looked at is as old as can be.
        note.since = files::modified(&host.path(&note.path)).ok().flatten().unwrap_or_default();
    }
    notes
}

fn read_json(path: &Path) -> Value {
    let bytes = files::read_found(path).ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// libcni's cache (`cniCacheV1`), or the bare result of older ones, of which the name alone tells network and container.
fn result(path: &str, name: &str, value: &Value) -> Option<Note> {
    let cached = value["kind"] == "cniCacheV1";
    let of_name = || {
        // NETWORK-CONTAINER-INTERFACE; a network's name may hold dashes, a container's id does not.
        let (rest, _) = name.rsplit_once('-')?;
        rest.rsplit_once('-')
    };
    let text = |key: &str| value[key].as_str().filter(|_| cached).map(str::to_owned);
    let network = text("networkName").or_else(|| of_name().map(|(network, _)| network.to_owned()))?;
    let container = text("containerId").or_else(|| of_name().map(|(_, container)| container.to_owned()))?;
    let config = text("config").and_then(|c| STANDARD.decode(c).ok());
    let conf: Value = config.and_then(|c| serde_json::from_slice(&c).ok()).unwrap_or_default();
    let result = if cached { &value["result"] } else { value };
    let interfaces = result["interfaces"].as_array().into_iter().flatten();
    let on_host = interfaces.filter(|i| i["sandbox"].as_str().unwrap_or_default().is_empty());
    let ips = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    Some(Note {
        path: path.to_owned(),
        network,
        container,
        plugins: if conf.is_null() { Vec::new() } else { plugin_types(&conf) },
        links: on_host.filter_map(|i| i["name"].as_str().map(str::to_owned)).collect(),
        ips: ips.filter_map(|ip| ip.split('/').next()?.parse().ok()).collect(),
        ..Note::default()
    })
}

/// Lines of others' configuration that name a device of either CNI.
fn mentions(host: &Host) -> Vec<Mention> {
    let mut mentions = Vec::new();
    for place in stays::PLACES {
        look_through(host, Path::new(place), 0, &mut mentions);
    }
    mentions.sort_unstable();
    mentions
}

fn look_through(host: &Host, path: &Path, depth: usize, mentions: &mut Vec<Mention>) {
    let here = host.path(path);
    if here.is_dir() && depth < 3 {
        for name in files::list(&here).unwrap_or_default() {
            look_through(host, &path.join(name), depth + 1, mentions);
        }
        return;
    }
    // Its own size is asked for first: what is no plain file may have no end.
    if !files::size(&here).is_ok_and(|size| size.is_some_and(|size| size <= LARGEST)) {
        return;
    }
    let Ok(Some(text)) = files::read_found_text(&here) else { return };
    for (number, line) in text.lines().enumerate() {
        for device in stays::devices_in(line) {
            mentions.push(Mention {
                path: path.display().to_string(),
                line: number + 1,
                device: device.to_owned(),
                text: line.chars().take(200).collect(),
            });
        }
    }
}

fn snippets(host: &Host, listings: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, String> {
    let names = listings.get(SNIPPETS).into_iter().flatten();
    let paths = names.map(|name| format!("{SNIPPETS}/{name}"));
    paths.filter_map(|path| Some((path.clone(), files::read_found_text(&host.path(&path)).ok()??))).collect()
}

/// Plugins' binaries that a package of Debian's owns.
fn packaged(host: &Host, facts: &Facts, listings: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wanted: Vec<String> = Vec::new();
    for dir in owned_files::bin_dirs(&facts.files.bin_dir) {
        let names = listings.get(dir).into_iter().flatten();
        let plugins = names.filter(|name| owner_of_plugin(name).is_some());
        wanted.extend(plugins.map(|name| format!("{dir}/{name}")));
    }
    let mut found = Vec::new();
    if wanted.is_empty() {
        return found;
    }
    for name in files::list(&host.path(DPKG)).unwrap_or_default().iter().filter(|name| name.ends_with(".list")) {
        let text = files::read_found_text(&host.path(DPKG).join(name)).ok().flatten().unwrap_or_default();
        found.extend(wanted.iter().filter(|path| text.lines().any(|line| line == *path)).cloned());
    }
    found
}

/// The sysctls as the snapshot of nodectl's first run here has them.
fn sysctls_then(host: &Host) -> Result<BTreeMap<String, String>> {
    let folder = host.path("/var/lib/nodectl/snapshots");
    let Some(first) = files::list(&folder)?.into_iter().find(|name| name.ends_with(".json")) else {
        return Ok(BTreeMap::new());
    };
    let value = read_json(&folder.join(first));
    serde_json::from_value(value["sysctls"].clone()).context("the snapshot's sysctls cannot be read")
}
