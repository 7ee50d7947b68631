//! Who may do what: the Node authorizer, then roles; and the sentence for those who may not.

use super::error::ApiError;
use super::identity::User;
use super::node_authorizer;
use super::options::Regime;
use super::rbac;
use super::request::RequestInfo;
use super::store::Inner;

/// Paths that tell nothing and are open to everyone.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// `Err` carries the authorizer's reason, which is often empty.
pub fn authorize(store: &Inner, regime: Regime, user: &User, request: &RequestInfo) -> Result<(), String> {
    if !request.is_resource() {
        let known = user.is_in("system:authenticated") && discovery(&request.path);
        let allowed = known || PUBLIC.contains(&request.path.as_str()) || rbac::allows(store, regime, user, request);
        return if allowed { Ok(()) } else { Err(String::new()) };
    }
    let opinion = match user.node() {
        Some(node) => node_authorizer::authorize(store, regime, user, node, request),
        None => Err(String::new()),
    };
    opinion.or_else(|reason| if rbac::allows(store, regime, user, request) { Ok(()) } else { Err(reason) })
}

fn discovery(path: &str) -> bool {
    ["/api", "/apis", "/openapi"].iter().any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}/")))
}

/// The 403 for a request that nobody allowed.
pub fn refusal(user: &User, request: &RequestInfo, reason: &str) -> ApiError {
    if !request.is_resource() {
        let message = format!("forbidden: User \"{}\" cannot {} path \"{}\"", user.name, request.verb, request.path);
        return ApiError::new(403, "Forbidden", message);
    }
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace \"{}\"", request.namespace)
    };
    let mut why = format!(
        "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
        user.name,
        request.verb,
        request.full_resource(),
        request.group
    );
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    // A field selector's name is not part of the sentence's subject; the path's is.
    let name = if request.named || request.verb == "list" || request.verb == "watch" { &request.name } else { "" };
    ApiError::forbidden(&request.group_resource(), name, &why)
}
