//! The cluster's API server: a process of its own, on the underlay and on the machine's loopback.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Options, Workspace, underlay};
use crate::apiserver::control;
use crate::client::Client;
use crate::pki::Pki;

/// The API server, and the files it needs.
pub struct ApiServer {
    folder: PathBuf,
    arguments: Vec<String>,
    binary: PathBuf,
    /// The cluster's certificates.
    pub pki: Pki,
    process: Mutex<Option<Child>>,
}

impl ApiServer {
    /// Makes certificates and starts the server.
    pub fn start(options: &Options, workspace: &Workspace) -> Result<ApiServer> {
        let folder = workspace.folder.join("api");
        fs::create_dir_all(&folder).with_context(|| format!("{} could not be made", folder.display()))?;
        let path = |name: &str| folder.join(name).display().to_string();
        let listen = format!("/run/netns/{}@{}:6443", workspace.underlay(), underlay::gateway());
        let mut arguments: Vec<String> =
            ["apiserver", "--listen", &listen, "--listen", "127.0.0.1:0"].map(str::to_owned).into();
        for (flag, value) in [
            ("--pki", path("pki")),
            ("--state", path("state")),
            ("--control", path("control")),
            ("--port-file", path("ports")),
            ("--cluster-cidr", options.cluster_cidr.clone()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        if let Some(network) = &options.cluster_cidr_v6 {
            arguments.extend(["--cluster-cidr-v6".to_owned(), network.clone()]);
        }
        if let Some(assets) = &options.assets {
            arguments.extend(["--assets".to_owned(), assets.display().to_string()]);
        }
        arguments.extend(options.api_arguments.iter().cloned());
        let pki = Pki::open_or_create(&folder.join("pki"))?;
        let server = ApiServer { folder, arguments, binary: options.binary.clone(), pki, process: Mutex::new(None) };
        workspace.adopt(server.launch()?)?;
        Ok(server)
    }

    /// Starts the process and waits until it answers; its number.
    fn launch(&self) -> Result<u32> {
        let ports = self.folder.join("ports");
        // ENOENT at the first start.
        let _ = fs::remove_file(&ports);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .context("the API server's log could not be opened")?;
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the log could not be shared")?)
            .stderr(log)
            .spawn()
            .context("the API server could not be started")?;
        // A real one takes five seconds on a machine with nothing else to do.
        let until = Instant::now() + Duration::from_secs(120);
        while !ports.exists() {
            if let Ok(Some(status)) = child.try_wait() {
                bail!("the API server ended with {status}; its log says: {}", self.log());
            }
            if Instant::now() > until {
                let _ = child.kill();
                bail!("the API server did not answer within two minutes; its log says: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Named for people too: kubectl takes it.
        fs::write(self.admin_file(), self.admin_kubeconfig()?)
            .context("the administrator's kubeconfig could not be written")?;
        let id = child.id();
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(id)
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its URL on the machine's loopback; the port is another after each start.
    pub fn url(&self) -> Result<String> {
        let text = fs::read_to_string(self.folder.join("ports")).context("the API server has not answered yet")?;
        let local =
            text.lines().find(|line| line.starts_with("127.")).context("the API server does not listen on loopback")?;
        Ok(format!("https://{local}"))
    }

    /// Its URL as nodes use it.
    pub fn node_url(&self) -> String {
        format!("https://{}:6443", underlay::gateway())
    }

    /// The administrator's kubeconfig, for use on the machine.
    pub fn admin_kubeconfig(&self) -> Result<String> {
        self.pki.admin_kubeconfig(&self.url()?)
    }

    /// The file that holds the administrator's kubeconfig; written anew at each start, as the port changes.
    pub fn admin_file(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// A client with all rights.
    pub fn client(&self) -> Result<Client> {
        Client::from_text(&self.admin_kubeconfig()?)
    }

    /// Sends a command to the fault injection: "ok", "gc", "compact", or a fault.
    pub fn control(&self, command: &str) -> Result<String> {
        control::command(&self.folder.join("control"), command)
    }

    /// Kills the server: connections are refused from now on. Its objects are kept.
    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a killed server again, with its objects.
    pub fn restart(&self, workspace: &Path) -> Result<()> {
        self.kill();
        let id = self.launch()?;
        Workspace::note(workspace, id)
    }

    /// Freezes the server: connections are taken and never answered.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends a signal to the process.
    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let child = process.as_ref().context("the API server is not running")?;
        let pid = i32::try_from(child.id()).context("a process has an impossible number")?;
        kill(Pid::from_raw(pid), signal).context("the API server could not be signalled")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
    }
}
