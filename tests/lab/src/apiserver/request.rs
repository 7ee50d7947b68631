//! What a request asks for, read from its method, path and query as the real server reads them.

use http::{Method, Uri};

use super::error::ApiResult;
use super::selector::{Fields, Labels};

/// A request for a resource, or for a path that is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestInfo {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// API version; empty for a path that is no resource.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// `status`, `eviction`, ...; usually empty.
    pub subresource: String,
    /// Empty for requests over the whole cluster.
    pub namespace: String,
    /// Object name: from the path or, for list and watch, from a `metadata.name` field selector.
    pub name: String,
    /// The name stands in the path.
    pub named: bool,
    /// The path as sent.
    pub path: String,
    /// Query parameters, decoded.
    pub query: Vec<(String, String)>,
}

impl RequestInfo {
    /// Reads a request line.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let mut info = Self { path: uri.path().to_string(), query: parse_query(uri), ..Self::default() };
        let decoded: Vec<String> = uri.path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).into();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                (info.group, info.version) = ((*group).into(), (*version).into());
                rest
            }
            _ => {
                info.verb = method.as_str().to_lowercase();
                return info;
            }
        };
        info.set_resource(rest);
        info.set_verb(method);
        info
    }

    /// Whether the path names a resource.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Resource with its group: "pods", "daemonsets.apps".
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// "nodes" or "nodes/status".
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// "v1" or "apps/v1".
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// A query parameter, if given and not empty.
    pub fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether a query parameter says yes.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.query(name), Some("true" | "1"))
    }

    /// `dryRun=All`.
    pub fn dry_run(&self) -> bool {
        self.query("dryRun") == Some("All")
    }

    /// The label selector.
    pub fn labels(&self) -> ApiResult<Labels> {
        Labels::parse(self.query("labelSelector").unwrap_or_default())
    }

    /// The field selector.
    pub fn fields(&self) -> ApiResult<Fields> {
        Fields::parse(self.query("fieldSelector").unwrap_or_default())
    }

    fn set_resource(&mut self, rest: &[&str]) {
        let rest = match rest {
            // A namespace's own subresources are not resources in that namespace.
            ["namespaces", name, sub @ ("status" | "finalize")] => {
                self.namespace = (*name).into();
                self.resource = "namespaces".into();
                (self.name, self.named) = ((*name).into(), true);
                self.subresource = (*sub).into();
                return;
            }
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                self.namespace = (*namespace).into();
                rest
            }
            ["namespaces", name] => {
                self.namespace = (*name).into();
                rest
            }
            rest => rest,
        };
        if let Some(resource) = rest.first() {
            self.resource = (*resource).into();
        }
        if let Some(name) = rest.get(1) {
            (self.name, self.named) = ((*name).into(), true);
        }
        if let Some(subresource) = rest.get(2) {
            self.subresource = (*subresource).into();
        }
    }

    fn set_verb(&mut self, method: &Method) {
        let collection = !self.named;
        let verb = match *method {
            // Of one object named in the path, watch=1 is passed over: the object is read.
            Method::GET | Method::HEAD if collection && self.flag("watch") => "watch",
            Method::GET | Method::HEAD if collection => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        };
        self.verb = verb.into();
        if collection
            && matches!(verb, "list" | "watch" | "deletecollection")
            && let Some(name) = self.fields().ok().as_ref().and_then(|fields| fields.required("metadata.name"))
        {
            self.name = name.into();
        }
    }
}

fn parse_query(uri: &Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Undoes percent encoding; leaves what is not valid as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().unwrap())
    }

    #[test]
    fn paths_become_requests() {
        let info = parse(Method::PATCH, "/api/v1/nodes/node1/status?dryRun=All");
        assert_eq!((info.verb.as_str(), info.full_resource().as_str()), ("patch", "nodes/status"));
        assert!(info.dry_run());
        let info = parse(Method::GET, "/apis/apps/v1/namespaces/a/daemonsets?labelSelector=x%3Dy");
        assert_eq!(info.group_resource(), "daemonsets.apps");
        assert_eq!((info.verb.as_str(), info.namespace.as_str()), ("list", "a"));
        assert_eq!(info.query("labelSelector"), Some("x=y"));
        let info = parse(Method::GET, "/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dn1");
        assert_eq!((info.verb.as_str(), info.name.as_str(), info.named), ("watch", "n1", false));
        assert_eq!(parse(Method::GET, "/api/v1/nodes/n1?watch=1").verb, "get");
        let info = parse(Method::POST, "/api/v1/namespaces/a/pods/b/eviction");
        assert_eq!((info.name.as_str(), info.subresource.as_str()), ("b", "eviction"));
        assert!(!parse(Method::GET, "/readyz").is_resource());
        assert!(!parse(Method::GET, "/api/v1").is_resource());
    }
}
