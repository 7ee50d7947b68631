//! The objects of the cluster that are read and written, as the server shows them, and how to look into them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Kinds of objects that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// core/v1 Node.
    Node,
    /// core/v1 Namespace.
    Namespace,
    /// core/v1 ConfigMap.
    ConfigMap,
    /// core/v1 ServiceAccount.
    ServiceAccount,
    /// apps/v1 DaemonSet.
    DaemonSet,
    /// rbac.authorization.k8s.io/v1 ClusterRole.
    ClusterRole,
    /// rbac.authorization.k8s.io/v1 ClusterRoleBinding.
    ClusterRoleBinding,
    /// Calico's felix configuration.
    FelixConfiguration,
    /// Calico's address pools.
    IPPool,
    /// Calico's IPAM configuration.
    IPAMConfig,
    /// Calico's address blocks.
    IPAMBlock,
    /// Which node a block belongs to.
    BlockAffinity,
    /// Who holds addresses.
    IPAMHandle,
}

/// API group and version of Calico's own objects.
pub const CALICO_API: &str = "crd.projectcalico.org/v1";

impl Kind {
    /// The name used in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::Namespace => "Namespace",
            Kind::ConfigMap => "ConfigMap",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::DaemonSet => "DaemonSet",
            Kind::ClusterRole => "ClusterRole",
            Kind::ClusterRoleBinding => "ClusterRoleBinding",
            Kind::FelixConfiguration => "FelixConfiguration",
            Kind::IPPool => "IPPool",
            Kind::IPAMConfig => "IPAMConfig",
            Kind::IPAMBlock => "IPAMBlock",
            Kind::BlockAffinity => "BlockAffinity",
            Kind::IPAMHandle => "IPAMHandle",
        }
    }

    /// The `apiVersion` of its objects.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::Node | Kind::Namespace | Kind::ConfigMap | Kind::ServiceAccount => "v1",
            Kind::DaemonSet => "apps/v1",
            Kind::ClusterRole | Kind::ClusterRoleBinding => "rbac.authorization.k8s.io/v1",
            _ => CALICO_API,
        }
    }

    /// The name used in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Node => "nodes",
            Kind::Namespace => "namespaces",
            Kind::ConfigMap => "configmaps",
            Kind::ServiceAccount => "serviceaccounts",
            Kind::DaemonSet => "daemonsets",
            Kind::ClusterRole => "clusterroles",
            Kind::ClusterRoleBinding => "clusterrolebindings",
            Kind::FelixConfiguration => "felixconfigurations",
            Kind::IPPool => "ippools",
            Kind::IPAMConfig => "ipamconfigs",
            Kind::IPAMBlock => "ipamblocks",
            Kind::BlockAffinity => "blockaffinities",
            Kind::IPAMHandle => "ipamhandles",
        }
    }

    /// There is one for each node, or several, and none depends on another.
    pub fn is_of_a_node(self) -> bool {
        matches!(self, Kind::Node | Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle)
    }

    /// Path under which its objects of one namespace, or of the cluster, are listed and created.
    pub fn collection(self, namespace: &str) -> String {
        let api = match self.api_version() {
            "v1" => "/api/v1".to_owned(),
            group => format!("/apis/{group}"),
        };
        if namespace.is_empty() {
            format!("{api}/{}", self.plural())
        } else {
            format!("{api}/namespaces/{namespace}/{}", self.plural())
        }
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for objects of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// An object of the cluster.
    pub fn cluster(kind: Kind, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: String::new(), name: name.to_owned() }
    }

    /// An object in a namespace.
    pub fn namespaced(kind: Kind, namespace: &str, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Path of the object.
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind.collection(&self.namespace), self.name)
    }

    /// The object without any content, to be filled and created.
    pub fn skeleton(&self) -> Value {
        let mut object = json!({
            "apiVersion": self.kind.api_version(),
            "kind": self.kind.name(),
            "metadata": {"name": self.name},
        });
        if !self.namespace.is_empty() {
            set(&mut object, &["metadata", "namespace"], json!(self.namespace));
        }
        object
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Text at a JSON pointer.
pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or_default()
}

/// The object's namespace, empty for objects of the cluster.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace").unwrap_or_default()
}

/// Value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// Value of an annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// The server is deleting the object.
pub fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
}

/// Its condition Ready is True (a Node, a Pod).
pub fn is_ready(object: &Value) -> bool {
    let mut conditions = items(object, "/status/conditions").iter();
    conditions.any(|c| text(c, "/type") == Some("Ready") && text(c, "/status") == Some("True"))
}

/// The entries of an array, none where there is no array.
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of an array.
pub fn texts(object: &Value, pointer: &str) -> Vec<String> {
    items(object, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// A map of texts, empty where there is none.
pub fn text_map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let entries = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// Finds an object by its name.
pub fn find<'a>(objects: &'a [Value], wanted: &str) -> Option<&'a Value> {
    objects.iter().find(|o| name(o) == wanted)
}

/// Finds an object by its namespace and name.
pub fn find_in<'a>(objects: &'a [Value], wanted_namespace: &str, wanted: &str) -> Option<&'a Value> {
    objects.iter().find(|o| namespace(o) == wanted_namespace && name(o) == wanted)
}

/// Sets a field, making the maps on the way to it. A field that is no map on the way is replaced by one.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let [key, rest @ ..] = path else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Some(map) = object.as_object_mut() {
        set(map.entry((*key).to_owned()).or_insert(Value::Null), rest, value);
    }
}

/// Removes a field; parents stay.
pub fn unset(object: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        [last] => {
            if let Some(map) = object.as_object_mut() {
                map.shift_remove(*last);
            }
        }
        [key, rest @ ..] => {
            if let Some(next) = object.get_mut(*key) {
                unset(next, rest);
            }
        }
    }
}
