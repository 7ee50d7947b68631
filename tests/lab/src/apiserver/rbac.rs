//! Role-based access: the rules of the lab's ServiceAccounts by table, others from the role objects in the store.
//!
//! Calico's and flannel's rules are those of their manifests.

use serde_json::Value;

use super::identity::User;
use super::request::RequestInfo;
use super::store::Inner;
use super::value::{items, text};

/// groups, resources, verbs; separated by blanks, "core" is the core group, "*" is all.
type Rule = (&'static str, &'static str, &'static str);

const IPAM: &str = "blockaffinities ipamblocks ipamhandles ipamconfigs ippools ipreservations clusterinformations";

/// namespace:name of the ServiceAccount, and its rules.
const ACCOUNTS: &[(&str, &[Rule])] = &[
    (
        "kube-system:calico-cni-plugin",
        &[
            ("core", "pods nodes namespaces", "get"),
            ("core", "pods/status", "patch"),
            ("crd.projectcalico.org", IPAM, "get list create update delete"),
        ],
    ),
    (
        "kube-system:calico-node",
        &[
            ("core", "serviceaccounts/token", "create"),
            ("core", "pods nodes namespaces serviceaccounts endpoints services configmaps", "get list watch"),
            ("discovery.k8s.io", "endpointslices", "get list watch"),
            ("networking.k8s.io", "networkpolicies", "get list watch"),
            ("core", "nodes/status", "patch update"),
            ("core", "pods/status", "patch"),
            (
                "crd.projectcalico.org",
                "ippools felixconfigurations bgpconfigurations clusterinformations",
                "create update",
            ),
            ("crd.projectcalico.org", "ipamblocks blockaffinities ipamhandles", "create update delete"),
            ("crd.projectcalico.org", "ipamconfigs", "create get"),
            ("crd.projectcalico.org", "*", "get list watch"),
        ],
    ),
    (
        "kube-system:calico-kube-controllers",
        &[
            ("core", "pods nodes", "get list watch"),
            ("crd.projectcalico.org", "*", "get list watch create update delete"),
        ],
    ),
    (
        "kube-flannel:flannel",
        &[("core", "pods", "get"), ("core", "nodes", "get list watch"), ("core", "nodes/status", "patch")],
    ),
];

/// What every authenticated user may create.
const EVERYONE: &[Rule] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
];

/// Whether some role allows the request.
pub fn allows(store: &Inner, user: &User, request: &RequestInfo) -> bool {
    if user.is_in("system:masters") || user.is_in("kubeadm:cluster-admins") {
        return true;
    }
    let table = user.service_account().and_then(|(namespace, name)| {
        let account = format!("{namespace}:{name}");
        ACCOUNTS.iter().find(|(known, _)| *known == account)
    });
    let mut rules = table.map_or(&[][..], |(_, rules)| rules).iter();
    let authenticated = user.is_in("system:authenticated");
    rules.any(|rule| covers(rule, request))
        || (authenticated && EVERYONE.iter().any(|rule| covers(rule, request)))
        || roles_allow(store, user, request)
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
