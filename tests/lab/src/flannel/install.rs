//! The init containers of flannel's DaemonSet: `cp -f` of the plugin and of the conflist.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::agent;

/// The conflist of flannel's manifest.
const CONFLIST: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// `nodectl-lab install-flannel [plugin|config]`: both without an argument.
///
/// LAB_FLANNEL_PLUGIN names the plugin's binary; CNI_BIN_DIR and CNI_NET_DIR the directories, if they are not the usual ones.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let part = args.first().map(String::as_str);
    if part.is_none_or(|part| part == "plugin") {
        plugin()?;
    }
    if part.is_none_or(|part| part == "config") {
        config()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies the image's plugin; where no image's plugin is given, the one that the node has already stands for it.
fn plugin() -> Result<()> {
    let directory = agent::env("CNI_BIN_DIR").unwrap_or_else(|| "/opt/cni/bin".to_owned());
    std::fs::create_dir_all(&directory).with_context(|| format!("{directory} could not be created"))?;
    let target = Path::new(&directory).join("flannel");
    match agent::env("LAB_FLANNEL_PLUGIN").filter(|path| Path::new(path).is_file()) {
        Some(source) => copy_by_force(Path::new(&source), &target),
        None if target.is_file() => Ok(()),
        None => bail!("there is no flannel plugin. To fix it: set LAB_FLANNEL_PLUGIN to its binary"),
    }
}

fn config() -> Result<()> {
    let directory = agent::env("CNI_NET_DIR").unwrap_or_else(|| "/etc/cni/net.d".to_owned());
    std::fs::create_dir_all(&directory).with_context(|| format!("{directory} could not be created"))?;
    let text = std::fs::read_to_string("/etc/kube-flannel/cni-conf.json").unwrap_or_else(|_| CONFLIST.to_owned());
    let target = Path::new(&directory).join("10-flannel.conflist");
    // `cp -f` truncates and writes: a reader can see an empty file.
    std::fs::write(&target, text).with_context(|| format!("{} could not be written", target.display()))
}

/// `cp -f`: written over what is there; removed first only if that cannot be opened (a program that runs).
fn copy_by_force(source: &Path, target: &Path) -> Result<()> {
    let said = || format!("{} could not be copied to {}", source.display(), target.display());
    if std::fs::copy(source, target).is_err() {
        let _ = std::fs::remove_file(target);
        std::fs::copy(source, target).with_context(said)?;
    }
    Ok(())
}
