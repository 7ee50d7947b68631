//! Deleting the veths of a full node: in one call of nodectl's adapter, and as a script would, with `ip link del` for each.

use std::time::Instant;

use anyhow::Result;
use nodectl::host::netlink::delete_links;

use super::figure::{Figure, milliseconds};
use crate::command;

const LINKS: usize = 300;
const ROUNDS: usize = 3;

/// In the node.
pub(super) fn run() -> Result<Vec<Figure>> {
    let names: Vec<String> = (0..LINKS).map(|n| format!("bench{n}")).collect();
    let (mut ours, mut other) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        make(&names)?;
        let begun = Instant::now();
        delete_links(&names)?;
        ours.push(milliseconds(begun.elapsed()));
        make(&names)?;
        let begun = Instant::now();
        for name in &names {
            command::run(&["ip", "link", "del", name])?;
        }
        other.push(milliseconds(begun.elapsed()));
    }
    let what = format!("delete {LINKS} veths, wall");
    Ok(vec![Figure::new(&what, "ms", &ours, "ip link del, one by one", &other)?])
}

fn make(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("link add {name} type veth peer name p{name}")).collect();
    command::run_with_input(&["ip", "-batch", "-"], &lines.join("\n")).map(drop)
}
