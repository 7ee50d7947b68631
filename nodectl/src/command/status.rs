//! `nodectl status`: where this node stands; as JSON, all that was observed.

use anyhow::Result;

use super::settings::Settings;
use crate::failure::code;
use crate::host::Host;
use crate::report;

pub(super) fn run(host: &Host, settings: &Settings) -> Result<u8> {
    let facts = crate::observe::node(host);
    report::result(settings.output, &report::status_text(&facts), &facts, false)?;
    // A run or a shim of which nothing can be read is no better than an open one.
    let amiss = facts.runs.open.is_some() || ["runs", "shim"].iter().any(|part| facts.unobserved.contains_key(*part));
    Ok(if amiss { code::NEEDS_HANDS } else { code::DONE })
}
