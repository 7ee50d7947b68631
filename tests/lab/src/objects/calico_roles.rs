//! What Calico's programs may do, as its manifest says.

use serde_json::{Value, json};

use super::Manifest;

const GROUP: &str = "rbac.authorization.k8s.io";

/// groups, resources, verbs; separated by blanks, "core" is the core group.
type Rule = (&'static str, &'static str, &'static str);

const IPAM: &str = "blockaffinities ipamblocks ipamhandles ipamconfigs ippools ipreservations clusterinformations";

/// ServiceAccounts of the namespace kube-system, and their rules.
const ACCOUNTS: &[(&str, &[Rule])] = &[
    (
        "calico-cni-plugin",
        &[
            ("core", "pods nodes namespaces", "get"),
            ("core", "pods/status", "patch"),
            ("crd.projectcalico.org", IPAM, "get list create update delete"),
        ],
    ),
    (
        "calico-node",
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
        "calico-kube-controllers",
        &[
            ("core", "pods nodes", "get list watch"),
            ("crd.projectcalico.org", "*", "get list watch create update delete"),
        ],
    ),
];

/// A ClusterRole and its binding for each account.
pub fn manifests() -> Vec<Manifest> {
    ACCOUNTS.iter().flat_map(|(account, rules)| role_and_binding(account, rules)).collect()
}

fn role_and_binding(account: &str, rules: &[Rule]) -> [Manifest; 2] {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(groups, resources, verbs)| json!({"apiGroups": words(groups), "resources": words(resources), "verbs": words(verbs)}))
        .collect();
    let role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": account}, "rules": rules});
    let binding = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}]});
    [
        Manifest::new(format!("/apis/{GROUP}/v1/clusterroles"), role),
        Manifest::new(format!("/apis/{GROUP}/v1/clusterrolebindings"), binding),
    ]
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').map(|word| if word == "core" { "" } else { word }).collect()
}
