//! The Kubernetes API over plain HTTPS, as JSON values.
//!
//! Nothing secret appears in an error or in `Debug` output. The server is always verified as the kubeconfig says.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use self::config::Source;
pub use self::evict::{Evictee, Eviction};
use self::http::{Call, Method, Session};
pub use self::status::KubeError;
pub use self::watch::News;
use crate::fault;
use crate::host::Host;
use crate::remedy::Told;

mod config;
mod connect;
mod evict;
mod exec;
mod http;
pub(crate) mod kubeconfig;
mod status;
mod tls;
mod view;
mod watch;

/// How long a request may take with all its repetitions, unless [`Kube::patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many objects one page of a list holds; kubectl asks for as many.
const PAGE: &str = "500";

/// A cluster's API server, and who we are to it. Clones share their connections.
#[derive(Clone)]
pub struct Kube {
    inner: Arc<Inner>,
    patience: Duration,
}

struct Inner {
    source: Source,
    session: Mutex<Arc<Session>>,
    eviction: OnceLock<String>,
}

/// How a patch document is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386: null deletes, lists are replaced. For labels, annotations, single fields and custom resources.
    Merge,
    /// Lists are merged by their key; for built-in kinds only (status.conditions by type).
    Strategic,
    /// RFC 6902; a failed `test` gives 422.
    Json,
    /// Server-side apply, as field manager `nodectl`.
    Apply,
}

/// How a write is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Write {
    /// The server checks everything and stores nothing.
    pub dry_run: bool,
    /// Server-side apply takes fields over from other managers.
    pub force: bool,
    /// Fields unknown to the server are an error (1.25 and later).
    pub strict: bool,
}

impl Write {
    /// A write that is stored.
    pub const REAL: Write = Write { dry_run: false, force: false, strict: false };
    /// A write that is only checked.
    pub const DRY: Write = Write { dry_run: true, force: false, strict: false };
}

impl Kube {
    /// As this node, with kubelet's own credentials.
    pub fn for_node(host: &Host) -> Result<Kube> {
        let path = kubeconfig::of_kubelet(host)?;
        Kube::open(Source { path, context: None, root: host.root().to_owned() })
    }

    /// As whoever this kubeconfig says.
    pub fn from_file(path: &Path, context: Option<&str>) -> Result<Kube> {
        let context = context.map(str::to_owned);
        Kube::open(Source { path: path.to_owned(), context, root: "/".into() })
    }

    /// As an administrator: the kubeconfig given, else the one kubectl would take, else the distribution's.
    pub fn for_admin(path: Option<&Path>, context: Option<&str>) -> Result<Kube> {
        let path = kubeconfig::of_admin(path)?;
        Kube::from_file(&path, context).map_err(|error| {
            let told = Told::of_error(&error);
            match told.remedies.is_empty() {
                true => anyhow!(
                    "{}",
                    told.mended_by("correct it, or name an administrator's with --kubeconfig and --context")
                ),
                false => error,
            }
        })
    }

    fn open(source: Source) -> Result<Kube> {
        let session = http::settled(|| connect(&source))?;
        let session = Mutex::new(Arc::new(session));
        let inner = Inner { source, session, eviction: OnceLock::new() };
        Ok(Kube { inner: Arc::new(inner), patience: PATIENCE })
    }

    /// The same, but each request may take this long with all its repetitions.
    pub fn patience(&self, patience: Duration) -> Kube {
        Kube { inner: Arc::clone(&self.inner), patience }
    }

    /// The kubeconfig in use.
    pub fn kubeconfig(&self) -> &Path {
        &self.inner.source.path
    }

    /// Reads an object.
    pub fn get(&self, path: &str) -> Result<Value, KubeError> {
        self.read(path, &[])
    }

