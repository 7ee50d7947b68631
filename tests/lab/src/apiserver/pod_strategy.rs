//! The rules for Pods.

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::store::Inner;
use super::value::{default_to, items, name_suffix, text};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Defaults of a new Pod, as the server and its default admission plugins set them.
pub fn on_create(store: &Inner, pod: &mut Value) -> ApiResult<()> {
    let mirror = !pod["metadata"]["annotations"][MIRROR].is_null();
    let namespace = text(&pod["metadata"]["namespace"]).to_string();
    pod["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    spec_defaults(&mut pod["spec"]);
    if !mirror {
        default_to(&mut pod["spec"], "serviceAccountName", json!("default"));
        check_account(store, pod, &namespace)?;
        mount_token(store, &mut pod["spec"], &namespace);
        tolerate_not_ready(&mut pod["spec"]);
    }
    default_to(&mut pod["spec"], "priority", json!(0));
    Ok(())
}

/// Defaults that a template gets too.
pub fn spec_defaults(spec: &mut Value) {
    if !spec.is_object() {
        *spec = json!({});
    }
    default_to(spec, "restartPolicy", json!("Always"));
    default_to(spec, "terminationGracePeriodSeconds", json!(30));
    default_to(spec, "dnsPolicy", json!("ClusterFirst"));
    default_to(spec, "schedulerName", json!("default-scheduler"));
    default_to(spec, "securityContext", json!({}));
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            default_to(container, "imagePullPolicy", json!("IfNotPresent"));
            default_to(container, "resources", json!({}));
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                default_to(port, "protocol", json!("TCP"));
                if host_network {
                    let number = port["containerPort"].clone();
                    default_to(port, "hostPort", number);
                }
            }
        }
    }
}

/// Only images, tolerations and the deadline of a Pod may change.
pub fn on_update(old: &Value, new: &Value) -> ApiResult<()> {
    let comparable = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds"] {
            spec[field] = Value::Null;
        }
        for list in ["containers", "initContainers"] {
            spec[list].as_array_mut().into_iter().flatten().for_each(|container| container["image"] = Value::Null);
        }
        spec
    };
    if comparable(old) == comparable(new) {
        return Ok(());
    }
    let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    Err(ApiError::invalid("Pod", text(&old["metadata"]["name"]), "spec", why))
}

/// A Pod needs no grace if no kubelet has it or it has ended.
pub fn needs_no_grace(pod: &Value) -> bool {
    text(&pod["spec"]["nodeName"]).is_empty() || matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

fn check_account(store: &Inner, pod: &Value, namespace: &str) -> ApiResult<()> {
    let account = text(&pod["spec"]["serviceAccountName"]);
    if store.find("serviceaccounts", namespace, account).is_some() {
        return Ok(());
    }
    let why = format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
    Err(ApiError::forbidden("pods", text(&pod["metadata"]["name"]), &why))
}

/// The ServiceAccount admission plugin's token volume.
fn mount_token(store: &Inner, spec: &mut Value, namespace: &str) {
    let account = store.find("serviceaccounts", namespace, text(&spec["serviceAccountName"]));
    let off = |object: &Value| object["automountServiceAccountToken"] == false;
    let pod_decides = !spec["automountServiceAccountToken"].is_null();
    let present = items(&spec["volumes"]).any(|volume| text(&volume["name"]).starts_with("kube-api-access-"));
    if off(spec) || present || (!pod_decides && account.is_some_and(|account| off(&account))) {
        return;
    }
    let name = format!("kube-api-access-{}", name_suffix());
    if !spec["volumes"].is_array() {
        spec["volumes"] = json!([]);
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}));
    }
}

/// The DefaultTolerationSeconds admission plugin.
fn tolerate_not_ready(spec: &mut Value) {
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let of_key = toleration["key"] == key || toleration["key"].is_null();
            of_key && (toleration["effect"] == "NoExecute" || toleration["effect"].is_null())
        });
        if !tolerated {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}
