//! nodectl on a node and on the administrator's machine, and what it answered.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Cni, Scenario};
use crate::command::{self, Output};

/// How a call of nodectl ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// The result.
    pub stdout: String,
    /// Progress and log.
    pub stderr: String,
}

impl Done {
    /// The result as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {}{}", self.stdout, self.stderr))
    }

    /// Everything it wrote, for a message.
    pub fn all(&self) -> String {
        format!("exit {}\n{}{}", self.code, self.stdout, self.stderr)
    }

    /// An error unless it ended with this code.
    pub fn expect(self, code: i32) -> Result<Done> {
        if self.code != code {
            bail!("expected exit {code}: {}", self.all());
        }
        // The last message is its verdict: one cause, one remedy.
        let verdict = self.stderr.rsplit("\nnodectl: ").next().unwrap_or_default();
        if verdict.matches("To fix it:").count() > 1 {
            bail!("more than one remedy: {}", self.all());
        }
        Ok(self)
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done { code: output.code, stdout: output.stdout, stderr: output.stderr }
    }
}

impl Scenario {
    /// `nodectl ARGS` on a node.
    pub fn nodectl(&self, index: usize, args: &[&str]) -> Result<Done> {
        self.nodectl_with(index, args, &[])
    }

    /// The same with variables in its environment.
    pub fn nodectl_with(&self, index: usize, args: &[&str], env: &[(&str, &str)]) -> Result<Done> {
        command::output(&mut self.nodectl_command(index, args, env)?, "").map(Done::from)
    }

    /// The same, to be started by the caller.
    pub fn nodectl_command(&self, index: usize, args: &[&str], env: &[(&str, &str)]) -> Result<Command> {
        let mut argv = vec!["nodectl"];
        argv.extend(args);
        let mut command = self.node(index)?.command(&argv)?;
        command.envs(env.iter().copied());
        Ok(command)
    }

    /// `nodectl cluster ARGS` with the administrator's kubeconfig, on the machine.
    pub fn cluster_command(&self, args: &[&str]) -> Result<Done> {
        let folder = self.cluster.folder();
        let kubeconfig = folder.join("admin.conf");
        std::fs::write(&kubeconfig, self.cluster.api()?.admin_kubeconfig()?)
            .context("the kubeconfig could not be written")?;
        let binary = self
            .cluster
            .options()
            .nodectl
            .clone()
            .context("nodectl is not built. To fix it: cargo build -p nodectl")?;
        let mut command = Command::new(binary);
        command.arg("cluster").args(args).arg("--kubeconfig").arg(&kubeconfig);
        if !matches!(args.first(), Some(&"status" | &"manifest")) {
            command.arg("--backup-dir").arg(folder.join("backup"));
        }
        command::output(&mut command, "").map(Done::from)
    }

    /// Prepares the cluster and waits until flannel's pods, which that rolls, are back.
    pub fn prepare(&self) -> Result<Done> {
        let done = self.cluster_command(&["prepare"])?.expect(0)?;
        // Between two nodes' turns all pods are Ready for a moment: each must be of the new template.
        crate::cluster::readiness::until(super::PATIENCE, || {
            let canal = self.cluster.options().is_canal();
            let path = match canal {
                true => "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcanal",
                false => "/api/v1/namespaces/kube-flannel/pods",
            };
            let pods = self.client.list(path)?;
            let old = pods.iter().filter(|pod| pod["spec"]["nodeSelector"]["nodectl.io/cni"] != "flannel").count();
            Ok((old > 0).then(|| format!("{old} of flannel's pods have not been replaced")))
        })?;
        self.settled().context("after prepare")?;
        Ok(done)
    }

    /// Switches a node, which must succeed.
    pub fn migrate(&self, index: usize, to: Cni) -> Result<Done> {
        self.nodectl(index, &["migrate", "--to", to.name(), "--yes", "--drain-timeout", "60", "--agent-timeout", "60"])?
            .expect(0)
    }
}
