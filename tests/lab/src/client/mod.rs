//! A small blocking API client for the lab and its tests. Paths are those of the API: `/api/v1/nodes/node1`.

mod error;
mod kubeconfig;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, Request};
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use crate::apiserver::patch::PatchKind;

pub use error::{ClientError, ClientResult};
pub use kubeconfig::Credentials;
pub use watch::{Event, Watch};

/// How a patch is applied.
pub type Patch = PatchKind;

/// Speaks to an API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    server: String,
    token: Option<String>,
}

impl Client {
    /// With the credentials of a kubeconfig file.
    pub fn from_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let credentials = Credentials::parse(&text, folder);
        Self::new(&credentials.with_context(|| format!("using the kubeconfig {}", path.display()))?)
    }

    /// With the credentials of a kubeconfig's text; nothing in it may be a relative path.
    pub fn from_text(kubeconfig: &str) -> anyhow::Result<Self> {
        Self::new(&Credentials::parse(kubeconfig, Path::new("/"))?)
    }

    /// As a ServiceAccount.
    pub fn from_token(server: &str, ca: &str, token: &str) -> anyhow::Result<Self> {
        Self::new(&Credentials {
            server: server.into(),
            ca: Some(ca.into()),
            token: Some(token.into()),
            ..Credentials::default()
        })
    }

    /// With explicit credentials.
    pub fn new(credentials: &Credentials) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(provider);
        if let Some(ca) = &credentials.ca {
            let found = Certificate::from_pem(ca.as_bytes()).context("the cluster's CA is not a PEM certificate")?;
            tls = tls.root_certs(RootCerts::new_with_certs(&[found]));
        }
        if let (Some(certificate), Some(key)) = (&credentials.certificate, &credentials.key) {
            let leaf = Certificate::from_pem(certificate.as_bytes()).context("the client certificate is not PEM")?;
            let key = PrivateKey::from_pem(key.as_bytes()).context("the client key is not PEM")?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&[leaf], key)));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .proxy(None)
            .user_agent("nodectl-lab/1 (linux/amd64)")
            .accept("application/json")
            .build();
        let server = credentials.server.trim_end_matches('/').to_string();
        Ok(Self { agent: config.new_agent(), server, token: credentials.token.clone() })
    }

    /// Reads one object (or any other path).
    pub fn get(&self, path: &str) -> ClientResult<Value> {
        self.send(&Method::GET, path, None)
    }

    /// Reads one object, or `None` if there is none.
    pub fn find(&self, path: &str) -> ClientResult<Option<Value>> {
        match self.get(path) {
            Err(error) if error.code == 404 => Ok(None),
            result => result.map(Some),
        }
    }

    /// The items of a collection; selectors stand in the path's query.
    pub fn list(&self, path: &str) -> ClientResult<Vec<Value>> {
        let mut list = self.get(path)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Creates an object in a collection, or a subresource such as a token.
    pub fn create(&self, path: &str, object: &Value) -> ClientResult<Value> {
        self.send(&Method::POST, path, Some(("application/json", object)))
    }

    /// Creates an object unless it is there already.
    pub fn ensure(&self, path: &str, object: &Value) -> ClientResult<()> {
        match self.create(path, object) {
            Err(error) if error.is("AlreadyExists") => Ok(()),
            result => result.map(drop),
        }
    }

    /// Replaces an object; with metadata.resourceVersion it is a compare-and-swap.
    pub fn update(&self, path: &str, object: &Value) -> ClientResult<Value> {
        self.send(&Method::PUT, path, Some(("application/json", object)))
    }

    /// Changes a part of an object.
    pub fn patch(&self, path: &str, kind: Patch, patch: &Value) -> ClientResult<Value> {
        self.send(&Method::PATCH, path, Some((kind.content_type(), patch)))
    }

    /// Deletes an object, with its own grace.
    pub fn delete(&self, path: &str) -> ClientResult<Value> {
        self.send(&Method::DELETE, path, None)
    }

    /// Deletes an object with `DeleteOptions`: `{"gracePeriodSeconds": 0, "preconditions": {"uid": ..}}`.
    pub fn delete_with(&self, path: &str, options: &Value) -> ClientResult<Value> {
        self.send(&Method::DELETE, path, Some(("application/json", options)))
    }

    /// Evicts a Pod; `version` is the policy group's ("v1", or "v1beta1" before 1.22).
    pub fn evict(&self, namespace: &str, pod: &str, version: &str, options: &Value) -> ClientResult<Value> {
        let mut eviction = json!({"apiVersion": format!("policy/{version}"), "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace}});
        if !options.is_null() {
            eviction["deleteOptions"] = options.clone();
        }
        self.create(&format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction"), &eviction)
    }

    /// A token of a ServiceAccount.
    pub fn token(&self, namespace: &str, account: &str, seconds: i64) -> ClientResult<String> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, "audiences": []}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.create(&path, &request)?;
        Ok(answer["status"]["token"].as_str().unwrap_or_default().to_string())
    }

    /// Watches a collection; selectors, resourceVersion and the like stand in the path's query.
    pub fn watch(&self, path: &str) -> ClientResult<Watch> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let request = self.request(&Method::GET, &format!("{path}{separator}watch=1")).body(());
        let request = request.map_err(|error| ClientError::transport(path, &error))?;
        let request = self.agent.configure_request(request).timeout_connect(Some(CONNECT)).build();
        let response = self.agent.run(request).map_err(|error| ClientError::transport(path, &error))?;
        let response = checked(path, response)?;
        Ok(Watch::new(response.into_body()))
    }

    /// Waits until the object at `path` satisfies `wanted`; absent objects are passed as null.
    pub fn wait_for(&self, path: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let object = self.find(path).map(Option::unwrap_or_default);
            match object {
                Ok(object) if wanted(&object) => return Ok(object),
                last if Instant::now() >= end => {
                    anyhow::bail!("{path} did not come to the wanted state within {limit:?}; last: {last:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Any request; answers the body as JSON, as text if it is none.
    pub fn send(&self, method: &Method, path: &str, body: Option<(&str, &Value)>) -> ClientResult<Value> {
        self.exchange(method, path, body).map(|(_, answer)| answer)
    }

    /// The same, with the status code of the answer (below 300).
    pub fn exchange(&self, method: &Method, path: &str, body: Option<(&str, &Value)>) -> ClientResult<(u16, Value)> {
        let fail = |error: &dyn std::fmt::Display| ClientError::transport(path, error);
        let request = self.request(method, path);
        let response = match body {
            None => {
                let request = request.body(()).map_err(|error| fail(&error))?;
                let request = self.agent.configure_request(request).timeout_global(Some(ANSWER)).build();
                self.agent.run(request)
            }
            Some((content_type, body)) => {
                let request = request.header("Content-Type", content_type).body(body.to_string());
                let request = request.map_err(|error| fail(&error))?;
                let request = self.agent.configure_request(request).timeout_global(Some(ANSWER)).build();
                self.agent.run(request)
            }
        };
        let mut response = checked(path, response.map_err(|error| fail(&error))?)?;
        let text = read(&mut response).map_err(|error| fail(&error))?;
        Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    fn request(&self, method: &Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

/// For an answer without a stream.
const ANSWER: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);

fn read(response: &mut http::Response<Body>) -> Result<String, ureq::Error> {
    response.body_mut().with_config().limit(64 << 20).read_to_string()
}

fn checked(path: &str, mut response: http::Response<Body>) -> ClientResult<http::Response<Body>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    Err(ClientError::refused(path, code, &read(&mut response).unwrap_or_default()))
}
