//! The container runtime of light nodes: CRI v1 as containerd serves it, with processes for containers.

mod command;
mod containers;
pub mod enter;
mod images;
mod netns;
mod network;
pub mod process;
mod records;
mod runtime_service;
mod sandboxes;
mod status;
mod store;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::cri::image_service_server::ImageServiceServer;
use crate::cri::runtime_service_server::RuntimeServiceServer;
use crate::libcni::{self, Engine};
use store::Store;

/// Where kubelet and others find the runtime.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// What the runtime knows and uses.
pub struct Runtime {
    /// Sandboxes and containers.
    pub store: Store,
    /// The networks.
    pub cni: Arc<Engine>,
    /// This boot's id: sandboxes of another boot are dead.
    pub boot: String,
}

/// The program `runtime`.
pub fn main(_arguments: &[String]) -> Result<ExitCode> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("the boot id could not be read")?;
    let runtime = Arc::new(Runtime {
        store: Store::open(Path::new("/var/lib/containerd/lab"))?,
        cni: Arc::new(Engine::new()),
        boot,
    });
    containers::recover(&runtime);
    sandboxes::recover(&runtime);
    let engine = Arc::clone(&runtime.cni);
    std::thread::spawn(move || {
        if let Err(error) = libcni::watch(&engine) {
            eprintln!("runtime: {error:#}");
        }
    });
    let executor =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no executor")?;
    executor.block_on(serve(runtime))?;
    Ok(ExitCode::SUCCESS)
}

/// Serves both CRI services on the socket until the process is killed.
async fn serve(runtime: Arc<Runtime>) -> Result<()> {
    let _ = fs::remove_file(SOCKET);
    if let Some(folder) = Path::new(SOCKET).parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    }
    let listener = UnixListener::bind(SOCKET).with_context(|| format!("{SOCKET} could not be listened on"))?;
    tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(runtime_service::Service::new(runtime)))
        .add_service(ImageServiceServer::new(images::Service))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("the CRI server ended")
}
