//! RuntimeService: each call runs in a thread of its own, as plugins and processes are waited for.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use tonic::{Request, Response, Status};

use super::store::NotFound;
use super::{Runtime, containers, sandboxes, status};
use crate::cri;
use crate::cri::runtime_service_server::RuntimeService;

/// The runtime service.
pub struct Service {
    runtime: Arc<Runtime>,
}

impl Service {
    /// The service of a runtime.
    pub fn new(runtime: Arc<Runtime>) -> Service {
        Service { runtime }
    }

    /// Runs blocking work and answers with its result. Work goes on when the caller has gone away, as containerd's plugins do.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Runtime>) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let runtime = Arc::clone(&self.runtime);
        match tokio::task::spawn_blocking(move || work(&runtime)).await {
            Ok(Ok(answer)) => Ok(Response::new(answer)),
            Ok(Err(error)) => Err(failure(&error)),
            Err(error) => Err(Status::internal(format!("the work panicked: {error}"))),
        }
    }
}

/// An error as gRPC's status.
fn failure(error: &anyhow::Error) -> Status {
    let words = format!("{error:#}");
    if error.downcast_ref::<NotFound>().is_some() { Status::not_found(words) } else { Status::unknown(words) }
}

/// True when all wanted labels are there.
fn has_labels(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _request: Request<cri::VersionRequest>) -> Result<Response<cri::VersionResponse>, Status> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "containerd".to_owned(),
            runtime_version: "1.6.20-lab".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Result<Response<cri::StatusResponse>, Status> {
        let verbose = request.into_inner().verbose;
        self.run(move |runtime| Ok(status::runtime(runtime, verbose))).await
    }

    async fn update_runtime_config(
        &self,
        _request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<cri::UpdateRuntimeConfigResponse>, Status> {
        // containerd uses the pod CIDR only for a conf_template, which is not set.
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        self.run(move |runtime| {
            let pod_sandbox_id =
                sandboxes::run(runtime, &request.config.unwrap_or_default(), &request.runtime_handler)?;
            Ok(cri::RunPodSandboxResponse { pod_sandbox_id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        self.run(move |runtime| sandboxes::stop(runtime, &id).map(|()| cri::StopPodSandboxResponse {})).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        self.run(move |runtime| sandboxes::remove(runtime, &id).map(|()| cri::RemovePodSandboxResponse {})).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        self.run(move |runtime| {
            Ok(status::sandbox(&runtime.store.sandboxes.get(&request.pod_sandbox_id)?, request.verbose))
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let all = self.runtime.store.sandboxes.all();
        let items = all.iter().map(status::sandbox_item).filter(|item| {
            item.id.starts_with(&filter.id)
                && filter.state.as_ref().is_none_or(|state| state.state == item.state)
                && has_labels(&item.labels, &filter.label_selector)
        });
        Ok(Response::new(cri::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        let request = request.into_inner();
        self.run(move |runtime| {
            let container_id =
                containers::create(runtime, &request.pod_sandbox_id, &request.config.unwrap_or_default())?;
            Ok(cri::CreateContainerResponse { container_id })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        let id = request.into_inner().container_id;
        self.run(move |runtime| containers::start(runtime, &id).map(|()| cri::StartContainerResponse {})).await
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        let request = request.into_inner();
        self.run(move |runtime| {
            containers::stop(runtime, &request.container_id, request.timeout).map(|()| cri::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        let id = request.into_inner().container_id;
        self.run(move |runtime| containers::remove(runtime, &id).map(|()| cri::RemoveContainerResponse {})).await
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let all = self.runtime.store.containers.all();
        let containers = all.iter().map(status::container_item).filter(|item| {
            item.id.starts_with(&filter.id)
                && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state == item.state)
                && has_labels(&item.labels, &filter.label_selector)
        });
        Ok(Response::new(cri::ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let id = request.into_inner().container_id;
        self.run(move |runtime| Ok(status::container(&runtime.store.containers.get(&id)?))).await
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        let request = request.into_inner();
        self.run(move |runtime| containers::exec(runtime, &request.container_id, &request.cmd, request.timeout)).await
    }
}
