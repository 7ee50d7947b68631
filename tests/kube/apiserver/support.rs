//! A server of its own for every test, and clients with every identity.

use std::path::Path;
use std::time::Duration;

use nodectl_lab::apiserver::{Options, Regime, Server};
use nodectl_lab::client::{Client, ClientError};
use nodectl_lab::pki::Identity;
use serde_json::{Value, json};

/// A server and its folder: a real kube-apiserver where KUBEBUILDER_ASSETS names its folder, else the stand-in.
pub struct Fixture {
    pub server: Server,
    pub admin: Client,
    pub folder: tempfile::TempDir,
}

impl Fixture {
    /// Without controllers.
    pub fn bare() -> Self {
        Self::with(|options| options.no_controllers = true)
    }

    /// Without controllers, of one regime; `None` where the real server at hand is of the other.
    pub fn of(regime: Regime) -> Option<Self> {
        let real =
            nodectl_lab::cluster::assets().map(|folder| nodectl_lab::kube_apiserver::regime_of(&folder).unwrap());
        if let Some(other) = real.filter(|real| *real != regime) {
            eprintln!("skipped: this case is about {regime:?}, and the kube-apiserver at hand is of {other:?}");
            return None;
        }
        Some(Self::with(|options| {
            options.regime = regime;
            options.no_controllers = true;
        }))
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::stand_in(|options| {
            options.assets = nodectl_lab::cluster::assets();
            change(options);
        })
    }

    /// For what only the stand-in does: faults of single requests, a history that ends on demand.
    pub fn stand_in(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("pki"));
        options.controllers.settle_ms = Duration::from_millis(10);
        change(&mut options);
        let server = Server::start(&options).unwrap();
        let admin = server.admin().unwrap();
        // As the controllers do it where they run: no pod without its namespace's account.
        if options.no_controllers && server.is_real() {
            for namespace in ["default", "kube-system"] {
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
                admin.ensure(&path, &json!({"metadata": {"name": "default"}})).unwrap();
            }
        }
        Self { server, admin, folder }
    }

    pub fn node(&self, name: &str) -> Client {
        self.identity(&self.server.pki.node(name).unwrap())
    }

    pub fn identity(&self, identity: &Identity) -> Client {
        let text = self.server.pki.inline_kubeconfig(&self.server.url(), "user", identity).unwrap();
        Client::from_text(&text).unwrap()
    }

    pub fn account(&self, namespace: &str, name: &str) -> Client {
        let token = self.admin.token(namespace, name, 3600).unwrap();
        Client::from_token(&self.server.url(), &self.server.pki.ca().unwrap(), &token).unwrap()
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u16 {
    result.unwrap_err().code
}

pub fn pod(name: &str, node: &str) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "lab/pod"}], "automountServiceAccountToken": false});
    if !node.is_empty() {
        spec["nodeName"] = json!(node);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

pub fn pods(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods{}{name}", if name.is_empty() { "" } else { "/" })
}

/// Reports a node Ready.
pub fn make_ready(admin: &Client, node: &str) {
    let now = nodectl_lab::apiserver::value::now();
    let conditions = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]);
    let patch = json!({"status": {"conditions": conditions}});
    admin.patch(&format!("/api/v1/nodes/{node}/status"), nodectl_lab::client::Patch::Strategic, &patch).unwrap();
}

/// Plays the kubelet: what is bound runs and is Ready, what is deleted goes.
pub fn play_kubelet(admin: &Client) {
    for pod in admin.list("/api/v1/pods").unwrap() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/{}/pods/{name}", pod["metadata"]["namespace"].as_str().unwrap());
        if pod["spec"]["nodeName"].is_null() {
            continue;
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let _ = admin.delete_with(&path, &json!({"gracePeriodSeconds": 0}));
        } else if pod["status"]["phase"] != "Running" {
            let status = json!({"status": {"phase": "Running", "podIP": "10.244.1.9", "podIPs": [{"ip": "10.244.1.9"}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
            let _ = admin.patch(&format!("{path}/status"), nodectl_lab::client::Patch::Merge, &status);
        }
    }
}
