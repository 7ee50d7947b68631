//! What the API server answers when it refuses, as an error that reads as a sentence.

use serde_json::Value;

/// How much of a server's message is kept: under strict field validation it repeats the whole object.
const MESSAGE_LIMIT: usize = 1024;

/// Why a request had no success.
#[derive(Debug, Clone)]
pub struct KubeError {
    /// HTTP status; `None` where no answer came.
    pub code: Option<u16>,
    /// The Status object's reason (`Forbidden`, `Conflict`, ...); may be empty.
    pub reason: String,
    /// The whole sentence: what was wanted, and why not.
    pub message: String,
    /// Causes in the Status object's details: reason and message.
    pub causes: Vec<(String, String)>,
    pub(super) kind: Kind,
    pub(super) retry_after: Option<u64>,
}

/// Where a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Our own configuration or credentials.
    Local,
    /// No connection came about: the server has not seen the request.
    NotSent,
    /// The connection broke: the server may have acted on the request.
    Broken,
    /// The TLS handshake failed.
    Tls,
    /// The server answered.
    Answered,
}

impl KubeError {
    /// The API server does not answer, or only a proxy before it does (502, 503, 504).
    pub fn is_unreachable(&self) -> bool {
        matches!(self.kind, Kind::NotSent | Kind::Broken) || matches!(self.code, Some(502..=504))
    }

    /// The request itself is wrong or too late, and would be with a healthy server too (404, 409, 422).
    pub fn is_about_the_request(&self) -> bool {
        matches!(self.code, Some(404 | 409 | 422))
    }

    /// The object was changed meanwhile, or exists already, or is not the one that was meant (uid).
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// There is no such object, or no such kind of objects.
    pub fn is_not_found(&self) -> bool {
        self.code == Some(404)
    }

    /// The credentials are good but do not allow it.
    pub fn is_forbidden(&self) -> bool {
        self.code == Some(403)
    }

    /// The credentials are no good.
    pub fn is_unauthorized(&self) -> bool {
        self.code == Some(401)
    }

    /// The object to create is there already.
    pub fn already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Two disruption budgets select the pod, which the server never evicts: it says so with 500 and without a reason.
    pub fn is_about_two_budgets(&self) -> bool {
        self.code == Some(500) && self.message.contains("more than one PodDisruptionBudget")
    }

    /// The user whom the server's authorizer names as it forbids something: `User "NAME" cannot create resource ...`.
    pub(super) fn forbidden_user(&self) -> Option<&str> {
        let (_, named) = self.message.split_once("User \"").filter(|_| self.is_forbidden())?;
        named.split_once("\" cannot ").map(|(name, _)| name)
    }

    /// Whether the Status object's details name this cause.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.causes.iter().any(|(r, _)| r == reason)
    }

    pub(super) fn local(error: &anyhow::Error) -> KubeError {
        KubeError::new(Kind::Local, format!("{error:#}"))
    }

    pub(super) fn new(kind: Kind, message: String) -> KubeError {
        KubeError { code: None, reason: String::new(), message, causes: Vec::new(), kind, retry_after: None }
    }

    /// An answer with a status of 300 or more. `what` is "read /api/v1/nodes/n1", `body` the answer's.
    pub(super) fn answered(server: &str, what: &str, code: u16, retry_after: Option<u64>, body: &[u8]) -> KubeError {
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        // A proxy or an overloaded server answers in plain text or HTML.
        let said = match status.get("kind").and_then(Value::as_str) {
            Some("Status") => text("message"),
            _ => String::from_utf8_lossy(body).split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let reason = text("reason");
        let mut message = sentence(server, what, code, &reason, &shorten(&said));
        if let Some(hint) = hint(code, &said) {
            message.push_str(hint);
        }
        let details = status.pointer("/details/causes").and_then(Value::as_array);
        let causes = details.into_iter().flatten().map(|cause| {
            let field = |name: &str| shorten(cause.get(name).and_then(Value::as_str).unwrap_or_default());
            (field("reason"), field("message"))
        });
        KubeError { code: Some(code), reason, message, causes: causes.collect(), kind: Kind::Answered, retry_after }
    }
}

impl std::fmt::Display for KubeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KubeError {}

fn sentence(server: &str, what: &str, code: u16, reason: &str, said: &str) -> String {
    let code = if reason.is_empty() { code.to_string() } else { format!("{code} {reason}") };
    let said = if said.is_empty() { "it gave no reason" } else { said };
    format!("the API server {server} refused to {what}: {said} ({code})")
}

fn hint(code: u16, said: &str) -> Option<&'static str> {
    match code {
        401 => {
            Some(". To fix it: check that the credentials in the kubeconfig are of this cluster and have not expired")
        }
        // The server only asks for a client certificate; who sends none is anonymous, not unauthorized.
        403 if said.contains("system:anonymous") => {
            Some(". The server got no credentials from us. To fix it: check the user in the kubeconfig")
        }
        _ => None,
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
