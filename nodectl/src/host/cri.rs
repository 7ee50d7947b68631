//! The container runtime through CRI: gRPC over its unix socket.
//!
//! gRPC asks for an asynchronous client library; its runtime, on the calling thread, is confined in this file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::kube::kubeconfig::option;
use super::{Host, files, process};
use crate::cri_proto as proto;
use crate::cri_proto::image_service_client::ImageServiceClient;
use crate::cri_proto::runtime_service_client::RuntimeServiceClient;
use crate::facts::{Runtime, Sandbox};
use crate::fault;

pub use self::cni_status::CniStatus;

mod cni_status;

/// Where runtimes listen, by distribution.
const SOCKETS: [&str; 5] = [
    "/run/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
/// kubelet's own limit for most calls.
const LIMIT: Duration = Duration::from_secs(120);
/// Where kubelet leaves a pod's terminationGracePeriodSeconds with each of its containers (kuberuntime/labels.go).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// How many sandboxes are stopped at once: each DEL is a handful of processes.
const AT_ONCE: usize = 8;

/// A client of the node's runtime.
#[derive(Debug)]
pub struct Cri {
    executor: tokio::runtime::Runtime,
    channel: Channel,
    socket: PathBuf,
    limit: Duration,
}

/// A container of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its sandbox's id.
    pub sandbox: String,
    /// It runs.
    pub running: bool,
    /// Its pod's terminationGracePeriodSeconds, which kubelet leaves with it.
    pub grace_seconds: Option<u32>,
}

/// How a sandbox is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its id.
    pub sandbox: String,
    /// Its running containers, each with the seconds between SIGTERM and SIGKILL.
    pub containers: Vec<(String, u32)>,
}

impl Cri {
    /// The runtime that the configuration names, else the one that kubelet uses, else the only one in the usual places.
    pub fn detect(host: &Host) -> Result<Cri> {
        if let Some(named) = &host.overrides().runtime_socket {
            let socket = host.path(named);
            ensure!(
                files::exists(&socket),
                "the container runtime's socket {} is not there. To fix it: start the runtime, or correct runtime_socket in the configuration",
                socket.display()
            );
            return Cri::connect(&socket);
        }
        let named = endpoint_of_kubelet(host)?;
        let listening: Vec<&str> = SOCKETS.into_iter().filter(|path| listens(&host.path(path))).collect();
        let is_there = |path: &str| files::exists(&host.path(path));
        Cri::connect(&host.path(choose(named.as_deref(), is_there, &listening)?))
    }

    /// The runtime that listens there; connected with the first call, and again when it was restarted.
    pub fn connect(socket: &Path) -> Result<Cri> {
        let executor =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("no executor for CRI")?;
        let path = socket.to_owned();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let inside = executor.enter();
        // The address is never looked at: the connector knows the socket.
        let channel = Endpoint::from_static("http://runtime").connect_with_connector_lazy(connector);
        drop(inside);
        Ok(Cri { executor, channel, socket: socket.to_owned(), limit: LIMIT })
    }

    /// With another limit for each answer: who only looks must not wait as long as kubelet does.
    pub fn patience(self, limit: Duration) -> Cri {
        Cri { limit, ..self }
    }

    fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T> {
        let channel = self.channel.clone();
        let limit = self.limit;
        let answer = self.executor.block_on(async { tokio::time::timeout(limit, call(channel)).await });
        let runtime = self.socket.display();
        let answer = answer.map_err(|_| anyhow!("the runtime at {runtime} did not answer {what} within {limit:?}"))?;
        answer.map(tonic::Response::into_inner).map_err(|status| {
            anyhow!("the runtime at {runtime} refused {what}: {} ({:?})", status.message(), status.code())
        })
    }

    /// A call that ends something: some releases answer NotFound for what is not there, others OK, as the protocol asks.
    fn end<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<()> {
        self.call(what, async |channel| match call(channel).await {
            Err(status) if status.code() == tonic::Code::NotFound => Ok(tonic::Response::new(())),
            other => other.map(|answer| answer.map(drop)),
        })
    }

    /// Name and version.
    pub fn version(&self) -> Result<(String, String)> {
        let version = self
            .call("Version", async |channel| runtime_client(channel).version(proto::VersionRequest::default()).await)?;
        Ok((version.runtime_name, version.runtime_version))
    }

