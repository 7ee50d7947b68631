//! Requests to the API server: one connection pool with credentials in it, and what is tried again when something fails.

use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, ErrorKind};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::{Agent, Proxy};

use super::config::{Settings, Stamp, Unsettled};
use super::connect;
use super::exec::Credential;
use super::status::{Kind, KubeError};
use super::tls;

/// The longest that one attempt waits for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that one attempt may take in all.
const ATTEMPT: Duration = Duration::from_secs(60);
/// The longest pause between attempts that we choose ourselves.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The largest answer that is read: a list of everything on a large node is some MiB.
const BODY_LIMIT: u64 = 128 << 20;
/// How often a 500 without Retry-After is tried again: it passes when etcd has just lost its leader, and stays where a webhook
/// is broken.
const PASSING_ERRORS: u32 = 2;
/// Idle connections that are kept: as many as send at the same time.
const IDLE_CONNECTIONS: usize = 16;

/// A request method, by what it does to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// A request.
pub(super) struct Call {
    pub method: Method,
    /// Path with its query.
    pub target: String,
    pub content_type: &'static str,
    pub body: Option<Vec<u8>>,
    /// Sending it twice does the same as sending it once.
    pub idempotent: bool,
    /// It names no version of the object, so that a conflict only says that others write at the same time.
    pub any_version: bool,
}

impl Call {
    /// Reads what is at `target`.
    pub fn read(target: String) -> Call {
        Call { method: Method::Get, target, content_type: "", body: None, idempotent: true, any_version: false }
    }
}

/// A connection pool with one state of the credentials.
pub(super) struct Session {
    agent: Agent,
    server: String,
    headers: Vec<(String, String)>,
    files: Vec<Stamp>,
    exec: Option<Credential>,
    /// Common name of the client certificate.
    pub common_name: Option<String>,
    /// How many seconds this node's clock is ahead of the server's, as its last answer told; `i64::MIN` before that.
    ahead: AtomicI64,
}

impl Session {
    /// Makes a session. `exec` is what a credential plugin gave, where the settings ask for one.
    pub fn new(settings: &Settings, exec: Option<Credential>) -> Result<Session> {
        let given = exec.as_ref().and_then(|e| e.certificate.as_ref());
        let certificate = settings.certificate.as_ref().or(given);
        let tls = tls::build(settings, certificate)?;
        let proxy = settings.proxy.as_deref().map(Proxy::new).transpose();
        let proxy = proxy.context("the kubeconfig's proxy-url cannot be used")?;
        let config = Agent::config_builder()
            .tls_config(tls)
            // Not from the environment: NO_PROXY as ureq reads it knows no CIDRs, and a node reaches its own API server.
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_redirects_will_error(false)
            .user_agent(user_agent())
            .accept("application/json")
            .build();
        let mut headers = settings.headers.clone();
        let token = exec.as_ref().and_then(|e| e.token.as_ref()).map(|t| format!("Bearer {t}"));
        if let Some(value) = settings.authorization.clone().or(token) {
            headers.push(("Authorization".to_owned(), value));
        }
        Ok(Session {
            agent: Agent::with_parts(config, connect::chain(settings)?, connect::Names::default()),
            server: settings.server.clone(),
            headers,
            files: settings.files.clone(),
            common_name: certificate.and_then(|(chain, _)| tls::common_name(chain)),
            exec,
            ahead: AtomicI64::new(i64::MIN),
        })
    }

    /// Whether the credentials in it are still the ones to use: they have not expired, and the files still hold them.
    pub fn is_current(&self) -> bool {
        self.is_usable() && !self.files.iter().any(Stamp::is_outdated)
    }

    /// Whether the credentials in it have not expired, as far as they say when they do.
    pub fn is_usable(&self) -> bool {
        self.exec.as_ref().is_none_or(Credential::fresh)
    }

