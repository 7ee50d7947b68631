//! `nodectl cluster prepare` and `abort` of a thousand nodes, beside the same with one write at a time. The API server is a real
//! one where `KUBEBUILDER_ASSETS` names it, else the stand-in; neither has controllers or agents, so nobody is waited for.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::figure::Figure;
use crate::apiserver::{Options, Server};
use crate::client::{Client, Patch};
use crate::objects::{self, calico, calico_crds, flannel, install};

const NODES: u32 = 1000;
const ROUNDS: usize = 2;

/// On the machine itself.
pub(super) fn run() -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let assets = crate::cluster::assets();
    let kind = if assets.is_some() { "kube-apiserver" } else { "stand-in" };
    let options = Options { no_controllers: true, assets, ..Options::new(folder.path().join("pki")) };
    let server = Server::start(&options)?;
    let kubeconfig = folder.path().join("admin.conf");
    std::fs::write(&kubeconfig, server.pki.admin_kubeconfig(&server.url())?)?;
    fill(&server.admin()?)?;
    let nodectl = crate::cluster::Options::default().nodectl.context("the binary nodectl is missing")?;
    let timed = |command: &str, parallel: &str| -> Result<f64> {
        let begun = Instant::now();
        let done = Command::new(&nodectl)
            .args(["cluster", command, "--parallel", parallel, "--output", "json", "--kubeconfig"])
            .arg(&kubeconfig)
            .arg("--backup-dir")
            .arg(folder.path().join("backup"))
            .stdin(Stdio::null())
            .output()?;
        ensure!(done.status.success(), "cluster {command}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(f64::from(NODES) / begun.elapsed().as_secs_f64())
    };
    let (mut prepares, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (parallel, into) in [("8", &mut prepares), ("1", &mut alone)] {
            into.push(timed("prepare", parallel)?);
            clean(folder.path())?;
            timed("abort", "16")?;
            clean(folder.path())?;
        }
    }
    Ok(vec![Figure::new(&format!("prepare {NODES} nodes ({kind})"), "nodes/s", &prepares, "--parallel 1", &alone)?])
}

/// Backups of a thousand nodes are some megabytes each.
fn clean(folder: &Path) -> Result<()> {
    Ok(std::fs::remove_dir_all(folder.join("backup"))?)
}

/// flannel and Calico, and the nodes as flannel annotates them.
fn fill(admin: &Client) -> Result<()> {
    install(
        admin,
        &flannel::manifests(&flannel::Flannel { network: "10.0.0.0/8".into(), ..flannel::Flannel::default() }),
    )?;
    install(admin, &calico_crds::manifests())?;
    install(admin, &calico::manifests(&calico::Calico { network: "10.0.0.0/8".into(), ..calico::Calico::default() }))?;
    for index in 0..NODES {
        admin.create("/api/v1/nodes", &node(index))?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        admin.patch(&format!("/api/v1/nodes/node{index}/status"), Patch::Strategic, &ready)?;
    }
    Ok(())
}

fn node(index: u32) -> Value {
    let (high, low) = (index / 250, index % 250 + 1);
    let address = format!("192.168.{high}.{low}");
    let mut node = objects::node(&format!("node{index}"), &address);
    let cidr = format!("10.{}.{}.0/24", 1 + index / 256, index % 256);
    node["spec"] = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
    let data = json!({"VNI": 1, "VtepMAC": format!("0e:00:00:00:{high:02x}:{low:02x}")}).to_string();
    node["metadata"]["annotations"] = json!({
        "flannel.alpha.coreos.com/backend-data": data,
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": address,
    });
    node
}
