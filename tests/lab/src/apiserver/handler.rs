//! From an HTTP request to an operation, and from its result to an answer.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use http::{HeaderMap, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::api::{Api, ListQuery, Target};
use super::authorize::{authorize, refusal};
use super::delete::DeleteOptions;
use super::error::{ApiError, ApiResult};
use super::faults::Faults;
use super::identity::User;
use super::modify::PatchRequest;
use super::patch::PatchKind;
use super::request::RequestInfo;
use super::tls::Certificate;
use super::watch::Watch;

const MAX_BODY: usize = 3 << 20;

/// Answers requests.
pub struct Handler {
    /// The objects.
    pub api: Arc<Api>,
    /// For streams, which outlive their request.
    pub faults: Faults,
}

impl Handler {
    /// Answers one request.
    pub async fn answer(&self, certificate: &Certificate, request: Request<Body>) -> Response<Body> {
        let result = self.respond(certificate, request).await;
        result.unwrap_or_else(|error| failure(&error))
    }

    async fn respond(&self, certificate: &Certificate, request: Request<Body>) -> ApiResult<Response<Body>> {
        let info = RequestInfo::parse(request.method(), request.uri());
        let user = self.authenticate(certificate, request.headers())?;
        let opinion = self.api.store.transaction(|store| authorize(store, self.api.regime, &user, &info));
        opinion.map_err(|reason| refusal(&user, &info, &reason))?;
        if !info.is_resource() {
            return Ok(self.other_path(&info.path));
        }
        let content_type = header_text(request.headers(), header::CONTENT_TYPE);
        let body = to_bytes(request.into_body(), MAX_BODY).await;
        let body = body
            .map_err(|_| ApiError::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"))?;
        let body = read_body(&body, &content_type)?;
        if info.verb == "create"
            && let Some(answer) = self.api.review(&user, &info, &body)
        {
            return Ok(reply(201, &answer));
        }
        let Some(target) = self.target(&info) else { return Ok(unknown_path()) };
        if info.verb == "watch" {
            return self.watch(target, &info);
        }
        let (code, object) = self.operate(&user, &info, &target, &content_type, body)?;
        Ok(reply(code, &object))
    }

    fn authenticate(&self, certificate: &Certificate, headers: &HeaderMap) -> ApiResult<User> {
        if let Certificate::Valid(user) = certificate {
            return Ok(user.clone());
        }
        let authorization = header_text(headers, header::AUTHORIZATION);
        let user = authorization
            .strip_prefix("Bearer ")
            .and_then(|token| self.api.store.transaction(|store| self.api.tokens.check(store, token.trim())));
        match (user, certificate) {
            (Some(user), _) => Ok(user),
            (None, Certificate::Absent) if authorization.is_empty() => Ok(User::anonymous()),
            _ => Err(ApiError::new(401, "Unauthorized", "Unauthorized")),
        }
    }

    fn other_path(&self, path: &str) -> Response<Body> {
        match path {
            "/healthz" | "/livez" | "/readyz" | "/readyz/etcd" => plain(200, "ok"),
            path => self.api.discovery(path).map_or_else(unknown_path, |answer| reply(200, &answer)),
        }
    }

    fn target(&self, info: &RequestInfo) -> Option<Target> {
        let kind = self.api.resource(&info.group, &info.version, &info.resource)?;
        let known = match (info.resource.as_str(), info.subresource.as_str()) {
            (_, "") | ("pods", "eviction" | "binding") | ("serviceaccounts", "token") | ("namespaces", "finalize") => {
                true
            }
            (_, "status") => kind.status,
            _ => false,
        };
        // A namespace's own requests carry its name as their namespace too.
        let namespace = if kind.namespaced { info.namespace.clone() } else { String::new() };
        let name = if info.named { info.name.clone() } else { String::new() };
        known.then(|| Target { kind, namespace, name, subresource: info.subresource.clone() })
    }

    fn operate(
        &self,
        user: &User,
        info: &RequestInfo,
        target: &Target,
        content_type: &str,
        body: Value,
    ) -> ApiResult<(u16, Value)> {
        let api = &self.api;
        let dry_run = info.dry_run();
        if target.kind.namespaced
            && target.namespace.is_empty()
            && !matches!(info.verb.as_str(), "list" | "deletecollection")
        {
            return Err(ApiError::method_not_allowed());
        }
        match (info.verb.as_str(), info.subresource.as_str()) {
            ("create", "eviction") => api.evict(user, target, &body, dry_run).map(|answer| (201, answer)),
            ("create", "binding") => api.bind(target, &body).map(|answer| (201, answer)),
            ("create", "token") => api.token(user, target, &body).map(|answer| (201, answer)),
            ("create", "") if !info.named => api.create(user, target, body, dry_run).map(|object| (201, object)),
            ("get", "" | "status") => api.get(target).map(|object| (200, object)),
            ("list", "") => api.list(target, &list_query(info)?).map(|list| (200, list)),
            ("update", _) => api.update(user, target, body, dry_run).map(|object| (200, object)),
            ("patch", _) => {
                let request = PatchRequest {
                    kind: PatchKind::from_content_type(content_type, target.kind.custom)?,
                    patch: &body,
                    manager: info.query("fieldManager").unwrap_or_default(),
                    force: info.flag("force"),
                };
                let written = api.patch(user, target, &request, dry_run)?;
                Ok((if written.created { 201 } else { 200 }, written.object))
            }
            ("delete", "") => {
                let options = delete_options(info, &body);
                api.delete(user, target, &options).map(|answer| (200, answer))
            }
            ("deletecollection", "") => {
                let options = delete_options(info, &body);
                api.delete_collection(user, target, &list_query(info)?, &options).map(|list| (200, list))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn watch(&self, target: Target, info: &RequestInfo) -> ApiResult<Response<Body>> {
        let (watch, first) = Watch::start(&self.api, target, info)?;
        let (lines, stream) = mpsc::channel(16);
        tokio::spawn(watch.run(first, lines, self.faults.clone(), info.path.clone()));
        let body = Body::from_stream(ReceiverStream::new(stream));
        Ok(with_type(200, "application/json", body))
    }
}

fn list_query(info: &RequestInfo) -> ApiResult<ListQuery> {
    Ok(ListQuery {
        labels: info.labels()?,
        fields: info.fields()?,
        limit: info.query("limit").and_then(|text| text.parse().ok()).unwrap_or(0),
        continue_after: info.query("continue").map(str::to_string),
    })
}

fn delete_options(info: &RequestInfo, body: &Value) -> DeleteOptions {
    let mut options = DeleteOptions::from_object(body);
    options.dry_run |= info.dry_run();
    options.orphan |= info.query("propagationPolicy") == Some("Orphan");
    if options.grace.is_none() {
        options.grace = info.query("gracePeriodSeconds").and_then(|text| text.parse().ok());
    }
    options
}

/// JSON, or YAML where the content type says so; an empty body is null.
fn read_body(body: &[u8], content_type: &str) -> ApiResult<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    if content_type.contains("yaml") {
        return yaml_serde::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type JSON): {error}"))
    })
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
}

fn with_type(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn plain(code: u16, text: &'static str) -> Response<Body> {
    with_type(code, "text/plain; charset=utf-8", Body::from(text))
}

fn unknown_path() -> Response<Body> {
    plain(404, "404 page not found\n")
}

fn reply(code: u16, object: &Value) -> Response<Body> {
    with_type(code, "application/json", Body::from(object.to_string()))
}

/// The answer that refuses.
pub fn failure(error: &ApiError) -> Response<Body> {
    let mut response = reply(error.code, &error.status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The answer of an injected failure; with Retry-After where servers send one, unless it is to be bare.
pub fn injected(code: u16, bare: bool) -> Response<Body> {
    let reason = match code {
        401 => "Unauthorized",
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let mut error = ApiError::new(code, reason, "Internal error occurred: injected by the lab");
    error.details = Some(Box::default());
    error.retry_after = (matches!(code, 429 | 503) && !bare).then_some(1);
    failure(&error)
}