    /// Sends the request once and hands over the answer's lines as they come, until it ends or `handle` has had enough.
    pub fn follow(
        &self,
        call: &Call,
        limit: Duration,
        mut handle: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), KubeError> {
        let answer = self.transmit(call, limit).map_err(|e| self.failure(call, &e))?;
        let (parts, body) = answer.into_parts();
        let body = body.into_with_config().limit(BODY_LIMIT);
        if !parts.status.is_success() {
            let bytes = body.read_to_vec().map_err(|e| self.failure(call, &e))?;
            return Err(self.refusal(call, &parts, &bytes));
        }
        for line in BufReader::new(body.reader()).split(b'\n') {
            let line = line.map_err(|e| self.failure(call, &ureq::Error::from(e)))?;
            if !line.is_empty() && handle(&line).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Sends the request once.
    pub fn send(&self, call: &Call, limit: Duration) -> Result<Value, KubeError> {
        let answer = self.transmit(call, limit).map_err(|e| self.failure(call, &e))?;
        let (parts, body) = answer.into_parts();
        self.note_time(&parts);
        for warning in parts.headers.get_all("warning") {
            tracing::info!(warning = %String::from_utf8_lossy(warning.as_bytes()), "the API server warns");
        }
        let bytes = body.into_with_config().limit(BODY_LIMIT).read_to_vec();
        let bytes = bytes.map_err(|e| self.failure(call, &e))?;
        if !parts.status.is_success() {
            return Err(self.refusal(call, &parts, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        // /healthz and its like answer in plain text.
        Ok(serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }

    /// How many seconds this node's clock is ahead of the server's, where the server has told the time.
    pub fn clock_ahead(&self) -> Option<i64> {
        Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != i64::MIN)
    }

    fn note_time(&self, parts: &ureq::http::response::Parts) {
        let date = parts.headers.get("date").and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        if let Some(date) = date {
            self.ahead.store(crate::clock::unix_seconds() - date.as_second(), Ordering::Relaxed);
        }
    }

    fn refusal(&self, call: &Call, parts: &ureq::http::response::Parts, body: &[u8]) -> KubeError {
        let retry_after = parts.headers.get("retry-after");
        let retry_after = retry_after.and_then(|v| v.to_str().ok()?.trim().parse().ok());
        KubeError::answered(&self.server, &describe(call), parts.status.as_u16(), retry_after, body)
    }

    fn transmit(&self, call: &Call, limit: Duration) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let url = format!("{}{}", self.server, call.target);
        let body = call.body.as_deref().unwrap_or_default();
        let bodiless = match call.method {
            Method::Get => self.agent.get(url),
            Method::Delete => self.agent.delete(url),
            Method::Post => return self.prepare(self.agent.post(url), call, limit).send(body),
            Method::Put => return self.prepare(self.agent.put(url), call, limit).send(body),
            Method::Patch => return self.prepare(self.agent.patch(url), call, limit).send(body),
        };
        let request = self.prepare(bodiless, call, limit);
        if body.is_empty() { request.call() } else { request.force_send_body().send(body) }
    }

    fn prepare<B>(
        &self,
        mut request: ureq::RequestBuilder<B>,
        call: &Call,
        limit: Duration,
    ) -> ureq::RequestBuilder<B> {
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if call.body.is_some() {
            request = request.header("Content-Type", call.content_type);
        }
        let limit = limit.clamp(Duration::from_millis(100), ATTEMPT);
        request.config().timeout_global(Some(limit)).timeout_connect(Some(limit.min(CONNECT))).build()
    }

    fn failure(&self, call: &Call, error: &ureq::Error) -> KubeError {
        let kind = kind(error);
        let why = match error {
            ureq::Error::Io(e) => e.to_string(),
            ureq::Error::Timeout(ureq::Timeout::Connect) => "no connection came about in time".to_owned(),
            ureq::Error::Timeout(_) => "it did not answer in time".to_owned(),
            other => other.to_string(),
        };
        let server = &self.server;
        let message = match kind {
            Kind::Tls => format!(
                "no secure connection to the API server {server}: {why}. To fix it: check the server and the certificate authority in the kubeconfig"
            ),
            _ => format!("the API server {server} cannot be reached to {}: {why}", describe(call)),
        };
        KubeError::new(kind, message)
    }
}

/// How long to wait before the request is sent again; `None` if that would not help or might do harm.
pub(super) fn pause(error: &KubeError, call: &Call, attempt: u32) -> Option<Duration> {
    let asked = error.retry_after.map(Duration::from_secs);
    let ours = backoff(attempt);
    match (error.kind, error.code) {
        (Kind::NotSent, _) => Some(ours),
        (Kind::Broken, _) if call.idempotent => Some(ours),
        // A disruption budget answers 429 too; it is not the server that is busy.
        (_, Some(429)) if error.has_cause("DisruptionBudget") => None,
        (_, Some(429)) => Some(asked.map_or(ours, |a| a + ours / 10)),
        (_, Some(503)) if asked.is_some() => asked.map(|a| a + ours / 10),
        (_, Some(502..=504)) if call.idempotent => Some(asked.unwrap_or(ours)),
        (_, Some(500..)) if asked.is_some() && call.idempotent => asked,
        // It never comes to allow it.
        (_, Some(500)) if error.is_about_two_budgets() => None,
        (_, Some(500..)) if call.idempotent && attempt < PASSING_ERRORS => Some(ours),
        (_, Some(409)) if call.any_version && error.reason == "Conflict" => Some(ours),
        _ => None,
    }
}

/// Percent-encodes all but the unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Full jitter: the many nodes of a cluster must not knock at the same moments.
pub(super) fn backoff(attempt: u32) -> Duration {
    let ceiling = LONGEST_PAUSE.min(Duration::from_millis(100) * 2u32.saturating_pow(attempt.min(10)));
    let random = std::hash::RandomState::new().build_hasher().finish();
    ceiling / 2 + (ceiling / 2).mul_f64((random % 1000) as f64 / 1000.0)
}

fn describe(call: &Call) -> String {
    let verb = match call.method {
        Method::Get => "read",
        Method::Post => "create",
        Method::Put => "replace",
        Method::Patch => "change",
        Method::Delete => "delete",
    };
    let path = call.target.split('?').next().unwrap_or_default();
    format!("{verb} {path}")
}

fn kind(error: &ureq::Error) -> Kind {
    use ureq::{Error, Timeout};
    match error {
        Error::Io(e) if tls_error(e) => Kind::Tls,
        Error::Io(e) => match e.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => Kind::NotSent,
            _ => Kind::Broken,
        },
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::ConnectProxyFailed(_)
        | Error::Timeout(Timeout::Connect | Timeout::Resolve) => Kind::NotSent,
        Error::Timeout(_) | Error::Protocol(_) => Kind::Broken,
        Error::Rustls(_) | Error::Tls(_) => Kind::Tls,
        _ => Kind::Local,
    }
}

fn tls_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

fn user_agent() -> String {
    // The part before the slash becomes the name in managedFields where no fieldManager is given.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("nodectl/{} (linux/{arch})", env!("CARGO_PKG_VERSION"))
}

/// Makes something from files that may just be rotating: kubelet takes `kubelet-client-current.pem` away for an instant when
/// it swaps it, and certificate and key may be read on different sides of the swap.
pub(super) fn settled<T>(mut make: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..5 {
        match make() {
            Err(error) if error.downcast_ref::<Unsettled>().is_some() => {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => return other,
        }
    }
    make()
}