    /// Reads an object; `None` where there is none, or where the server knows no such kind.
    pub fn get_optional(&self, path: &str) -> Result<Option<Value>, KubeError> {
        match self.get(path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a collection, page by page, each with its kind. `query` holds selectors, e.g. `("fieldSelector", "spec.nodeName=n1")`.
    pub fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, KubeError> {
        Ok(self.list_at(path, query)?.0)
    }

    /// The same, with the version that a watch goes on from.
    fn list_at(&self, path: &str, query: &[(&str, &str)]) -> Result<(Vec<Value>, String), KubeError> {
        let mut items = Vec::new();
        let mut token = String::new();
        let mut restarted = false;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", PAGE));
            if !token.is_empty() {
                query.push(("continue", &token));
            }
            let mut page = match self.read(path, &query) {
                // The token lives for some minutes; a list that took longer starts again.
                Err(error) if error.code == Some(410) && !restarted && !token.is_empty() => {
                    restarted = true;
                    items.clear();
                    token.clear();
                    continue;
                }
                other => other?,
            };
            items.extend(whole_items(&mut page));
            let text = |at: &str| page.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
            token = text("/metadata/continue");
            if token.is_empty() {
                return Ok((items, text("/metadata/resourceVersion")));
            }
        }
    }

    /// Creates an object in a collection.
    pub fn post(&self, path: &str, object: &Value, write: Write) -> Result<Value, KubeError> {
        self.write(Method::Post, path, "application/json", Some(object), write, false)
    }

    /// Replaces an object.
    pub fn put(&self, path: &str, object: &Value, write: Write) -> Result<Value, KubeError> {
        self.write(Method::Put, path, "application/json", Some(object), write, true)
    }

    /// Changes an object.
    pub fn patch(&self, path: &str, patch: Patch, document: &Value, write: Write) -> Result<Value, KubeError> {
        let content_type = match patch {
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Apply => "application/apply-patch+yaml",
        };
        self.write(Method::Patch, path, content_type, Some(document), write, patch != Patch::Json)
    }

    /// Deletes an object; `options` is a DeleteOptions object (preconditions, grace period).
    pub fn delete(&self, path: &str, options: Option<&Value>, write: Write) -> Result<Value, KubeError> {
        let once = options.and_then(|o| o.pointer("/preconditions/uid")).is_some();
        self.write(Method::Delete, path, "application/json", options, write, once)
    }

    /// The user name that the server knows us by: the client certificate's common name, else what the server says.
    pub fn user(&self) -> Result<String, KubeError> {
        let session = self.session();
        if let Some(name) = &session.common_name {
            return Ok(name.clone());
        }
        let kind = "SelfSubjectReview";
        let version = "authentication.k8s.io/v1";
        let review = serde_json::json!({"apiVersion": version, "kind": kind});
        // A question in the form of a write; nothing is stored.
        let answer = self.send(&Call {
            method: Method::Post,
            target: format!("/apis/{version}/selfsubjectreviews"),
            content_type: "application/json",
            body: Some(review.to_string().into_bytes()),
            idempotent: true,
            any_version: false,
        });
        match answer {
            Ok(answer) => {
                let name = answer.pointer("/status/userInfo/username").and_then(Value::as_str);
                Ok(name.unwrap_or_default().to_owned())
            }
            // A server before 1.28 knows no such question (k8s-api.md 3), and says to whom it forbids it.
            Err(error) => error.forbidden_user().map(str::to_owned).ok_or(error),
        }
    }

    /// The node's name, from `system:node:NAME`: never from the host name or the kubeconfig's user name, which may differ.
    pub fn node_name(&self) -> Result<String, KubeError> {
        let user = self.user().map_err(|error| match error.code {
            Some(403 | 404) => KubeError::local(&anyhow!(
                "the credentials in {} have no client certificate, and the server does not say whose they are: {error}. To fix \
                 it: name a kubeconfig with a client certificate of this node, as kubeconfig in the configuration",
                self.inner.source.path.display()
            )),
            _ => error,
        })?;
        match user.strip_prefix("system:node:") {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(KubeError::local(&anyhow!(
                "the credentials in {} are not a node's: they are those of {user:?}",
                self.inner.source.path.display()
            ))),
        }
    }

    fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, KubeError> {
        self.send(&Call::read(target(path, query)))
    }

    fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Option<&Value>,
        write: Write,
        idempotent: bool,
    ) -> Result<Value, KubeError> {
        let merges = ["application/merge-patch+json", "application/strategic-merge-patch+json"].contains(&content_type);
        let any_version = merges && body.is_some_and(|b| b.pointer("/metadata/resourceVersion").is_none());
        let mut query = Vec::new();
        if method != Method::Delete {
            query.push(("fieldManager", "nodectl"));
        }
        if write.dry_run {
            query.push(("dryRun", "All"));
        } else {
            fault::point(match method {
                Method::Post => "kube.post",
                Method::Put => "kube.put",
                Method::Patch => "kube.patch",
                Method::Delete => "kube.delete",
                Method::Get => "kube.get",
            });
        }
        if write.force {
            query.push(("force", "true"));
        }
        if write.strict {
            query.push(("fieldValidation", "Strict"));
        }
        let body = body.map(|b| b.to_string().into_bytes());
        self.send(&Call { method, target: target(path, &query), content_type, body, idempotent, any_version })
    }

