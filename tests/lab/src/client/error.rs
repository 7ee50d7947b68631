//! What a request can come back with instead of an object.

use serde_json::Value;

/// A request that failed or was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientError {
    /// HTTP status; 0 if no answer came.
    pub code: u16,
    /// `Status.reason`, or "".
    pub reason: String,
    /// `Status.message`, or what came instead.
    pub message: String,
    /// The whole `Status`, or null.
    pub status: Box<Value>,
    path: String,
}

/// What every call of the client returns.
pub type ClientResult<T> = Result<T, ClientError>;

impl ClientError {
    /// No answer.
    pub fn transport(path: &str, error: &dyn std::fmt::Display) -> Self {
        Self { code: 0, reason: String::new(), message: error.to_string(), status: Box::default(), path: path.into() }
    }

    /// An answer that says no.
    pub fn refused(path: &str, code: u16, body: &str) -> Self {
        let status: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |field: &str| status[field].as_str().map(str::to_string);
        Self {
            code,
            reason: text("reason").unwrap_or_default(),
            message: text("message").unwrap_or_else(|| body.trim().to_string()),
            path: path.into(),
            status: Box::new(status),
        }
    }

    /// Whether the reason is this one.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// Whether there is no such object.
    pub fn not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether a race was lost: the object exists already, or its resourceVersion has moved on.
    pub fn conflict(&self) -> bool {
        self.code == 409
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            0 => write!(formatter, "{}: no answer from the API server: {}", self.path, self.message),
            code => write!(formatter, "{}: the API server answered {code}: {}", self.path, self.message),
        }
    }
}

impl std::error::Error for ClientError {}
