//! Reviews: "may I", "may they", "who am I". They ask the authorizers only, so admission may still refuse.

use serde_json::{Value, json};

use super::api::Api;
use super::authorize::authorize;
use super::identity::User;
use super::options::Regime;
use super::request::RequestInfo;
use super::value::{items, text};

impl Api {
    /// The answer to a review, or `None` if the request is no review that this version knows.
    pub fn review(&self, user: &User, request: &RequestInfo, body: &Value) -> Option<Value> {
        let mut answer = body.clone();
        answer["apiVersion"] = json!(request.api_version());
        match (request.group.as_str(), request.resource.as_str()) {
            ("authorization.k8s.io", "selfsubjectaccessreviews") => {
                answer["status"] = self.access(user, &body["spec"]);
            }
            ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
                answer["status"] = self.access(&named_user(&body["spec"]), &body["spec"]);
            }
            ("authorization.k8s.io", "selfsubjectrulesreviews") => {
                answer["status"] = json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true});
            }
            ("authentication.k8s.io", "selfsubjectreviews") if self.regime == Regime::V1_36 => {
                answer["status"] = json!({"userInfo": {"username": user.name, "groups": user.groups}});
            }
            ("authentication.k8s.io", "tokenreviews") => {
                answer["status"] = self.token_status(text(&body["spec"]["token"]));
            }
            _ => return None,
        }
        Some(answer)
    }

    fn access(&self, user: &User, spec: &Value) -> Value {
        let allowed = self.store.transaction(|store| authorize(store, self.regime, user, &asked(spec)));
        match allowed {
            Ok(()) => json!({"allowed": true}),
            Err(reason) => json!({"allowed": false, "reason": reason}),
        }
    }

    fn token_status(&self, token: &str) -> Value {
        match self.store.transaction(|store| self.tokens.check(store, token)) {
            Some(user) => json!({"authenticated": true, "user": {"username": user.name, "groups": user.groups}}),
            None => json!({"authenticated": false, "error": "invalid bearer token"}),
        }
    }
}

fn named_user(spec: &Value) -> User {
    let groups: Vec<&str> = items(&spec["groups"]).map(text).collect();
    User::new(text(&spec["user"]), &groups)
}

fn asked(spec: &Value) -> RequestInfo {
    let resource = &spec["resourceAttributes"];
    if resource.is_null() {
        let path = &spec["nonResourceAttributes"];
        return RequestInfo {
            verb: text(&path["verb"]).into(),
            path: text(&path["path"]).into(),
            ..RequestInfo::default()
        };
    }
    RequestInfo {
        verb: text(&resource["verb"]).into(),
        group: text(&resource["group"]).into(),
        version: text(&resource["version"]).into(),
        resource: text(&resource["resource"]).into(),
        subresource: text(&resource["subresource"]).into(),
        namespace: text(&resource["namespace"]).into(),
        name: text(&resource["name"]).into(),
        named: true,
        ..RequestInfo::default()
    }
}
