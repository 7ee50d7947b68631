//! nftables tables rule by rule: the shared tables of plugins, and tables of iptables that hold a rule which iptables cannot show.
//!
//! For the latter, `iptables-save` prints a comment line and succeeds, so whoever trusts it takes the table for empty. Chains,
//! jumps and native comments come from `nft`; the text of iptables' comments does not (nft names the match without its data),
//! so it is read from the kernel's own dump.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use serde_json::Value;

use super::run::Run;
use crate::facts::{NftRule, NftTable};
use crate::fault;

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h, with NFT_MSG_NEWRULE of nf_tables.h.
const NEW_RULE: u16 = (10 << 8) | 6;
/// The same with NFT_MSG_GETRULE.
const GET_RULE: u16 = (10 << 8) | 7;
/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMP: u16 = 0x301;
/// NLMSG_ERROR.
const ERROR: u16 = 2;
/// NLMSG_DONE.
const DONE: u16 = 3;
/// NFTA_RULE_HANDLE.
const HANDLE: u16 = 3;
/// NFTA_RULE_EXPRESSIONS.
const EXPRESSIONS: u16 = 4;
/// NFTA_EXPR_NAME and NFTA_MATCH_NAME.
const NAME: u16 = 1;
/// NFTA_EXPR_DATA.
const DATA: u16 = 2;
/// NFTA_MATCH_INFO.
const INFO: u16 = 3;

/// A table (`family name`), rule by rule; `None` where there is none.
pub fn read(table: &str) -> Result<Option<NftTable>> {
    let Some(parts) = listed(table)? else { return Ok(None) };
    let objects = |kind: &'static str| parts.iter().filter_map(move |part| part.get(kind));
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let chains = objects("chain").map(|chain| text(chain, "name")).collect();
    let family = table.split_once(' ').map_or("", |(family, _)| family);
    let mut matched = xt_comments(family)?;
    let rules = objects("rule").map(|rule| {
        let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or_default();
        let mut comments: Vec<String> =
            rule.get("comment").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
        let name = table.split_once(' ').map_or("", |(_, name)| name);
        comments.extend(matched.remove(&(name.to_owned(), handle)).unwrap_or_default());
        NftRule { table: table.to_owned(), chain: text(rule, "chain"), handle, comments, jump: jump(rule) }
    });
    let rules = rules.collect();
    Ok(Some(NftTable { table: table.to_owned(), chains, rules }))
}

/// Elements of a table's sets whose name passes: addresses and networks, as nft writes them.
pub fn elements(table: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let Some(parts) = listed(table)? else { return Ok(Vec::new()) };
    let sets = parts.iter().filter_map(|part| part.get("set"));
    let chosen = sets.filter(|set| set.get("name").and_then(Value::as_str).is_some_and(&wanted));
    Ok(chosen
        .flat_map(|set| set.get("elem").and_then(Value::as_array).into_iter().flatten())
        .filter_map(element)
        .collect())
}

/// Deletes rules by their handles and then chains, in one transaction. A chain is flushed first, so that none of those that
/// go holds another.
pub fn delete(rules: &[NftRule], chains: &[(String, String)]) -> Result<()> {
    let batch = batch(rules, chains);
    if batch.is_empty() {
        return Ok(());
    }
    fault::point("nft.delete_rules");
    Run::new("nft").args(["-f", "-"]).stdin(batch).text().context("could not delete nftables rules")?;
    Ok(())
}

fn batch(rules: &[NftRule], chains: &[(String, String)]) -> String {
    let mut batch = String::new();
    for rule in rules {
        batch.push_str(&format!("delete rule {} {} handle {}\n", rule.table, rule.chain, rule.handle));
    }
    chains.iter().for_each(|(table, chain)| batch.push_str(&format!("flush chain {table} {chain}\n")));
    chains.iter().for_each(|(table, chain)| batch.push_str(&format!("delete chain {table} {chain}\n")));
    batch
}

/// nft's own listing; `None` where the table is not there.
fn listed(table: &str) -> Result<Option<Vec<Value>>> {
    let Some((family, name)) = table.split_once(' ') else { bail!("{table:?} is no `family name`") };
    let output = Run::new("nft").args(["-j", "-a", "list", "table", family, name]).output()?;
    if !output.status.success() {
        if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
            return Ok(None);
        }
        bail!("could not list the nftables table {table}: nft {}", output.failure());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("nft's listing does not parse")?;
    Ok(answer.get("nftables").and_then(Value::as_array).cloned())
}

