//! This node's own objects at the API server, with the kubelet's identity.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::cni::{NODE_LABEL, RUN_ANNOTATION};
use crate::facts::Pod;
use crate::host::kube::{Kube, KubeError, Patch, Write};
use crate::run_note::RunNote;

/// How long the word about a run may take to be written.
const NOTE_PATIENCE: Duration = Duration::from_secs(5);

/// The API server as this node may use it.
pub struct Api {
    kube: Option<Kube>,
    node: String,
    dead: Cell<bool>,
    on_the_way_back: Cell<bool>,
}

impl Api {
    /// `kube` is `None` where not even a kubeconfig could be read.
    pub fn new(kube: Option<Kube>, node: String) -> Api {
        Api { kube, node, dead: Cell::new(false), on_the_way_back: Cell::new(false) }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// From now on a server that answers but fails (no quorum, a broken webhook, expired credentials) counts as one that
    /// does not answer: the node must come back without it.
    pub fn on_the_way_back(&self) {
        self.on_the_way_back.set(true);
    }

    /// Whether it was found not to answer. It is not asked again within this run: each try would cost its time limit.
    pub fn is_dead(&self) -> bool {
        self.kube.is_none() || self.dead.get()
    }

    /// Runs a request; `None` where the server does not answer.
    pub fn unless_dead<T>(&self, request: impl FnOnce(&Kube) -> Result<T, KubeError>) -> Result<Option<T>> {
        let Some(kube) = self.kube.as_ref().filter(|_| !self.dead.get()) else {
            return Ok(None);
        };
        match request(kube) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_unreachable() || (self.on_the_way_back.get() && !error.is_about_the_request()) => {
                self.dead.set(true);
                tracing::warn!(%error, "the API server does not answer");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Runs a request that the run cannot go on without.
    pub fn must<T>(&self, request: impl FnOnce(&Kube) -> Result<T, KubeError>) -> Result<T> {
        let kube = self.kube.as_ref().ok_or_else(|| anyhow!("there is no kubeconfig to reach the API server with"))?;
        request(kube).map_err(anyhow::Error::from)
    }

    /// The Node.
    pub fn get_node(&self) -> Result<Value> {
        self.must(|kube| kube.get(&self.path())).with_context(|| format!("could not read the Node {}", self.node))
    }

    /// The label that steers the agents.
    pub fn label(&self) -> Result<Option<String>> {
        Ok(self.get_node()?["metadata"]["labels"][NODE_LABEL].as_str().map(str::to_owned))
    }

    /// Sets or removes that label; false where the server does not answer.
    pub fn set_label(&self, value: Option<&str>) -> Result<bool> {
        let patch = json!({"metadata": {"labels": {NODE_LABEL: value}}});
        let done = self.unless_dead(|kube| kube.patch(&self.path(), Patch::Merge, &patch, Write::default()));
        Ok(done
            .with_context(|| format!("could not label the Node {} with {NODE_LABEL}={value:?}", self.node))?
            .is_some())
    }

    /// Sets spec.unschedulable; false where the server does not answer.
    pub fn set_unschedulable(&self, value: bool) -> Result<bool> {
        let patch = json!({"spec": {"unschedulable": if value { json!(true) } else { Value::Null }}});
        let done = self.unless_dead(|kube| kube.patch(&self.path(), Patch::Merge, &patch, Write::default()));
        let verb = if value { "cordon" } else { "uncordon" };
        Ok(done.with_context(|| format!("could not {verb} the Node {}", self.node))?.is_some())
    }

    /// Puts one condition into the Node's status (merged by type); false where the server does not answer.
    pub fn set_condition(&self, condition: &Value) -> Result<bool> {
        let patch = json!({"status": {"conditions": [condition]}});
        let path = format!("{}/status", self.path());
        let done = self.unless_dead(|kube| kube.patch(&path, Patch::Strategic, &patch, Write::default()));
        Ok(done.with_context(|| format!("could not set a condition of the Node {}", self.node))?.is_some())
    }

    /// Pods bound to this node.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        self.must(|kube| kube.pods_on(&self.node)).context("could not list the pods of this node")
    }

    /// Says on the Node, as an Event, what happens to it. An Event that cannot be written stops nothing.
    pub fn announce(&self, reason: &str, warning: bool, message: &str) {
        let now = crate::clock::now();
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "type": if warning { "Warning" } else { "Normal" },
            "metadata": {"generateName": format!("{}.", self.node), "namespace": "default"},
            // `kubectl describe node` finds Events by the node's name as uid, as kubelet writes them.
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node},
            "reason": reason, "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "nodectl", "host": self.node},
        });
        let path = "/api/v1/namespaces/default/events";
        // Not through `unless_dead`: a POST is not sent again, so one lost connection would count as a server that is gone.
        if let Some(Err(error)) =
            self.kube.as_ref().filter(|_| !self.is_dead()).map(|kube| kube.post(path, &event, Write::REAL))
        {
            tracing::debug!("no Event could be written: {error:#}");
        }
    }

    /// Says on the Node, as an annotation, where the run stands; `None` takes the annotation away. A word that cannot be written
    /// stops nothing, whatever refuses it.
    pub fn note(&self, note: Option<&RunNote>) {
        let Some(kube) = self.kube.as_ref().filter(|_| !self.is_dead()) else { return };
        let text = note.and_then(|note| serde_json::to_string(note).ok());
        let patch = json!({"metadata": {"annotations": {RUN_ANNOTATION: text}}});
        if let Err(error) = kube.patience(NOTE_PATIENCE).patch(&self.path(), Patch::Merge, &patch, Write::REAL) {
            tracing::warn!("the Node does not say where the run stands: {error:#}");
            // The way back does not ask a silent server again, for each time costs a time limit.
            if self.on_the_way_back.get() && error.is_unreachable() {
                self.dead.set(true);
            }
        }
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.node)
    }
}

/// The NetworkUnavailable condition of a Node.
pub fn network_unavailable(node: &Value) -> Option<&Value> {
    node["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "NetworkUnavailable")
}
