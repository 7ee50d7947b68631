//! ADD and DEL of flannel's chain (flannel, bridge, host-local, portmap), through the shim and directly, by the same libcni.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cni_spec::conflist::List;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};
use cni_store::state::{Backend, State};

use super::figure::{Figure, Spent, spent};
use crate::command;
use crate::libcni::chain::{self, Places};
use crate::libcni::{Attachment, ConfList, load_folder};
use crate::objects::flannel;

const ROUNDS: usize = 300;
/// Where the plugins are.
const PLUGINS: [&str; 3] = [FLANNEL, "/opt/cni/bin", SHIM_BINARY];
/// Where the chain's conflist is, as on a node.
const CHAIN: &str = "/etc/cni/net.d";
/// Where the shim's is: in a folder of its own, so that both can be loaded.
const SHIM: &str = "/run/bench/shim";
const FLANNEL: &str = "/usr/local/lib/nodectl-lab/plugins";
const SHIM_BINARY: &str = "/usr/libexec/nodectl";

/// As the runtime has them.
pub(super) fn places() -> Places {
    Places { path: PLUGINS.iter().map(PathBuf::from).collect(), cache: PathBuf::from("/run/bench/results") }
}

/// A pod.
pub(super) fn attachment(id: &str) -> Attachment {
    let arguments = [("IgnoreUnknown", "1"), ("K8S_POD_NAMESPACE", "default"), ("K8S_POD_NAME", id)];
    Attachment {
        container: id.to_owned(),
        netns: format!("/run/netns/{id}"),
        interface: "eth0".to_owned(),
        arguments: arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Attachment::default()
    }
}

fn measure(chain: &ConfList, shim: &ConfList) -> Result<[Vec<Spent>; 4]> {
    let places = places();
    let mut found: [Vec<Spent>; 4] = Default::default();
    for round in 0..=ROUNDS {
        let mut turns: Vec<_> = [chain, shim].into_iter().enumerate().collect();
        // Whoever comes second finds what the first has left in the processor's caches.
        turns.rotate_left(round % 2);
        for (place, list) in turns {
            let (added, deleted) = attach(&places, list, &format!("bench{round}-{place}"))?;
            // The first round makes bridge and chains that stay, and fills the caches.
            if round > 0 {
                found[place * 2].push(added);
                found[place * 2 + 1].push(deleted);
            }
        }
    }
    Ok(found)
}

/// One pod's life.
fn attach(places: &Places, list: &ConfList, id: &str) -> Result<(Spent, Spent)> {
    command::run(&["ip", "netns", "add", id])?;
    let attachment = attachment(id);
    let added = spent(|| chain::add(places, list, &attachment).map(drop))?;
    let deleted = spent(|| chain::del(places, list, &attachment))?;
    command::run(&["ip", "netns", "del", id])?;
    Ok((added, deleted))
}

/// The node's side: what flanneld and nodectl would have written.
fn set_up() -> Result<(ConfList, ConfList)> {
    let write = |path: PathBuf, text: &str| -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("{} could not be written", path.display()))
    };
    let subnet = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    write("/run/flannel/subnet.env".into(), subnet)?;
    let backends = Backends::default();
    let text = flannel::conflist().to_string();
    write(backends.flannel.clone(), &text)?;
    let paths = cni_store::Paths::under("/");
    State::routed(Backend::Flannel).store(&paths)?;
    let list = List::parse(text.as_bytes())?;
    let shim = shim_conflist("cbr0", &paths, &backends, &union_of_capabilities([&list]), Backend::Flannel);
    write(Path::new(SHIM).join("00-cni-shim.conflist"), &shim.to_string())?;
    Ok((load_folder(Path::new(CHAIN))?, load_folder(Path::new(SHIM))?))
}

/// In the node.
pub(super) fn run() -> Result<Vec<Figure>> {
    let (chain, shim) = set_up()?;
    let [chain_add, chain_del, shim_add, shim_del] = measure(&chain, &shim)?;
    let mut figures = Vec::new();
    for (verb, ours, other) in [("ADD", &shim_add, &chain_add), ("DEL", &shim_del, &chain_del)] {
        let column =
            |of: fn(&Spent) -> f64| (ours.iter().map(of).collect::<Vec<_>>(), other.iter().map(of).collect::<Vec<_>>());
        // libcni starts two plugins of the chain, or the shim alone, which then starts the two.
        let cpu = [("CPU", column(|s| s.whole)), ("CPU without libcni's", column(|s| s.cpu))];
        for (name, (ours, other)) in cpu.into_iter().chain([("wall", column(|s| s.wall))]) {
            figures.push(Figure::new(&format!("{verb} through the shim, {name}"), "ms", &ours, "chain alone", &other)?);
        }
    }
    figures.extend(super::at_once::measure(&chain, &shim)?);
    figures.extend(super::alone::measure()?);
    Ok(figures)
}
