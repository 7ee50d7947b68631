//! Role-based access, by the role objects in the store; some rules every cluster has.

use serde_json::Value;

use super::identity::User;
use super::options::Regime;
use super::request::RequestInfo;
use super::store::Inner;
use super::value::{items, text};

/// groups, resources, verbs; separated by blanks, "core" is the core group, "*" is all.
type Rule = (&'static str, &'static str, &'static str);

/// What every authenticated user may create.
const EVERYONE: &[Rule] = &[("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create")];
/// And on a server that has such a thing.
const EVERYONE_LATER: &[Rule] = &[("authentication.k8s.io", "selfsubjectreviews", "create")];

/// Whether some role allows the request.
pub fn allows(store: &Inner, regime: Regime, user: &User, request: &RequestInfo) -> bool {
    if user.is_in("system:masters") || user.is_in("kubeadm:cluster-admins") {
        return true;
    }
    let later = if regime == Regime::V1_36 { EVERYONE_LATER } else { &[] };
    let mut rules = EVERYONE.iter().chain(later);
    let everyones = user.is_in("system:authenticated") && rules.any(|rule| covers(rule, request));
    everyones || roles_allow(store, user, request)
}

/// Whether a static rule covers the request.
pub fn covers(rule: &Rule, request: &RequestInfo) -> bool {
    let group = if request.group.is_empty() { "core" } else { &request.group };
    let resource = request.full_resource();
    let has = |list: &str, wanted: &str| list.split(' ').any(|word| word == "*" || word == wanted);
    has(rule.0, group) && has(rule.1, &resource) && has(rule.2, &request.verb)
}

fn roles_allow(store: &Inner, user: &User, request: &RequestInfo) -> bool {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let cluster = format!("clusterrolebindings.{GROUP}");
    let local = format!("rolebindings.{GROUP}");
    let in_namespace = (!request.namespace.is_empty()).then_some(request.namespace.as_str());
    let namespaced = in_namespace.map(|namespace| store.list(&local, Some(namespace)));
    let bindings = store.list(&cluster, None).chain(namespaced.into_iter().flatten());
    bindings.filter(|(_, binding)| binds(binding, user)).any(|(key, binding)| {
        let reference = &binding["roleRef"];
        let role = if reference["kind"] == "Role" {
            store.find(&format!("roles.{GROUP}"), &key.namespace, text(&reference["name"]))
        } else {
            store.find(&format!("clusterroles.{GROUP}"), "", text(&reference["name"]))
        };
        role.is_some_and(|role| items(&role["rules"]).any(|rule| rule_covers(rule, request)))
    })
}

fn binds(binding: &Value, user: &User) -> bool {
    items(&binding["subjects"]).any(|subject| match text(&subject["kind"]) {
        "Group" => user.is_in(text(&subject["name"])),
        "ServiceAccount" => user.service_account() == Some((text(&subject["namespace"]), text(&subject["name"]))),
        _ => subject["name"] == user.name,
    })
}

fn rule_covers(rule: &Value, request: &RequestInfo) -> bool {
    let has = |field: &str, wanted: &str| items(&rule[field]).any(|word| word == "*" || word == wanted);
    if !request.is_resource() {
        return has("nonResourceURLs", &request.path) && has("verbs", &request.verb);
    }
    let named = rule["resourceNames"]
        .as_array()
        .is_none_or(|names| names.is_empty() || names.iter().any(|name| *name == request.name));
    has("apiGroups", &request.group)
        && has("resources", &request.full_resource())
        && has("verbs", &request.verb)
        && named
}