    /// Sends a request, again and again where that may help, until it succeeds or patience is at its end.
    fn send(&self, call: &Call) -> Result<Value, KubeError> {
        let deadline = Instant::now() + self.patience;
        let mut session = self.fresh_session()?;
        let (mut renewed, mut attempt) = (false, 0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match session.send(call, left) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // The credentials may have been rotated since they were read.
            if (error.is_unauthorized() || error.kind == status::Kind::Tls) && !renewed {
                renewed = true;
                session = self.renew().map_err(|_| error)?;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match http::pause(&error, call, attempt) {
                Some(pause) if pause < left => std::thread::sleep(pause),
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    fn session(&self) -> Arc<Session> {
        Arc::clone(&self.inner.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fresh_session(&self) -> Result<Arc<Session>, KubeError> {
        let session = self.session();
        if session.is_current() {
            return Ok(session);
        }
        match self.renew() {
            // The files are being written right now, or were broken: what they held before may still do.
            Err(error) if session.is_usable() => {
                tracing::warn!("the changed credentials cannot be used yet: {error:#}");
                Ok(session)
            }
            other => other.map_err(|e| KubeError::local(&e)),
        }
    }

    fn renew(&self) -> Result<Arc<Session>> {
        let session = Arc::new(http::settled(|| connect(&self.inner.source))?);
        *self.inner.session.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&session);
        Ok(session)
    }
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kube").field("source", &self.inner.source).finish_non_exhaustive()
    }
}

fn connect(source: &Source) -> Result<Session> {
    let settings = source.load()?;
    let credential = settings.exec.as_ref().map(|e| exec::run(e, &settings.cluster_info)).transpose()?;
    Session::new(&settings, credential)
        .with_context(|| format!("the kubeconfig {} cannot be used", source.path.display()))
}

/// The items of a list. Those of built-in kinds do not say what they are; the list does.
fn whole_items(page: &mut Value) -> Vec<Value> {
    let text = |field: &str| page.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, list_kind) = (text("apiVersion"), text("kind"));
    let Some(Value::Array(mut items)) = page.get_mut("items").map(Value::take) else { return Vec::new() };
    if let Some(kind) = list_kind.strip_suffix("List") {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("apiVersion").or_insert_with(|| version.as_str().into());
            item.entry("kind").or_insert_with(|| kind.into());
        }
    }
    items
}

fn target(path: &str, query: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", http::encode(value))).collect();
    if encoded.is_empty() { path.to_owned() } else { format!("{path}?{}", encoded.join("&")) }
}
