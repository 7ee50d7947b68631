//! etcd and kube-apiserver: their flags, their start, their end.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apiserver::Regime;
use crate::client::Client;
use crate::command;
use crate::pki::Pki;

/// Where etcd listens, inside the namespace of both.
const ETCD: &str = "127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
/// Where kube-apiserver listens there.
pub const ADDRESS: &str = "127.0.0.1:6443";
/// A start takes about five seconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the programs are started with.
pub struct Files {
    assets: PathBuf,
    folder: PathBuf,
    pki: Pki,
    /// Whose refusals the server gives.
    pub regime: Regime,
}

/// Both programs, running.
pub struct Programs {
    // Dropped in this order: the server before the store it writes to.
    _server: Program,
    _store: Program,
}

/// A child that is killed when dropped.
struct Program {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Files {
    /// Looks at the programs and makes the folder for their state.
    pub fn new(assets: &Path, folder: &Path, pki: &Pki) -> Result<Self> {
        for program in ["kube-apiserver", "etcd"] {
            if !assets.join(program).is_file() {
                bail!(
                    "{} has no {program}. To fix it: let KUBEBUILDER_ASSETS name a folder with kube-apiserver and etcd, as tests/apiserver makes it",
                    assets.display()
                );
            }
        }
        fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
        Ok(Self { assets: assets.into(), folder: folder.into(), pki: pki.clone(), regime: regime_of(assets)? })
    }

    fn etcd(&self) -> Command {
        let mut command = self.program("etcd");
        let url = format!("http://{ETCD}");
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", ETCD_PEERS, "--initial-advertise-peer-urls", ETCD_PEERS]);
        command.args(["--initial-cluster", &format!("default={ETCD_PEERS}")]);
        command
    }

    fn kube_apiserver(&self) -> Result<Command> {
        let (private, public) = self.pki.account_key()?;
        let mut command = self.program("kube-apiserver");
        let (host, port) = ADDRESS.split_once(':').unwrap_or_default();
        for (flag, value) in [("bind-address", host), ("advertise-address", host), ("secure-port", port)] {
            command.arg(format!("--{flag}={value}"));
        }
        command.arg(format!("--etcd-servers=http://{ETCD}"));
        for (flag, path) in [
            ("client-ca-file", self.pki.path("ca.crt")),
            ("tls-cert-file", self.pki.path("apiserver.crt")),
            ("tls-private-key-file", self.pki.path("apiserver.key")),
            ("service-account-key-file", public),
            ("service-account-signing-key-file", private),
            // Its default is a folder of the machine's.
            ("cert-dir", self.folder.join("certificates")),
        ] {
            command.arg(format!("--{flag}={}", path.display()));
        }
        command.args([
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            // The Service `kubernetes` has no endpoints: nodes of the lab reach the server by a rule of their own.
            "--endpoint-reconciler-type=none",
        ]);
        if self.regime == Regime::V1_20 {
            // Pods get their token by a projected volume, as from 1.21 on: nobody makes token Secrets here. Nodes have podCIDRs of
            // both families, as from 1.21 on.
            command.arg("--feature-gates=BoundServiceAccountTokenVolume=true,IPv6DualStack=true");
        }
        Ok(command)
    }

    /// The kernel kills it when the thread that starts it has ended, however that came.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.assets.join(name)).current_dir(&self.folder);
        command
    }
}

impl Programs {
    /// Starts etcd, then kube-apiserver, and waits until the server says that it is ready.
    pub fn start(files: &Files) -> Result<Self> {
        let mut store = Program::start("etcd", files, files.etcd())?;
        store.wait(|| TcpStream::connect(ETCD).is_ok())?;
        let mut server = Program::start("kube-apiserver", files, files.kube_apiserver()?)?;
        let client = Client::from_text(&files.pki.admin_kubeconfig(&format!("https://{ADDRESS}"))?)?;
        server.wait(|| client.get("/readyz").is_ok_and(|answer| answer == "ok"))?;
        // What it makes itself comes a moment later.
        for made in ["/default/services/kubernetes", "/kube-public", "/kube-system", "/kube-node-lease"] {
            server.wait(|| client.get(&format!("/api/v1/namespaces{made}")).is_ok())?;
        }
        Ok(Self { _server: server, _store: store })
    }
}

impl Program {
    fn start(name: &'static str, files: &Files, mut command: Command) -> Result<Self> {
        let log = files.folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} could not be started. To fix it: apt-get install util-linux"))?;
        Ok(Self { name, log, child })
    }

    /// Asks again and again; fails when the program ends, or answers nothing for long.
    fn wait(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            if Instant::now() > until {
                bail!("{} was not ready within {PATIENCE:?}: {}", self.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whose refusals the kube-apiserver of a folder gives.
pub fn regime_of(assets: &Path) -> Result<Regime> {
    let said = command::run(&[assets.join("kube-apiserver"), PathBuf::from("--version")])?;
    regime(said.trim().trim_start_matches("Kubernetes "))
}

/// From "v1.20.2".
fn regime(version: &str) -> Result<Regime> {
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let minor: u32 = minor.with_context(|| format!("kube-apiserver has the version {version:?}, which is none"))?;
    Ok(Regime::of_minor(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_the_regime() {
        assert_eq!(regime("v1.20.2").unwrap(), Regime::V1_20);
        assert_eq!(regime("v1.31.14").unwrap(), Regime::V1_20);
        assert_eq!(regime("v1.36.2+k3s1").unwrap(), Regime::V1_36);
        assert!(regime("v0.0.0-master").is_err());
    }
}
