//! DaemonSets: one Pod on every node that the template selects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use super::placement::{selects, tolerates};
use super::pods::{controlled_by, from_template, is_active, is_finished, is_ready, scaled, template_hash};
use crate::apiserver::value::{items, text};
use crate::client::ClientResult;

const HASH: &str = "controller-revision-hash";

/// Brings every DaemonSet's Pods in line.
pub fn run(access: &Access) -> ClientResult<()> {
    let nodes = access.list("nodes")?;
    let pods = access.list("pods")?;
    for set in access.list("daemonsets.apps")? {
        if set["metadata"]["deletionTimestamp"].is_null() {
            DaemonSet::new(&set, &nodes, &pods).reconcile(access);
        }
    }
    Ok(())
}

/// One node and what the set has there.
struct Place<'a> {
    node: &'a Value,
    wanted: bool,
    pods: Vec<&'a Arc<Value>>,
}

struct DaemonSet<'a> {
    set: &'a Value,
    hash: String,
    tolerations: Value,
    places: Vec<Place<'a>>,
}

impl<'a> DaemonSet<'a> {
    fn new(set: &'a Value, nodes: &'a [Arc<Value>], pods: &'a [Arc<Value>]) -> Self {
        let spec = &set["spec"]["template"]["spec"];
        let tolerations = daemon_tolerations(spec);
        let own: Vec<&Arc<Value>> = controlled_by(pods, set).collect();
        let places = nodes.iter().map(|node| {
            let here = |pod: &&&Arc<Value>| pod["spec"]["nodeName"] == node["metadata"]["name"];
            let pods: Vec<&Arc<Value>> = own.iter().filter(here).copied().collect();
            // A Pod that is there stays through NoSchedule taints, only NoExecute drives it away.
            let effects: &[&str] = if pods.is_empty() { &["NoSchedule", "NoExecute"] } else { &["NoExecute"] };
            let wanted = selects(spec, node) && tolerates(&tolerations, node, effects);
            Place { node, wanted, pods }
        });
        let places = places.collect();
        Self { set, hash: template_hash(&set["spec"]["template"]), tolerations, places }
    }

    fn reconcile(&self, access: &Access) {
        for place in &self.places {
            self.settle(access, place);
        }
        if self.set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            self.roll(access);
        }
        self.report(access);
    }

    /// Too many, too few, or a finished one. A Pod that is still going away keeps its successor waiting.
    fn settle(&self, access: &Access, place: &Place<'_>) {
        let mut running: Vec<&Arc<Value>> = place.pods.iter().copied().filter(|pod| is_active(pod)).collect();
        running.sort_by_key(|pod| (!is_ready(pod), text(&pod["metadata"]["creationTimestamp"]).to_string()));
        let keep = usize::from(place.wanted);
        for pod in running.iter().skip(keep) {
            access.delete("pods", pod, None);
        }
        for pod in place.pods.iter().filter(|pod| is_finished(pod)) {
            access.delete("pods", pod, None);
        }
        if place.wanted && place.pods.is_empty() {
            let mut pod = from_template(self.set, HASH, &self.hash);
            let generation = self.set["metadata"]["generation"].to_string();
            pod["metadata"]["labels"]["pod-template-generation"] = json!(generation);
            pod["spec"]["nodeName"] = place.node["metadata"]["name"].clone();
            pod["spec"]["tolerations"] = self.tolerations.clone();
            access.create("pods", &pod);
        }
    }

    /// Replaces Pods of an older template: those that do not serve at once, the others within maxUnavailable.
    fn roll(&self, access: &Access) {
        let wanted: Vec<&Place<'_>> = self.places.iter().filter(|place| place.wanted).collect();
        let total = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
        let allowed =
            scaled(&self.set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], total, true).max(1);
        let serving = |place: &&&Place<'_>| place.pods.iter().any(|pod| is_ready(pod));
        let down = total - i64::try_from(wanted.iter().filter(serving).count()).unwrap_or(0);
        let mut budget = allowed - down;
        for place in wanted {
            for pod in place.pods.iter().filter(|pod| is_active(pod) && !self.is_current(pod)) {
                if is_ready(pod) {
                    if budget <= 0 {
                        continue;
                    }
                    budget -= 1;
                }
                access.delete("pods", pod, None);
            }
        }
    }

    fn is_current(&self, pod: &Value) -> bool {
        pod["metadata"]["labels"][HASH] == self.hash.as_str()
    }

    fn report(&self, access: &Access) {
        let count = |counted: &dyn Fn(&Place<'_>) -> bool| self.places.iter().filter(|place| counted(place)).count();
        let has =
            |place: &Place<'_>, test: &dyn Fn(&Value) -> bool| place.pods.iter().any(|pod| is_active(pod) && test(pod));
        let desired = count(&|place| place.wanted);
        let ready = count(&|place| place.wanted && has(place, &is_ready));
        let status = json!({
            "desiredNumberScheduled": desired,
            "currentNumberScheduled": count(&|place| place.wanted && has(place, &|_| true)),
            "numberMisscheduled": count(&|place| !place.wanted && has(place, &|_| true)),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": desired - ready,
            "updatedNumberScheduled": count(&|place| place.wanted && has(place, &|pod| self.is_current(pod))),
            "observedGeneration": self.set["metadata"]["generation"],
        });
        if self.set["status"] != status {
            access.patch("daemonsets.apps", self.set, "status", &json!({"status": status}));
        }
    }
}

/// The template's tolerations and those that the controller adds to every daemon Pod.
fn daemon_tolerations(spec: &Value) -> Value {
    let mut tolerations: Vec<Value> = items(&spec["tolerations"]).cloned().collect();
    let mut add = |name: &str, effect: &str| {
        let key = format!("node.kubernetes.io/{name}");
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    };
    add("not-ready", "NoExecute");
    add("unreachable", "NoExecute");
    for name in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        add(name, "NoSchedule");
    }
    if spec["hostNetwork"] == true {
        add("network-unavailable", "NoSchedule");
    }
    Value::Array(tolerations)
}
