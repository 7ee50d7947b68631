//! Figures, each beside what one would do without this project, measured in the same run: a figure alone says more about the
//! machine than about the program.

mod alone;
mod at_once;
mod cleanup;
mod figure;
mod links;
mod plan;
mod prepare;
mod shim;
mod size;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cluster::{Cluster, Network, Options};
use figure::Figure;

/// A bench.
type Bench = fn() -> Result<Vec<Figure>>;

/// Every bench, by its name.
const BENCHES: [(&str, Bench); 6] = [
    ("shim", || inside("shim")),
    ("plan", plan::run),
    ("links", || inside("links")),
    ("cleanup", || inside("cleanup")),
    ("prepare", prepare::run),
    ("size", size::run),
];

/// Benches that run in a node, as its root would.
const INSIDE: [(&str, Bench); 3] = [("shim", shim::run), ("links", links::run), ("cleanup", cleanup::run)];

/// The program `bench [--output json] [NAME...]`; all without a name.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--inside", name] = words.as_slice() {
        println!("{}", serde_json::to_string(&find(&INSIDE, name)?()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let is_json = match words.iter().position(|word| word.starts_with("--output")) {
        None => false,
        Some(place) => {
            let flag = words.remove(place);
            let format = flag.strip_prefix("--output=").map(str::to_owned);
            let format = format.or_else(|| (place < words.len()).then(|| words.remove(place).to_owned()));
            match format.as_deref() {
                Some("json") => true,
                Some("text") => false,
                other => bail!("--output {}: there are text and json", other.unwrap_or_default()),
            }
        }
    };
    let all = || BENCHES.iter().map(|(name, _)| *name).collect();
    let names: Vec<&str> = if words.is_empty() { all() } else { words };
    let benches = names.iter().map(|name| Ok((*name, find(&BENCHES, name)?))).collect::<Result<Vec<_>>>()?;
    let mut results = serde_json::Map::new();
    for (name, bench) in benches {
        let figures = bench().with_context(|| format!("the bench {name} failed"))?;
        if !is_json {
            figures.iter().for_each(|figure| println!("{name:<7} {figure}"));
        }
        results.insert(name.to_owned(), json!(figures));
    }
    if is_json {
        println!("{}", serde_json::to_string_pretty(&json!({"schema_version": 1, "benches": results}))?);
    }
    Ok(ExitCode::SUCCESS)
}

fn find(benches: &[(&str, Bench)], wanted: &str) -> Result<Bench> {
    let names: Vec<&str> = benches.iter().map(|(name, _)| *name).collect();
    let found = benches.iter().find(|(name, _)| *name == wanted);
    Ok(found.with_context(|| format!("there is no bench {wanted}; there are: {}", names.join(", ")))?.1)
}

/// Runs a bench in a light node of its own, which has no network yet.
fn inside(name: &str) -> Result<Vec<Figure>> {
    let mut options = Options { nodes: 1, api: false, network: Network::None, ..Options::default() };
    options.programs.extend(std::env::var_os("LAB_NOOP").map(|path| ("noop".to_owned(), path.into())));
    let cluster = Cluster::start(options)?;
    let said = cluster.node(1)?.must(&["nodectl-lab", "bench", "--inside", name])?;
    serde_json::from_str(said.trim()).with_context(|| format!("the node's answer is not a list of figures: {said}"))
}
