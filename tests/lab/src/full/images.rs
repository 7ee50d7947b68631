//! The lab's images as one docker-archive file, made without a network and without a registry.
//!
//! All images share one layer of a few kilobytes: folders, links and user names. Their programs are the node's own: an image carries the
//! variable [`MARK`], by which `lab-runc` knows that the container is to see the node's /usr, where the lab's binary and what it calls
//! (ip, iptables, CNI plugins) are. So images never depend on a build, and a boot need not unpack the lab's binary once per image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command;
use crate::objects::{calico::Calico, flannel::Flannel};

/// The variable that all images of the lab set.
pub const MARK: &str = "NODECTL_LAB_IMAGE=1";
/// The programs that have an image, `docker.io/lab/PROGRAM`.
const PROGRAMS: [&str; 7] = ["calico-node", "flanneld", "install-cni", "install-flannel", "kube-proxy", "pause", "pod"];
/// Where the lab's binary is on a full node.
pub const LAB: &str = "/usr/local/bin/nodectl-lab";
/// Real programs given to the lab in a stand-in's place, by the stand-in's name.
const GIVEN: &str = "usr/local/lib/nodectl-lab";

/// Writes the archive of all images to `target`; `root` is what nodes see as their root, for programs that replace a stand-in.
pub fn write(root: &Path, target: &Path) -> Result<()> {
    let work = tempfile::tempdir().context("no folder for the images could be made")?;
    let (layer, archive) = (work.path().join("layer"), work.path().join("archive"));
    fill_layer(root, &layer).context("the images' layer could not be made")?;
    fs::create_dir(&archive).context("the images' archive could not be begun")?;
    let layer_tar = archive.join("layer.tar");
    pack(&layer, &layer_tar)?;
    let digest = digest(&fs::read(&layer_tar).context("the images' layer could not be read")?);
    let mut manifest = Vec::new();
    for program in PROGRAMS {
        let config = serde_json::to_vec(&config(&entrypoint(root, program), &digest))?;
        let name = format!("{}.json", self::digest(&config));
        fs::write(archive.join(&name), &config).context("an image's configuration could not be written")?;
        let names: Vec<String> = tags(program).iter().map(|tag| format!("docker.io/lab/{program}:{tag}")).collect();
        manifest.push(json!({"Config": name, "RepoTags": names, "Layers": ["layer.tar"]}));
    }
    fs::write(archive.join("manifest.json"), serde_json::to_vec(&manifest)?)
        .context("the images' manifest could not be written")?;
    pack(&archive, target)
}

/// The versions of an image: the nameless one, and the one that the lab's manifests name.
fn tags(program: &str) -> Vec<String> {
    let flannel = Flannel::default().image;
    let version = match program {
        "flanneld" | "install-flannel" => flannel.rsplit_once(':').map(|(_, tag)| tag.to_owned()),
        "calico-node" | "install-cni" => Some(format!("v{}", Calico::default().version)),
        _ => None,
    };
    std::iter::once("latest".to_owned()).chain(version).collect()
}

/// The file behind a program's name: the lab's binary, or the real program that was given in the stand-in's place.
fn behind(root: &Path, program: &str) -> String {
    match program {
        // A stop kills it: like the real one's, its namespaces are all that matters.
        "pause" => "/usr/bin/sleep".to_owned(),
        _ if is_given(root, program) => format!("/{GIVEN}/{program}"),
        _ => LAB.to_owned(),
    }
}

/// What an image starts. The link's name is the process' own, as the real program's is; the lab's binary also wants it as an argument.
fn entrypoint(root: &Path, program: &str) -> Vec<String> {
    let path = format!("/bin/{program}");
    match program {
        "pause" => vec![path, "infinity".to_owned()],
        _ if is_given(root, program) => vec![path],
        _ => vec![path, program.to_owned()],
    }
}

/// True when the lab was given a real program in a stand-in's place.
fn is_given(root: &Path, program: &str) -> bool {
    root.join(GIVEN).join(program).exists()
}

/// An image's configuration.
fn config(entrypoint: &[String], layer: &str) -> Value {
    let environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LAB_CNI_BIN_DIR=/usr/local/lib/nodectl-lab/plugins",
        "LAB_FLANNEL_PLUGIN=/usr/local/lib/nodectl-lab/plugins/flannel",
        MARK,
    ];
    json!({"architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": environment},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]}, "history": [{"created_by": "nodectl-lab"}]})
}

/// Debian's root without its content: everything under /usr comes from the node. In /bin, the programs as probes and hooks call them.
fn fill_layer(root: &Path, layer: &Path) -> std::io::Result<()> {
    for folder in
        ["bin", "dev", "etc/alternatives", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "var/log"]
    {
        fs::create_dir_all(layer.join(folder))?;
    }
    for folder in ["sbin", "lib", "lib64"] {
        symlink(format!("usr/{folder}"), layer.join(folder))?;
    }
    for shell in ["sh", "bash"] {
        symlink(format!("/usr/bin/{shell}"), layer.join("bin").join(shell))?;
    }
    for program in PROGRAMS {
        symlink(behind(root, program), layer.join("bin").join(program))?;
    }
    symlink("/run", layer.join("var/run"))?;
    fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(layer.join("etc/group"), "root:x:0:\n")
}

/// Packs a folder, the same way each time.
fn pack(folder: &Path, target: &Path) -> Result<()> {
    let options = ["--sort=name", "--numeric-owner", "--owner=0", "--group=0", "--mtime=@0", "--format=ustar"];
    let mut tar = std::process::Command::new("tar");
    tar.args(options).arg("-C").arg(folder).arg("-cf").arg(target).arg(".");
    let result = command::output(&mut tar, "")?;
    anyhow::ensure!(result.ok(), "{} could not be packed: {}", folder.display(), result.stderr.trim());
    Ok(())
}

/// SHA-256 in hexadecimal.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
