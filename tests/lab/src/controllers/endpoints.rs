//! Endpoints of Services with a selector.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use super::pods::is_ready;
use crate::apiserver::selector::Labels;
use crate::apiserver::value::{items, text};
use crate::client::ClientResult;

/// Writes the addresses of the Pods that serve.
pub fn run(access: &Access) -> ClientResult<()> {
    let services = access.list("services")?;
    let selecting = |service: &&Arc<Value>| service["spec"]["selector"].as_object().is_some_and(|map| !map.is_empty());
    if !services.iter().any(|service| selecting(&service)) {
        return Ok(());
    }
    let pods = access.list("pods")?;
    let existing = access.list("endpoints")?;
    for service in services.iter().filter(selecting) {
        let subsets = subsets(service, &pods);
        let same = |object: &&Arc<Value>| {
            ["name", "namespace"].iter().all(|field| object["metadata"][field] == service["metadata"][field])
        };
        match existing.iter().find(same) {
            None => access.create(
                "endpoints",
                &json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
                "metadata": {"name": service["metadata"]["name"], "namespace": service["metadata"]["namespace"]}}),
            ),
            Some(object) if object["subsets"] != subsets => {
                access.patch("endpoints", object, "", &json!({"subsets": subsets}));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn subsets(service: &Value, pods: &[Arc<Value>]) -> Value {
    let selector = Labels::from_map(&service["spec"]["selector"]);
    let serving: Vec<&Arc<Value>> = pods
        .iter()
        .filter(|pod| pod["metadata"]["namespace"] == service["metadata"]["namespace"])
        .filter(|pod| selector.matches(pod) && is_ready(pod) && !text(&pod["status"]["podIP"]).is_empty())
        .collect();
    let Some(first) = serving.first() else { return json!([]) };
    let addresses: Vec<Value> = serving
        .iter()
        .map(|pod| {
            json!({"ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"]}})
        })
        .collect();
    let ports: Vec<Value> = items(&service["spec"]["ports"])
        .map(|port| {
            let mut found = json!({"port": target_port(port, first), "protocol": port["protocol"]});
            if !port["name"].is_null() {
                found["name"] = port["name"].clone();
            }
            found
        })
        .collect();
    json!([{"addresses": addresses, "ports": ports}])
}

/// A named target port is looked up in the Pod.
fn target_port(port: &Value, pod: &Value) -> Value {
    let target = &port["targetPort"];
    if target.is_number() {
        return target.clone();
    }
    let ports = items(&pod["spec"]["containers"]).flat_map(|container| items(&container["ports"]));
    let named = ports.into_iter().find(|candidate| candidate["name"] == *target);
    named.map_or_else(|| port["port"].clone(), |found| found["containerPort"].clone())
}
