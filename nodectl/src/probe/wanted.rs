//! Flows as they are asked for in words, by `nodectl probe` and by a switch in place alike, and what they are on a node as it was
//! seen. Pure.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Expect;
use super::target::{self, Target};
use crate::facts::{Facts, Sandbox};
use crate::host::line::Kind;
use crate::ownership::attachments;

/// Without a target: the way to every other node, and out.
const USUAL: [&str; 2] = ["peers", "gateway"];

/// Flows in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Where each begins that names no source itself: `host`, `all`, `NAMESPACE/POD`; this host where there is none.
    pub from: Vec<String>,
    /// `[SOURCE=]TARGET` that must pass.
    pub to: Vec<String>,
    /// `[SOURCE=]TARGET` that must be refused.
    pub refuse: Vec<String>,
}

impl Asked {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Asked::default()
    }

    /// Whether a target was named.
    pub fn has_targets(&self) -> bool {
        !self.to.is_empty() || !self.refuse.is_empty()
    }
}

/// One flow, with its ends on this node. Paths are the node's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its source: `host` or `NAMESPACE/POD`.
    pub from: String,
    /// The network namespace that it starts in; the host's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How it asks.
    pub kind: Kind,
    /// Its target: an address or `NAMESPACE/POD`, without a port.
    pub to: String,
    /// The network namespace of a target that is a pod of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_netns: Option<String>,
    /// Where the questions go. Port 0: ICMP, or the probe itself answers in the pod, on a port that is free.
    pub address: SocketAddr,
    /// What it is to do.
    pub expect: Expect,
}

impl Wanted {
    /// Whether the probe itself is to answer in the target.
    pub fn wants_echo(&self) -> bool {
        self.kind != Kind::Icmp && self.address.port() == 0
    }

    /// Its target as people name it, with its port where it has one.
    pub fn target(&self) -> String {
        match self.address.port() {
            0 => self.to.clone(),
            _ if self.to_netns.is_none() => self.address.to_string(),
            port => format!("{}:{port}", self.to),
        }
    }

    /// As people name it.
    pub fn name(&self) -> String {
        format!("{} -> {} {}", self.from, self.kind.name(), self.target())
    }

    /// The namespaces that it needs.
    pub fn netns(&self) -> impl Iterator<Item = &String> {
        self.netns.iter().chain(&self.to_netns)
    }
}

/// Every source to every target, but nobody to itself: that says nothing about the network. An error names what is no target, or
/// no pod of this node.
pub fn wanted(facts: &Facts, asked: &Asked) -> Result<Vec<Wanted>, String> {
    let general = sources(facts, &asked.from)?;
    let usual = USUAL.map(str::to_owned);
    let pass = if asked.has_targets() { asked.to.as_slice() } else { &usual };
    let mut wanted = Vec::new();
    for (texts, expect) in [(pass, Expect::Pass), (asked.refuse.as_slice(), Expect::Refuse)] {
        for text in texts {
            let (source, target) = target::with_source(text)?;
            let own = source.map(|source| sources(facts, &[source.to_owned()])).transpose()?;
            for (kind, to, to_netns, address) in resolve(facts, &target)? {
                let flow = |(from, netns): &(String, Option<String>)| Wanted {
                    from: from.clone(),
                    netns: netns.clone(),
                    kind,
                    to: to.clone(),
                    to_netns: to_netns.clone(),
                    address,
                    expect,
                };
                wanted.extend(own.as_ref().unwrap_or(&general).iter().map(flow));
            }
        }
    }
    wanted.retain(|flow| flow.from != flow.to);
    Ok(wanted)
}

/// Where probes start, with the network namespaces of pods.
pub fn sources(facts: &Facts, names: &[String]) -> Result<Vec<(String, Option<String>)>, String> {
    let this = ("host".to_owned(), None);
    if names.is_empty() {
        return Ok(vec![this]);
    }
    let mut sources = Vec::new();
    for name in names {
        match name.as_str() {
            "host" => sources.push(this.clone()),
            "all" => {
                sources.push(this.clone());
                for pod in attachments::live(facts) {
                    sources.push((pod.full_name(), Some(netns_of(pod)?)));
                }
            }
            name => sources.push((name.to_owned(), Some(netns_of(pod(facts, name)?)?))),
        }
    }
    sources.dedup();
    Ok(sources)
}

