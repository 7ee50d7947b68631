//! The shim by itself: beside a static program that does nothing but read its input and answer `{}`, and in front of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cni_store::backends::{Backends, shim_conflist};
use cni_store::state::Backend;
use serde_json::{Map, Value, json};

use super::figure::{Figure, Spent, spent};
use super::shim::{attachment, places};
use crate::command;
use crate::libcni::chain;
use crate::libcni::load_folder;

const ROUNDS: usize = 200;
/// Where a node sees it.
const NOOP: &str = "/usr/local/lib/nodectl-lab/noop";
const SHIM: &str = "/usr/libexec/nodectl/cni-shim";

/// VERSION by the shim beside the no-op program; then ADD by the no-op program as the only delegate, through the shim and directly.
pub(super) fn measure() -> Result<Vec<Figure>> {
    ensure!(
        Path::new(NOOP).is_file(),
        "LAB_NOOP names no program that does nothing. To fix it: run tests/bench, which builds it"
    );
    let input = json!({"cniVersion": "1.1.0", "name": "x"}).to_string();
    let mut once: [Vec<Spent>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (place, program) in [NOOP, SHIM].into_iter().enumerate() {
            let mut call = Command::new(program);
            call.env("CNI_COMMAND", "VERSION");
            once[place].push(spent(|| command::output(&mut call, &input).map(drop))?);
        }
    }
    let (native, through) = in_front()?;
    let mut figures = Vec::new();
    for (what, against, [other, ours]) in [
        ("the shim alone (VERSION)", "a static no-op", once),
        ("ADD of a no-op plugin through the shim", "the no-op plugin alone", [native, through]),
    ] {
        for (name, of) in [("CPU", (|s| s.cpu) as fn(&Spent) -> f64), ("wall", |s| s.wall)] {
            let column = |all: &[Spent]| all.iter().map(of).collect::<Vec<_>>();
            figures.push(Figure::new(&format!("{what}, {name}"), "ms", &column(&ours), against, &column(&other))?);
        }
    }
    Ok(figures)
}

fn in_front() -> Result<(Vec<Spent>, Vec<Spent>)> {
    let write = |path: &str, text: String| -> Result<()> {
        let folder = Path::new(path).parent().context("a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(path, text))
            .with_context(|| format!("{path} could not be written"))
    };
    let list = json!({"name": "noop", "cniVersion": "1.0.0", "plugins": [{"type": "noop"}]});
    write("/run/bench/noop/10-noop.conflist", list.to_string())?;
    let backends = Backends {
        network: "noop".into(),
        flannel: "/run/bench/none".into(),
        calico: "/run/bench/noop/10-noop.conflist".into(),
    };
    let paths = cni_store::Paths::new("/", "/run/bench/noop-state");
    let shims: Value = shim_conflist("noop", &paths, &backends, &Map::new(), Backend::Calico);
    write("/run/bench/noop-shim/00-cni-shim.conflist", shims.to_string())?;
    let lists = ["/run/bench/noop", "/run/bench/noop-shim"].map(|folder| load_folder(Path::new(folder)));
    let mut places = places();
    places.path.push(PathBuf::from("/usr/local/lib/nodectl-lab"));
    let mut found: [Vec<Spent>; 2] = Default::default();
    for round in 0..ROUNDS {
        for (place, list) in lists.iter().enumerate() {
            let list = list.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let pod = attachment(&format!("noop{round}-{place}"));
            found[place].push(spent(|| chain::add(&places, list, &pod).map(drop))?);
            chain::del(&places, list, &pod)?;
        }
    }
    let [native, through] = found;
    Ok((native, through))
}
