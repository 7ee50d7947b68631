//! Who asks: client certificates and ServiceAccount tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::store::Inner;
use super::value::unix_now;

/// An authenticated (or anonymous) user.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// For instance `system:node:node1`.
    pub name: String,
    /// Group names.
    pub groups: Vec<String>,
}

impl User {
    /// A user with the group that every authenticated one has.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| group.to_string()).collect();
        groups.push("system:authenticated".into());
        Self { name: name.into(), groups }
    }

    /// Nobody.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    /// The controllers inside this server.
    pub fn controller() -> Self {
        Self::new("system:kube-controller-manager", &["system:masters"])
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }

    /// The node's name, if this is a kubelet: both the prefix and the group are needed.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }

    /// Namespace and name, if this is a ServiceAccount.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// The user that a client certificate names: CN and every O.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
        let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
        Some(Self::new(name, &groups))
    }
}

/// Issues and checks ServiceAccount tokens. They have the shape of a JWT; the signature is this server's own.
pub struct Tokens {
    secret: Vec<u8>,
}

/// What a token is for.
pub struct TokenRequest<'a> {
    /// Namespace of the ServiceAccount.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Name and uid of the pod that the token dies with.
    pub pod: Option<(&'a str, &'a str)>,
    /// Audiences asked for; usually none.
    pub audiences: Vec<String>,
    /// Seconds from now.
    pub seconds: i64,
}

impl Tokens {
    /// Signs with this secret.
    pub fn new(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec() }
    }

    /// A new token and the second it expires at.
    pub fn issue(&self, request: &TokenRequest<'_>) -> (String, i64) {
        let expires = unix_now() + request.seconds;
        let mut bound = json!({"namespace": request.namespace,
            "serviceaccount": {"name": request.name, "uid": request.uid}});
        if let Some((name, uid)) = request.pod {
            bound["pod"] = json!({"name": name, "uid": uid});
        }
        let claims = json!({"iss": "https://kubernetes.default.svc", "exp": expires,
            "iat": unix_now(), "aud": request.audiences, "kubernetes.io": bound,
            "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.name)});
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"LAB256"}"#);
        let body = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.sign(&body);
        (format!("{body}.{signature}"), expires)
    }

    /// The user behind a token; `None` if it is forged, expired, or its account or pod is gone.
    pub fn check(&self, store: &Inner, token: &str) -> Option<User> {
        let (body, signature) = token.rsplit_once('.')?;
        let claims = body.split_once('.')?.1;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        if self.sign(body) != signature || claims["exp"].as_i64()? < unix_now() {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str()?;
        let alive = |resource: &str, reference: &Value| {
            let name = reference["name"].as_str().unwrap_or_default();
            let object = store.find(resource, namespace, name);
            object.is_some_and(|object| object["metadata"]["uid"] == reference["uid"])
        };
        let pod_alive = bound["pod"].is_null() || alive("pods", &bound["pod"]);
        if !pod_alive || !alive("serviceaccounts", &bound["serviceaccount"]) {
            return None;
        }
        let group = format!("system:serviceaccounts:{namespace}");
        Some(User::new(claims["sub"].as_str()?, &["system:serviceaccounts", &group]))
    }

    fn sign(&self, body: &str) -> String {
        let digest = Sha256::new().chain_update(&self.secret).chain_update(body).finalize();
        URL_SAFE_NO_PAD.encode(digest)
    }
}
