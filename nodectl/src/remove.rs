//! Taking away what ownership has named: in bulk, in an order in which nothing holds what goes after it, and so that doing it
//! again after a kill ends where doing it once ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::netlink::{self, LinkChange};
use crate::host::{Host, backup, bpffs, ipset, iptables, kmod, mount, nft, nft_rules, sysctl, xfrm};
use crate::rules::{owned, take_out};
use crate::step::RemovedImage;

/// What becomes of files.
#[derive(Debug, Clone)]
pub enum Aside {
    /// They are moved below this folder, under their own paths.
    Into(PathBuf),
    /// They are deleted.
    Purge,
}

impl Aside {
    /// Where a file of the node waits.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        match self {
            Aside::Into(folder) => Some(folder.join(Path::new(file).strip_prefix("/").unwrap_or(Path::new(file)))),
            Aside::Purge => None,
        }
    }
}

/// A part of the work, with a name for the journal.
pub struct Part {
    /// Its name.
    pub name: &'static str,
    act: fn(&Host, &RemovedImage, &Aside) -> Result<()>,
}

/// The parts in their order. Configurations first: from then on no runtime calls a plugin whose network is being taken away.
/// Programs before the maps that they use, rules before the sets, routes before the devices, files last.
pub const PARTS: [Part; 9] = [
    Part { name: "configurations", act: |host, image, aside| put_aside(host, &configurations(image), aside) },
    Part { name: "programs", act: |host, image, _| programs(host, image) },
    Part { name: "rules", act: |_, image, _| rules(image) },
    Part { name: "sets", act: |_, image, _| ipset::destroy(&image.sets) },
    Part { name: "routes", act: |_, image, _| routes(image) },
    Part { name: "ipsec", act: |_, image, _| xfrm::delete(&image.xfrm_policies, &image.xfrm_states) },
    Part { name: "devices", act: |_, image, _| devices(image) },
    Part { name: "modules", act: |_, image, _| modules(image) },
    Part { name: "files", act: |host, image, aside| put_aside(host, &image.files, aside) },
];

impl Part {
    /// Does it.
    pub fn run(&self, host: &Host, image: &RemovedImage, aside: &Aside) -> Result<()> {
        (self.act)(host, image, aside)
    }
}

/// All parts.
pub fn all(host: &Host, image: &RemovedImage, aside: &Aside) -> Result<()> {
    PARTS.iter().try_for_each(|part| part.run(host, image, aside))
}

/// The parts that have something to do.
pub fn busy(image: &RemovedImage) -> impl Iterator<Item = &'static Part> {
    PARTS.iter().filter(|part| match part.name {
        "configurations" => !configurations(image).is_empty(),
        "programs" => {
            !(image.filters.is_empty() && image.clsact.is_empty() && image.xdp.is_empty() && image.pins.is_empty())
        }
        "rules" => {
            !(image.rules.is_empty()
                && image.nft_rules.is_empty()
                && image.nft_chains.is_empty()
                && image.nft_tables.is_empty())
        }
        "sets" => !image.sets.is_empty(),
        "routes" => !(image.policy_rules.is_empty() && image.routes.is_empty()),
        "ipsec" => !(image.xfrm_policies.is_empty() && image.xfrm_states.is_empty()),
        "devices" => !(image.links.is_empty() && image.stripped.is_empty() && image.set_down.is_empty()),
        "modules" => !(image.sysctls.is_empty() && image.modules.is_empty()),
        _ => !image.files.is_empty(),
    })
}

fn configurations(image: &RemovedImage) -> Vec<String> {
    let is_one = |file: &&String| file.contains("/net.d/") && [".conflist", ".conf"].iter().any(|s| file.ends_with(s));
    image.files.iter().filter(is_one).cloned().collect()
}

fn programs(host: &Host, image: &RemovedImage) -> Result<()> {
    netlink::delete_traffic(&image.filters, &image.clsact)?;
    netlink::detach_xdp(&image.xdp)?;
    bpffs::unpin(host, &image.pins)
}

fn rules(image: &RemovedImage) -> Result<()> {
    for rules in &image.rules {
        // Computed from what stands now: deleting a rule that is gone already would fail the whole batch.
        let now = iptables::save(rules.backend, rules.family)?;
        let table = |name: &str| rules.owned.tables.iter().find(|t| t.table == name);
        let chain = |name: &str, chain: &str| table(name).is_some_and(|t| t.chains.iter().any(|c| c == chain));
        let hook = |name: &str, chain: &str, spec: &str| {
            table(name).is_some_and(|t| t.hooks.iter().any(|(c, _, s)| c == chain && s == spec))
        };
        let batch = take_out(&owned(&now, chain, hook));
        if !batch.is_empty() {
            iptables::restore(rules.backend, rules.family, &batch).context("could not remove iptables rules")?;
        }
    }
    by_handle(image)?;
    image.nft_tables.iter().try_for_each(|table| nft::delete_table(table))
}

/// Handles are never given twice in a table's life, so one that is there and bears the same marks is the one that was meant.
fn by_handle(image: &RemovedImage) -> Result<()> {
    let mut names: Vec<&String> = image.nft_rules.iter().map(|r| &r.table).collect();
    names.extend(image.nft_chains.iter().map(|(table, _)| table));
    names.sort_unstable();
    names.dedup();
    for name in names {
        let Some(now) = nft_rules::read(name)? else { continue };
        let rules: Vec<_> = image.nft_rules.iter().filter(|r| now.rules.contains(r)).cloned().collect();
        let chains = image.nft_chains.iter().filter(|(table, chain)| table == name && now.chains.contains(chain));
        nft_rules::delete(&rules, &chains.cloned().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn routes(image: &RemovedImage) -> Result<()> {
    netlink::delete_rules(&image.policy_rules)?;
    netlink::change_routes(&[], &image.routes)
}

fn devices(image: &RemovedImage) -> Result<()> {
    image.stripped.iter().try_for_each(netlink::delete_address)?;
    for link in &image.set_down {
        if netlink::links()?.iter().any(|l| l.name == *link && l.up) {
            netlink::set_link(link, &LinkChange { down: true, ..LinkChange::default() })?;
        }
    }
    let names: Vec<&str> = image.links.iter().map(|l| l.name.as_str()).collect();
    netlink::delete_links(&names)
}

fn modules(image: &RemovedImage) -> Result<()> {
    for (name, value) in &image.sysctls {
        sysctl::ensure(name, value)?;
    }
    image.modules.iter().try_for_each(|module| kmod::unload(module))
}

fn put_aside(host: &Host, paths: &[String], aside: &Aside) -> Result<()> {
    for file in paths {
        let path = host.path(file);
        if path.is_dir() {
            mount::unmount_below(&path)?;
        }
        match aside.path(file) {
            Some(target) => backup::move_aside(&path, &target)?,
            None => backup::purge(&path)?,
        }
    }
    Ok(())
}
