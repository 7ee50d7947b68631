//! pods/binding and serviceaccounts/token.

use serde_json::{Value, json};

use super::api::{Api, Target};
use super::error::{ApiError, ApiResult};
use super::identity::{TokenRequest, User};
use super::node_restriction::Attempt;
use super::value::{is_true, items, now, text, time_text};

impl Api {
    /// Binds a Pod to a node, as a scheduler does.
    pub fn bind(&self, target: &Target, binding: &Value) -> ApiResult<Value> {
        if text(&binding["metadata"]["name"]) != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let node = text(&binding["target"]["name"]);
        if node.is_empty() {
            return Err(ApiError::bad_request("Binding: target.name: Required value"));
        }
        self.store.transaction(|store| {
            let pod = store.get(&target.key()).ok_or_else(|| target.not_found())?;
            let bound = text(&pod["spec"]["nodeName"]);
            if !bound.is_empty() {
                let why = format!("pod {} is already assigned to node \"{bound}\"", target.name);
                return Err(ApiError::conflict("pods/binding", &target.name, &why));
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let why = format!("pod {} is being deleted, cannot be assigned to a host", target.name);
                return Err(ApiError::conflict("pods/binding", &target.name, &why));
            }
            let mut pod = pod.as_ref().clone();
            pod["spec"]["nodeName"] = json!(node);
            if !is_true(&pod, "PodScheduled") {
                let mut conditions: Vec<Value> = items(&pod["status"]["conditions"]).cloned().collect();
                conditions.retain(|condition| condition["type"] != "PodScheduled");
                conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}));
                pod["status"]["conditions"] = json!(conditions);
            }
            store.put(target.key(), pod);
            Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
        })
    }

    /// Issues a token for a ServiceAccount.
    pub fn token(&self, user: &User, target: &Target, request: &Value) -> ApiResult<Value> {
        self.store.transaction(|store| {
            self.admit(
                store,
                user,
                &Attempt {
                    resource: "serviceaccounts",
                    subresource: "token",
                    verb: "create",
                    namespace: &target.namespace,
                    name: &target.name,
                    old: None,
                    new: Some(request),
                },
            )?;
            let account = store.get(&target.key()).ok_or_else(|| target.not_found())?;
            let spec = &request["spec"];
            let bound = &spec["boundObjectRef"];
            let pod = match text(&bound["kind"]) {
                "Pod" => Some(
                    store
                        .find("pods", &target.namespace, text(&bound["name"]))
                        .ok_or_else(|| ApiError::not_found("pods", text(&bound["name"])))?,
                ),
                _ => None,
            };
            let (token, expires) = self.tokens.issue(&TokenRequest {
                namespace: &target.namespace,
                name: &target.name,
                uid: text(&account["metadata"]["uid"]),
                pod: pod.as_ref().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))),
                audiences: items(&spec["audiences"]).map(|audience| text(audience).to_string()).collect(),
                seconds: spec["expirationSeconds"].as_i64().unwrap_or(3600),
            });
            let mut answer = request.clone();
            answer["kind"] = json!("TokenRequest");
            answer["apiVersion"] = json!("authentication.k8s.io/v1");
            answer["metadata"] =
                json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": now()});
            answer["status"] = json!({"token": token, "expirationTimestamp": time_text(expires)});
            Ok(answer)
        })
    }
}
