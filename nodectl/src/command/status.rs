//! `nodectl status`: where this node stands; as JSON, all that was observed.

use anyhow::Result;

use crate::cli::Common;
use crate::failure::code;
use crate::host::Host;
use crate::report;

pub(super) fn run(host: &Host, common: &Common) -> Result<u8> {
    let facts = crate::observe::node(host);
    report::result(common.output, &report::status_text(&facts), &facts, false)?;
    Ok(if facts.runs.open.is_some() { code::NEEDS_HANDS } else { code::DONE })
}
