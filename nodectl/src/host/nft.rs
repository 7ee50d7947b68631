//! Native nftables tables.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::run::{self, Run};
use crate::fault;

/// Tables as `family name`, without those of the compatibility layer, which iptables.rs reads. None where the tool is not
/// installed and the kernel's part is not there.
pub fn tables() -> Result<Vec<String>> {
    Ok(all()?.into_iter().filter(|(family, name)| !of_iptables(family, name)).map(named).collect())
}

/// Those of the compatibility layer, in the same form.
pub fn tables_of_iptables() -> Result<Vec<String>> {
    Ok(all()?.into_iter().filter(|(family, name)| of_iptables(family, name)).map(named).collect())
}

fn named((family, name): (String, String)) -> String {
    format!("{family} {name}")
}

fn all() -> Result<Vec<(String, String)>> {
    if !run::installed("nft") {
        if super::kmod::present("nf_tables") {
            bail!("nft is not installed, so native nftables tables cannot be seen. To fix it: install nftables");
        }
        return Ok(Vec::new());
    }
    let text = Run::new("nft").args(["-j", "list", "tables"]).text().context("could not list the nftables tables")?;
    let answer: Value = serde_json::from_str(&text).context("nft's list of tables does not parse")?;
    let entries = answer.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let mut tables: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let table = entry.get("table")?;
            Some((table.get("family")?.as_str()?.to_owned(), table.get("name")?.as_str()?.to_owned()))
        })
        .collect();
    tables.sort_unstable();
    Ok(tables)
}

/// Deletes a table given as `family name`; nothing happens where there is none.
pub fn delete_table(table: &str) -> Result<()> {
    let Some((family, name)) = table.split_once(' ') else { bail!("{table:?} is no `family name`") };
    if !tables()?.iter().any(|t| t == table) {
        return Ok(());
    }
    fault::point("nft.delete_table");
    Run::new("nft").args(["delete", "table", family, name]).text()?;
    Ok(())
}

/// A table in the syntax that [`restore`] takes; `None` where there is none.
pub fn save(table: &str) -> Result<Option<String>> {
    let Some((family, name)) = table.split_once(' ') else { bail!("{table:?} is no `family name`") };
    if !tables()?.iter().any(|t| t == table) {
        return Ok(None);
    }
    Run::new("nft").args(["--stateless", "list", "table", family, name]).text().map(Some)
}

/// Applies a ruleset in one transaction.
pub fn restore(ruleset: &str) -> Result<()> {
    fault::point("nft.restore");
    Run::new("nft").args(["-f", "-"]).stdin(ruleset).text()?;
    Ok(())
}

/// Tables that iptables-nft, arptables-nft and ebtables-nft make.
fn of_iptables(family: &str, name: &str) -> bool {
    match family {
        "ip" | "ip6" => matches!(name, "filter" | "nat" | "mangle" | "raw" | "security"),
        "arp" => name == "filter",
        "bridge" => matches!(name, "filter" | "nat" | "broute"),
        _ => false,
    }
}
