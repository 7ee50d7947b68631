//! What a cleanup would remove, or has removed, for people.

use super::bold;
use crate::cleanup::Decision;
use crate::cleanup::refusals::UNOBSERVED;
use crate::cni::Cni;
use crate::ownership::{Claim, Group, Remark};
use crate::remedy::Told;
use crate::step::words::count;

/// How many objects of a group are listed without `-v`.
const SHOWN: usize = 10;

/// What goes, grouped by kind and evidence, and what does not.
pub fn cleanup_text(decision: &Decision, cni: Cni, verbose: bool) -> String {
    let claims = &decision.inventory.claims;
    let mut text = String::new();
    if decision.is_empty() {
        let blind = decision.refusals.iter().any(|r| r.name == UNOBSERVED);
        let seen = if blind { "was seen" } else { "is" };
        text.push_str(&format!("Nothing of {cni} {seen} on this node.\n"));
    } else {
        let own = decision.inventory.own().count();
        let with = claims.len() - own;
        let along = if with > 0 { format!(", and {with} that go with them") } else { String::new() };
        text.push_str(&format!("{}\n", bold(&format!("What {cni} has on this node: {}{along}", count(own, "object")))));
    }
    let mut groups: Vec<(Group, &str)> = Vec::new();
    for claim in claims {
        let key = (claim.group, claim.evidence.as_str());
        if !groups.contains(&key) {
            groups.push(key);
        }
    }
    for (group, evidence) in groups {
        let members: Vec<&Claim> = claims.iter().filter(|c| c.group == group && c.evidence == evidence).collect();
        text.push_str(&format!("{}: {} ({evidence})\n", group.title(), members.len()));
        let shown = if verbose { members.len() } else { SHOWN };
        members.iter().take(shown).for_each(|c| text.push_str(&format!("  - {}\n", c.object)));
        if members.len() > shown {
            text.push_str(&format!("  ... and {} more (-v or --output json lists them)\n", members.len() - shown));
        }
    }
    text.push_str(&stays_text(decision));
    for refusal in &decision.refusals {
        let how = if refusal.waived { "Waived" } else { "Refused" };
        text.push_str(&format!("{how} [{}]: {}\n", refusal.name, Told::of(&refusal.why).mended_by(&refusal.fix)));
    }
    text
}

/// What looks like the CNI's and was not touched, and why.
pub fn stays_text(decision: &Decision) -> String {
    let mut text = String::new();
    remarks(&mut text, "Not removed, for lack of evidence", &decision.inventory.undecided);
    remarks(&mut text, "Not removed, somebody else's or not to be removed", &decision.inventory.stays);
    text
}

fn remarks(text: &mut String, title: &str, remarks: &[Remark]) {
    if remarks.is_empty() {
        return;
    }
    text.push_str(&format!("{title}: {}\n", remarks.len()));
    remarks.iter().for_each(|r| text.push_str(&format!("  - {}: {}\n", r.object, r.why)));
}
