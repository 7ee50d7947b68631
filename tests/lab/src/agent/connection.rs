//! The connection of a stand-in to the API server.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{Client, ClientError, Patch};

use super::api::{Answer, Api, ApiError};
use super::kubeconfig;

/// Connects with the credentials of a ServiceAccount on this node.
pub fn connect(service_account: &str) -> Result<Arc<dyn Api>> {
    connect_with(&kubeconfig::path(service_account))
}

/// Connects with a kubeconfig.
pub fn connect_with(path: &str) -> Result<Arc<dyn Api>> {
    let client = Client::from_kubeconfig(Path::new(path))
        .with_context(|| format!("the API server cannot be used with the kubeconfig {path}"))?;
    Ok(Arc::new(client))
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> ApiError {
        ApiError { code: error.code, message: error.to_string() }
    }
}

impl Api for Client {
    fn get(&self, path: &str) -> Answer<Value> {
        Ok(Client::get(self, path)?)
    }

    fn list(&self, path: &str) -> Answer<Vec<Value>> {
        Ok(Client::list(self, path)?)
    }

    fn create(&self, path: &str, object: &Value) -> Answer<Value> {
        Ok(Client::create(self, path, object)?)
    }

    fn replace(&self, path: &str, object: &Value) -> Answer<Value> {
        Ok(Client::update(self, path, object)?)
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer<Value> {
        Ok(Client::patch(self, path, Patch::Strategic, patch)?)
    }

    fn delete(&self, path: &str) -> Answer<()> {
        Ok(Client::delete(self, path).map(drop)?)
    }
}
