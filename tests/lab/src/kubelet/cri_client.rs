//! A blocking client of any CRI socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::cri;
use crate::cri::image_service_client::ImageServiceClient;
use crate::cri::runtime_service_client::RuntimeServiceClient;

/// kubelet's runtimeRequestTimeout.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A connection that is made when it is needed, and again when it broke.
pub struct Cri {
    executor: Runtime,
    channel: Channel,
}

impl Cri {
    /// A client of the socket at `path`; nothing is connected yet.
    pub fn new(path: &Path) -> Result<Cri> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("no executor for CRI")?;
        let socket: PathBuf = path.to_owned();
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let _inside = executor.enter();
        // The address is a placeholder: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        drop(_inside);
        Ok(Cri { executor, channel })
    }

    /// Sends one call to the runtime service, for at most kubelet's own limit.
    fn call<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut RuntimeServiceClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T> {
        let mut client = RuntimeServiceClient::new(self.channel.clone());
        let answer = self.executor.block_on(async { tokio::time::timeout(limit, work(&mut client)).await });
        let answer = answer.context("the runtime did not answer in time")?;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| anyhow::anyhow!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
    }

    /// Version.
    pub fn version(&self) -> Result<cri::VersionResponse> {
        self.call(TIMEOUT, async |client| client.version(cri::VersionRequest::default()).await)
    }

    /// Status, with the runtime's own information.
    pub fn status(&self) -> Result<cri::StatusResponse> {
        self.call(TIMEOUT, async |client| client.status(cri::StatusRequest { verbose: true }).await)
    }

    /// Status, as the kubelet asks for it over and over.
    pub fn conditions(&self) -> Result<Vec<cri::RuntimeCondition>> {
        let answer = self.call(TIMEOUT, async |client| client.status(cri::StatusRequest { verbose: false }).await)?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    /// RunPodSandbox; may take twice as long as other calls.
    pub fn run_pod_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.call(TIMEOUT * 2, async |client| client.run_pod_sandbox(request).await)?.pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(TIMEOUT, async |client| client.stop_pod_sandbox(request).await).map(drop)
    }

    /// RemovePodSandbox.
    pub fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(TIMEOUT, async |client| client.remove_pod_sandbox(request).await).map(drop)
    }

    /// PodSandboxStatus.
    pub fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.call(TIMEOUT, async |client| client.pod_sandbox_status(request).await)?;
        answer.status.context("the runtime answered without a status")
    }

    /// Path of a sandbox's network namespace, out of the verbose status that containerd gives; none on the host's network.
    pub fn sandbox_netns(&self, id: &str) -> Result<Option<String>> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.call(TIMEOUT, async |client| client.pod_sandbox_status(request).await)?;
        let text = answer.info.get("info").context("the runtime gives no verbose status")?;
        let info: serde_json::Value = serde_json::from_str(text).context("the runtime's verbose status is not JSON")?;
        let namespaces =
            info.pointer("/runtimeSpec/linux/namespaces").and_then(serde_json::Value::as_array).into_iter().flatten();
        let network = namespaces
            .filter(|namespace| namespace["type"] == "network")
            .find_map(|namespace| namespace["path"].as_str());
        Ok(network.map(str::to_owned))
    }

    /// ListPodSandbox, all of them.
    pub fn list_pod_sandbox(&self) -> Result<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest::default();
        Ok(self.call(TIMEOUT, async |client| client.list_pod_sandbox(request).await)?.items)
    }

    /// CreateContainer.
    pub fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.call(TIMEOUT, async |client| client.create_container(request).await)?.container_id)
    }

    /// StartContainer.
    pub fn start_container(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.call(TIMEOUT, async |client| client.start_container(request).await).map(drop)
    }

    /// StopContainer with a grace in seconds.
    pub fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let limit = TIMEOUT + Duration::from_secs(grace.try_into().unwrap_or_default());
        self.call(limit, async |client| client.stop_container(request).await).map(drop)
    }

    /// RemoveContainer.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        self.call(TIMEOUT, async |client| client.remove_container(request).await).map(drop)
    }

    /// ListContainers, all of them.
    pub fn list_containers(&self) -> Result<Vec<cri::Container>> {
        let request = cri::ListContainersRequest::default();
        Ok(self.call(TIMEOUT, async |client| client.list_containers(request).await)?.containers)
    }

    /// ContainerStatus.
    pub fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.call(TIMEOUT, async |client| client.container_status(request).await)?;
        answer.status.context("the runtime answered without a status")
    }

    /// ExecSync: runs a command in a container; an error unless its exit code is 0.
    pub fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<()> {
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout };
        let answer = self.call(limit + TIMEOUT, async |client| client.exec_sync(request).await)?;
        if answer.exit_code != 0 {
            let words = [answer.stdout, answer.stderr].concat();
            anyhow::bail!(
                "command {command:?} exited with {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&words).trim()
            );
        }
        Ok(())
    }

    /// True when the image is there.
    pub fn has_image(&self, name: &str) -> Result<bool> {
        let mut client = ImageServiceClient::new(self.channel.clone());
        let spec = cri::ImageSpec { image: name.to_owned(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
        let answer =
            self.executor.block_on(async { tokio::time::timeout(TIMEOUT, client.image_status(request)).await });
        let answer =
            answer.context("the runtime did not answer in time")?.context("the image could not be asked for")?;
        Ok(answer.into_inner().image.is_some())
    }
}