type Resolved = (Kind, String, Option<String>, SocketAddr);

/// A target's questions: how, to whom for people, in which namespace of this node, where to.
fn resolve(facts: &Facts, target: &Target) -> Result<Vec<Resolved>, String> {
    let echo = |ip: IpAddr| (Kind::Icmp, ip.to_string(), None, SocketAddr::new(ip, 0));
    Ok(match target {
        Target::Peers => target::peers(facts).into_iter().map(echo).collect(),
        Target::Gateway => target::gateways(facts).into_iter().map(echo).collect(),
        Target::Address(kind, address) => vec![(*kind, address.ip().to_string(), None, *address)],
        Target::Pod(kind, name, port) => {
            let pod = pod(facts, name)?;
            let ip = pod.ip.ok_or_else(|| format!("the pod {name} has no address"))?;
            vec![(*kind, name.clone(), Some(netns_of(pod)?), SocketAddr::new(ip, port.unwrap_or(0)))]
        }
    })
}

fn pod<'a>(facts: &'a Facts, name: &str) -> Result<&'a Sandbox, String> {
    let found = attachments::live(facts).find(|s| s.full_name() == name);
    found.ok_or_else(|| {
        let known: Vec<String> = attachments::live(facts).map(Sandbox::full_name).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        format!("no pod {name} with a network of its own runs here. To fix it: name one of these: {known}")
    })
}

fn netns_of(pod: &Sandbox) -> Result<String, String> {
    let netns = pod.netns.clone();
    netns.ok_or_else(|| format!("the runtime does not say where the network of {} is", pod.full_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Runtime;

    fn facts() -> Facts {
        let pod = |name: &str, ip: &str| Sandbox {
            namespace: "default".into(),
            name: name.into(),
            ready: true,
            ip: Some(ip.parse().unwrap()),
            netns: Some(format!("/run/netns/{name}")),
            ..Sandbox::default()
        };
        let sandboxes = vec![pod("a", "10.1.0.2"), pod("b", "fd00::3")];
        Facts { runtime: Some(Runtime { sandboxes, ..Runtime::default() }), ..Facts::default() }
    }

    fn names(from: &[&str], to: &[&str], refuse: &[&str]) -> Result<Vec<String>, String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let found = wanted(&facts(), &Asked { from: words(from), to: words(to), refuse: words(refuse) })?;
        let name = |flow: &Wanted| match flow.expect {
            Expect::Pass => flow.name(),
            Expect::Refuse => format!("{}, refused", flow.name()),
        };
        Ok(found.iter().map(name).collect())
    }

    #[test]
    fn every_source_asks_every_target_that_names_none() {
        let found = names(&["all"], &["icmp:default/a"], &["default/b=tcp:10.9.0.1:80"]).unwrap();
        assert_eq!(
            found,
            ["host -> icmp default/a", "default/b -> icmp default/a", "default/b -> tcp 10.9.0.1:80, refused"]
        );
        assert_eq!(names(&[], &["udp:[fd00::9]:53"], &[]).unwrap(), ["host -> udp [fd00::9]:53"]);
        assert_eq!(names(&["default/a"], &["udp:default/b:53"], &[]).unwrap(), ["default/a -> udp default/b:53"]);
        assert_eq!(names(&["default/a"], &["icmp:default/a"], &[]).unwrap(), Vec::<String>::new());
        assert_eq!(names(&[], &[], &[]).unwrap(), Vec::<String>::new(), "no peers, no gateway");
    }

    #[test]
    fn ends_are_those_of_this_node() {
        let asked = Asked { from: vec!["default/a".into()], to: vec!["tcp:default/b".into()], ..Asked::default() };
        let found = wanted(&facts(), &asked).unwrap();
        assert!(found[0].wants_echo() && found[0].address == "[fd00::3]:0".parse().unwrap(), "{found:?}");
        assert_eq!(found[0].netns().collect::<Vec<_>>(), ["/run/netns/a", "/run/netns/b"]);
        for wrong in [&["default/nobody=icmp:10.1.0.2"][..], &["icmp:default/nobody"], &["icmp:10.1.0.2", "x"]] {
            assert!(names(&[], wrong, &[]).unwrap_err().contains("To fix it: "), "{wrong:?}");
        }
    }
}