/// A set's element: an address, a network, or one of these with data of its own.
fn element(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    if let Some(prefix) = value.get("prefix") {
        return Some(format!("{}/{}", prefix.get("addr")?.as_str()?, prefix.get("len")?));
    }
    element(value.get("elem")?.get("val")?)
}

fn jump(rule: &Value) -> Option<String> {
    let expressions = rule.get("expr")?.as_array()?;
    let target = |e: &Value| e.get("jump").or_else(|| e.get("goto"))?.get("target")?.as_str().map(str::to_owned);
    expressions.iter().find_map(target)
}

type Comments = HashMap<(String, u64), Vec<String>>;

/// Texts of iptables' comment matches in a family's rules, by table and handle.
fn xt_comments(family: &str) -> Result<Comments> {
    // NFPROTO_ of linux/netfilter.h; iptables has no others.
    let number = match family {
        "ip" => 2,
        "ip6" => 10,
        _ => return Ok(Comments::new()),
    };
    let mut socket = Socket::new(NETLINK_NETFILTER).context("could not open a netfilter socket")?;
    socket.bind_auto().context("could not open a netfilter socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("could not open a netfilter socket")?;
    socket.send(&request(number), 0).context("could not ask for nftables rules")?;
    let mut comments = Comments::new();
    loop {
        let (datagram, _) = socket.recv_from_full().context("could not read nftables rules")?;
        if take(&datagram, &mut comments)? {
            return Ok(comments);
        }
    }
}

/// A dump of all rules of a family: nlmsghdr and nfgenmsg.
fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(20u32.to_ne_bytes());
    bytes.extend(GET_RULE.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // Sequence number, port.
    bytes.extend([0u8; 8]);
    // Family, version, resource.
    bytes.extend([family, 0, 0, 0]);
    bytes
}

/// The comments of one datagram's rules; true with the dump's last.
fn take(datagram: &[u8], comments: &mut Comments) -> Result<bool> {
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (number::<4>(rest, 0), number::<2>(rest, 4)) {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(message) = rest.get(..length).filter(|_| length >= 16) else { break };
        match u16::from_ne_bytes(kind) {
            DONE => return Ok(true),
            ERROR => {
                let code = number::<4>(message, 16).map_or(0, i32::from_ne_bytes);
                // No table of the family: nothing to read.
                if code == 0 || Errno::from_raw(-code) == Errno::ENOENT {
                    return Ok(true);
                }
                bail!("the kernel refuses to list nftables rules: {}", Errno::from_raw(-code).desc());
            }
            NEW_RULE => {
                if let Some((place, texts)) = message.get(20..).and_then(rule_comments) {
                    comments.insert(place, texts);
                }
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Table, handle and comments of a rule that has any.
fn rule_comments(attributes: &[u8]) -> Option<((String, u64), Vec<String>)> {
    let handle = u64::from_be_bytes(number::<8>(find(attributes, HANDLE)?, 0)?);
    let table = text(find(attributes, NAME)?);
    let expressions = find(attributes, EXPRESSIONS)?;
    let texts: Vec<String> = NlasIterator::new(expressions)
        .filter_map(|element| {
            let element = element.ok()?;
            let expression = element.value();
            let data =
                find(expression, DATA).filter(|_| find(expression, NAME).map(text).as_deref() == Some("match"))?;
            let is_comment = find(data, NAME).map(text).as_deref() == Some("comment");
            find(data, INFO).filter(|_| is_comment).map(text)
        })
        .collect();
    (!texts.is_empty()).then_some(((table, handle), texts))
}

/// The value of the first attribute of a kind.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while rest.len() >= 4 {
        let buffer = NlaBuffer::new_checked(rest).ok()?;
        let length = usize::from(buffer.length());
        if buffer.kind() == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Text up to the zero that ends it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_go_before_the_chains_that_they_jump_to() {
        let rule = NftRule { table: "ip filter".into(), chain: "FORWARD".into(), handle: 7, ..NftRule::default() };
        let chain = |name: &str| ("ip filter".to_owned(), name.to_owned());
        assert_eq!(
            batch(&[rule], &[chain("cali-a"), chain("cali-b")]),
            "delete rule ip filter FORWARD handle 7\nflush chain ip filter cali-a\nflush chain ip filter cali-b\n\
             delete chain ip filter cali-a\ndelete chain ip filter cali-b\n"
        );
        assert_eq!(batch(&[], &[]), "");
    }
}
