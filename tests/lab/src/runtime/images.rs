//! Images: those of the lab are always there, others never are.

use tonic::{Request, Response, Status};

use super::command;
use crate::cri;
use crate::cri::image_service_server::ImageService;

/// The image service.
pub struct Service;

/// What the lab's own programs are called as images.
const OWN: [&str; 7] = ["calico-node", "flanneld", "install-cni", "install-flannel", "pod", "pause", "kube-proxy"];

/// Versions that a node holds of each: those of the lab's manifests. Others have to be pulled first.
const TAGS: [&str; 6] = ["latest", "v0.24.4", "v0.26.7", "v0.27.4", "v3.31.0", "v3.32.0"];

/// An image as CRI shows it.
fn image(name: &str) -> cri::Image {
    cri::Image { id: name.to_owned(), repo_tags: vec![name.to_owned()], size: 1, ..Default::default() }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        _request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images =
            OWN.iter().flat_map(|name| TAGS.iter().map(move |tag| image(&format!("lab/{name}:{tag}")))).collect();
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let name = request.into_inner().image.map(|image| image.image).unwrap_or_default();
        let image = command::program(&name).map(|_| image(&name));
        Ok(Response::new(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let name = request.into_inner().image.map(|image| image.image).unwrap_or_default();
        match command::program(&name) {
            Some(_) => Ok(Response::new(cri::PullImageResponse { image_ref: name })),
            None => Err(Status::not_found(format!(
                "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: not found"
            ))),
        }
    }
}