    /// Whether the network is ready, and which configuration is loaded.
    pub fn status(&self) -> Result<CniStatus> {
        let answer = self.call("Status", async |channel| {
            runtime_client(channel).status(proto::StatusRequest { verbose: true }).await
        })?;
        let conditions = answer.status.map(|s| s.conditions).unwrap_or_default();
        let ready = conditions.iter().any(|c| c.r#type == "NetworkReady" && c.status);
        let config: Value = answer.info.get("cniconfig").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        Ok(CniStatus { ready, ..CniStatus::loaded(&config) })
    }

    /// Every pod sandbox. All are asked for their details at once: one after the other, the answers of a full node add up.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let answer = self.call("ListPodSandbox", async |channel| {
            runtime_client(channel).list_pod_sandbox(proto::ListPodSandboxRequest::default()).await
        })?;
        let ids: Vec<String> = answer.items.iter().map(|item| item.id.clone()).collect();
        let (channel, limit) = (self.channel.clone(), self.limit);
        let details = self.executor.block_on(async move {
            let ask = |id: String| {
                let mut client = runtime_client(channel.clone());
                let request = proto::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: true };
                tokio::spawn(tokio::time::timeout(limit, async move { client.pod_sandbox_status(request).await }))
            };
            let asked: Vec<_> = ids.into_iter().map(ask).collect();
            let mut details = Vec::with_capacity(asked.len());
            for answer in asked {
                details.push(answer.await);
            }
            details
        });
        let mut sandboxes = Vec::with_capacity(details.len());
        for (item, detail) in answer.items.iter().zip(details) {
            let failed = || format!("the runtime could not describe sandbox {}", item.id);
            match detail.with_context(failed)?.with_context(failed)? {
                Ok(detail) => sandboxes.push(sandbox(item, detail.into_inner())),
                // It has gone between the list and now.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(anyhow!("{}: {}", failed(), status.message())),
            }
        }
        Ok(sandboxes)
    }

    /// References and digests of the images that it holds.
    pub fn images(&self) -> Result<Vec<String>> {
        let answer = self.call("ListImages", async |channel| {
            image_client(channel).list_images(proto::ListImagesRequest::default()).await
        })?;
        Ok(answer.images.into_iter().flat_map(|i| i.repo_tags.into_iter().chain(i.repo_digests)).collect())
    }

    /// Stops a sandbox with its containers; its network's DEL is run. Repeated calls are right.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        fault::point("cri.stop_sandbox");
        let request = proto::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.end("StopPodSandbox", async |channel| runtime_client(channel).stop_pod_sandbox(request).await)
    }

    /// Stops several sandboxes, each after its containers: those have their grace, whatever is left then ends with the
    /// sandbox, which the runtime kills. The answers are in the order of the endings.
    pub fn stop_sandboxes(&self, endings: &[Ending]) -> Vec<Result<()>> {
        endings.iter().for_each(|_| fault::point("cri.stop_sandbox"));
        let channel = self.channel.clone();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let answers = self.executor.block_on(async move {
            let asked: Vec<_> =
                endings.iter().map(|e| tokio::spawn(end_sandbox(channel.clone(), turns.clone(), e.clone()))).collect();
            let mut answers = Vec::with_capacity(asked.len());
            for answer in asked {
                answers.push(answer.await);
            }
            answers
        });
        let mut ended = Vec::with_capacity(endings.len());
        for (Ending { sandbox, .. }, answer) in endings.iter().zip(answers) {
            ended.push(match answer {
                Ok(Ok(Ok(_))) => Ok(()),
                Ok(Ok(Err(status))) if status.code() == tonic::Code::NotFound => Ok(()),
                Ok(Ok(Err(status))) => {
                    Err(anyhow!("the runtime could not stop sandbox {sandbox}: {}", status.message()))
                }
                Ok(Err(_)) => Err(anyhow!("the runtime did not stop sandbox {sandbox} within {LIMIT:?}")),
                Err(error) => {
                    Err(anyhow!(error).context(format!("the runtime was not asked to stop sandbox {sandbox}")))
                }
            });
        }
        ended
    }

    /// Removes a sandbox that is stopped, with its containers. Repeated calls are right.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        fault::point("cri.remove_sandbox");
        let request = proto::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.end("RemovePodSandbox", async |channel| runtime_client(channel).remove_pod_sandbox(request).await)
    }

    /// Every container.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let request = proto::ListContainersRequest::default();
        let answer =
            self.call("ListContainers", async |channel| runtime_client(channel).list_containers(request).await)?;
        let running = proto::ContainerState::ContainerRunning as i32;
        let container = |c: proto::Container| Container {
            running: c.state == running,
            grace_seconds: c.annotations.get(GRACE).and_then(|text| text.parse().ok()),
            sandbox: c.pod_sandbox_id,
            id: c.id,
        };
        Ok(answer.containers.into_iter().map(container).collect())
    }

    /// All that decisions need of the runtime, and what it says of its network configuration.
    pub fn observe(&self) -> Result<(Runtime, CniStatus)> {
        let (name, version) = self.version()?;
        let status = self.status()?;
        let runtime = Runtime {
            name,
            version,
            network: status.network.clone(),
            plugins: status.plugins.clone(),
            network_ready: status.ready,
            max_conf_num: status.max_conf_num,
            images: self.images()?,
            sandboxes: self.sandboxes()?,
        };
        Ok((runtime, status))
    }
}

