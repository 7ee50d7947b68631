//! The stand-in for the kubelet: it drives any CRI socket, real containerd's too.

mod api_pods;
mod container_config;
mod cri_client;
mod environment;
mod gc;
mod health;
mod kubelet_options;
mod node_status;
mod pleg;
mod pod;
mod pod_status;
mod probe;
mod sandbox_config;
mod static_pods;
mod sync;
mod terminate;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::Client;
pub use cri_client::Cri;
use kubelet_options::Options;
use worker::Worker;

/// What all threads of the kubelet share.
pub struct Kubelet {
    /// How it was started.
    pub options: Options,
    /// The runtime.
    pub cri: Cri,
    /// The API server; none where no kubeconfig was found, then only static pods run.
    pub client: Option<Client>,
    /// Pods that should run here, by uid.
    desired: Mutex<BTreeMap<String, Value>>,
    /// The threads that see to it, by uid.
    workers: Mutex<BTreeMap<String, Worker>>,
    /// True once the API server's list was seen: only then is a pod that is in no list an orphan.
    pub sources_ready: AtomicBool,
    /// The uids of static pods' images in the API server, by the static pods' own.
    images: Mutex<BTreeMap<String, String>>,
    /// ConfigMaps and Secrets as they were read last, by path: the real kubelet's cache, which serves while the API server is away.
    objects: Mutex<BTreeMap<String, Value>>,
    /// Why the network is not ready; none when it is.
    network: Mutex<Option<String>>,
}

/// The program `kubelet`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    let client = if options.kubeconfig.exists() { Some(Client::from_kubeconfig(&options.kubeconfig)?) } else { None };
    let kubelet = Arc::new(Kubelet {
        cri: Cri::new(&options.runtime)?,
        sources_ready: AtomicBool::new(client.is_none()),
        client,
        options,
        desired: Mutex::default(),
        workers: Mutex::default(),
        images: Mutex::default(),
        objects: Mutex::default(),
        network: Mutex::new(Some("the runtime was not asked yet".to_owned())),
    });
    health::serve()?;
    node_status::start(&kubelet);
    static_pods::start(&kubelet);
    api_pods::start(&kubelet);
    pleg::start(&kubelet);
    loop {
        kubelet.dispatch();
        std::thread::sleep(kubelet.options.dispatch);
    }
}

impl Kubelet {
    /// The pods that should run here.
    pub fn desired(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod of a uid, as it is wanted now.
    pub fn pod(&self, uid: &str) -> Option<Value> {
        self.desired().get(uid).cloned()
    }

    /// Forgets the pods of one source, the API server or the files, that it does not show any more: their workers end them.
    pub fn forget_unshown(&self, is_of_source: impl Fn(&Value) -> bool, is_shown: impl Fn(&String) -> bool) {
        let gone = |(uid, pod): &(&String, &Value)| is_of_source(pod) && !is_shown(uid);
        let gone: Vec<String> = self.desired().iter().filter(gone).map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }

    /// Forgets one pod: its worker ends it.
    pub fn forget(&self, uid: &str) {
        self.desired().remove(uid);
        self.wake(uid);
    }

    /// Reads an object with the node's credentials; the last known one while the API server does not answer.
    pub fn read(&self, path: &str) -> Result<Value> {
        let client = self.client.as_ref().with_context(|| format!("{path} cannot be read without an API server"))?;
        let cache = || self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        match client.get(path) {
            Ok(object) => {
                cache().insert(path.to_owned(), object.clone());
                Ok(object)
            }
            Err(error) if error.code == 0 => cache().get(path).cloned().ok_or_else(|| error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The uid of a static pod's image in the API server, and whether it is Ready there; empty for other pods.
    pub fn image_of(&self, uid: &str) -> String {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    /// Notes the image of a static pod: a new one has not been told the pod's status yet.
    pub fn set_image(&self, uid: &str, image: &str) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let old = images.insert(uid.to_owned(), image.to_owned());
        drop(images);
        if old.is_none_or(|old| old != image) {
            self.wake(uid);
        }
    }

    /// Why the network is not ready.
    pub fn network_problem(&self) -> Option<String> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes whether the network is ready.
    pub fn set_network_problem(&self, problem: Option<String>) {
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Wakes the worker of a pod.
    pub fn wake(&self, uid: &str) {
        if let Some(worker) = self.workers().get(uid) {
            worker.wake();
        }
    }

    /// The workers.
    fn workers(&self) -> MutexGuard<'_, BTreeMap<String, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while a worker looks after the pod.
    pub fn has_worker(&self, uid: &str) -> bool {
        self.workers().contains_key(uid)
    }

    /// Starts a worker for each pod that has none, and forgets those that have ended.
    fn dispatch(self: &Arc<Self>) {
        let wanted: Vec<String> = self.desired().keys().cloned().collect();
        let mut workers = self.workers();
        workers.retain(|_, worker| !worker.has_ended());
        for uid in wanted {
            workers.entry(uid.clone()).or_insert_with(|| Worker::start(self, &uid, None));
        }
    }

    /// Ends a pod that is in the runtime but in no list.
    pub fn end_orphan(self: &Arc<Self>, uid: &str, pod: Value) {
        if !self.sources_ready.load(Ordering::Relaxed) || self.pod(uid).is_some() {
            return;
        }
        self.workers().entry(uid.to_owned()).or_insert_with(|| Worker::start(self, uid, Some(pod)));
    }
}