/// kubelet's own limit for an answer: gRPC's 4 MiB are not enough for a node with many pods.
const ANSWER_LIMIT: usize = 16 << 20;

/// Stops a sandbox's containers all at once, then the sandbox when it is its turn.
async fn end_sandbox(
    channel: Channel,
    turns: Arc<Semaphore>,
    ending: Ending,
) -> Result<Result<tonic::Response<proto::StopPodSandboxResponse>, tonic::Status>, tokio::time::error::Elapsed> {
    let mut asked = Vec::with_capacity(ending.containers.len());
    for (container_id, grace) in ending.containers {
        let mut client = runtime_client(channel.clone());
        let request = proto::StopContainerRequest { container_id, timeout: i64::from(grace) };
        let limit = LIMIT + Duration::from_secs(u64::from(grace));
        asked.push(tokio::spawn(tokio::time::timeout(limit, async move { client.stop_container(request).await })));
    }
    for container in asked {
        // What could not be stopped so is killed with the sandbox, whose answer counts.
        drop(container.await);
    }
    let turn = turns.acquire_owned().await;
    let request = proto::StopPodSandboxRequest { pod_sandbox_id: ending.sandbox };
    let answer = tokio::time::timeout(LIMIT, runtime_client(channel).stop_pod_sandbox(request)).await;
    drop(turn);
    answer
}

fn runtime_client(channel: Channel) -> RuntimeServiceClient<Channel> {
    RuntimeServiceClient::new(channel).max_decoding_message_size(ANSWER_LIMIT)
}

fn image_client(channel: Channel) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(channel).max_decoding_message_size(ANSWER_LIMIT)
}

/// One runtime of several: another than kubelet's answers as well, knows of no pod, and would make each living one look gone.
fn choose(named: Option<&str>, is_there: impl Fn(&str) -> bool, listening: &[&str]) -> Result<String> {
    if let Some(named) = named {
        ensure!(
            is_there(named),
            "kubelet uses the container runtime at {named}, and no socket is there. To fix it: start the runtime"
        );
        return Ok(named.to_owned());
    }
    match listening {
        [only] => Ok((*only).to_owned()),
        [] => bail!("no socket of a container runtime was found. To fix it: start containerd"),
        several => bail!(
            "container runtimes listen at {}, and no kubelet runs that would say which one has the pods. To fix it: start kubelet, or name \
             it with runtime_socket in the configuration",
            several.join(" and ")
        ),
    }
}

fn listens(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// What kubelet was told: on its command line, or since 1.27 in its configuration file.
fn endpoint_of_kubelet(host: &Host) -> Result<Option<String>> {
    let Some(kubelet) = process::scan()?.into_iter().find(|p| p.name == "kubelet") else { return Ok(None) };
    let from_file = || {
        let text = files::read_text_optional(&host.path(option(&kubelet.args, "--config")?)).ok()??;
        let config: Value = yaml_serde::from_str(&text).ok()?;
        config["containerRuntimeEndpoint"].as_str().filter(|e| !e.is_empty()).map(str::to_owned)
    };
    let endpoint = option(&kubelet.args, "--container-runtime-endpoint").or_else(from_file);
    Ok(endpoint.map(|e| e.strip_prefix("unix://").unwrap_or(&e).to_owned()))
}

fn sandbox(item: &proto::PodSandbox, detail: proto::PodSandboxStatusResponse) -> Sandbox {
    let info: Value = detail.info.get("info").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    let status = detail.status.unwrap_or_default();
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let meta = item.metadata.clone().unwrap_or_default();
    Sandbox {
        id: item.id.clone(),
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        host_network: options.is_some_and(|o| o.network == proto::NamespaceMode::Node as i32),
        ready: item.state == proto::PodSandboxState::SandboxReady as i32,
        ip: status.network.and_then(|n| n.ip.parse().ok()),
        netns: netns(&info),
    }
}

/// The path of the sandbox's network namespace, from containerd's verbose information.
fn netns(info: &Value) -> Option<String> {
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array()?;
    let network = namespaces.iter().find(|n| n["type"] == "network")?;
    network["path"].as_str().filter(|p| !p.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_runtime_is_asked_than_the_one_with_the_pods() {
        let (containerd, docker) = ("/run/containerd/containerd.sock", "/run/cri-dockerd.sock");
        assert_eq!(choose(None, |_| true, &[containerd]).unwrap(), containerd);
        assert_eq!(choose(Some(docker), |_| true, &[containerd, docker]).unwrap(), docker);
        for (named, listening) in [(Some(docker), &[containerd][..]), (None, &[containerd, docker]), (None, &[])] {
            let error = choose(named, |_| false, listening).unwrap_err().to_string();
            assert!(error.contains("To fix it: "), "{error}");
        }
    }
}
