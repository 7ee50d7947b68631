//! Pod sandboxes: run, stopped, removed, in containerd's order.

use anyhow::{Context, Result, bail};

use super::records::{Sandbox, encode, new_id, now};
use super::{Runtime, containers, netns, network};
use crate::cri::PodSandboxConfig;

/// How long a container may take to end when its sandbox is stopped: containerd kills at once.
const NO_GRACE: i64 = 0;

/// Makes a sandbox with a fresh id and attaches it; a failed ADD gets one DEL.
pub fn run(runtime: &Runtime, config: &PodSandboxConfig, handler: &str) -> Result<String> {
    let metadata = config.metadata.clone().context("sandbox config must include metadata")?;
    for other in runtime.store.sandboxes.all() {
        if other.config().metadata.as_ref() == Some(&metadata) {
            let name = format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt);
            bail!("failed to reserve sandbox name {name:?}: name {name:?} is reserved for {:?}", other.id);
        }
    }
    let id = new_id()?;
    let mut sandbox = Sandbox {
        id: id.clone(),
        config: encode(config),
        handler: handler.to_owned(),
        created_at: now(),
        ready: false,
        netns: None,
        result: None,
        boot: runtime.boot.clone(),
    };
    if !Sandbox::is_host_network(config) {
        let path = netns::create().context("failed to create network namespace for sandbox")?;
        sandbox.netns = Some(path.clone());
        // On disk before the ADD: a runtime that dies in it knows what to clean up.
        runtime.store.sandboxes.put(&id, sandbox.clone())?;
        match attach(runtime, &sandbox, &path) {
            Ok(result) => sandbox.result = Some(result),
            Err(error) => {
                give_up(runtime, &sandbox, &path);
                return Err(error.context(format!("failed to setup network for sandbox {id:?}")));
            }
        }
    }
    sandbox.ready = true;
    runtime.store.sandboxes.put(&id, sandbox)?;
    Ok(id)
}

/// Runs ADD; an attachment without an address is none.
fn attach(runtime: &Runtime, sandbox: &Sandbox, path: &str) -> Result<serde_json::Value> {
    let result = runtime.cni.setup(&network::attachment(sandbox, path))?;
    if network::addresses(&result).is_empty() {
        bail!("failed to find network info for sandbox {:?}", sandbox.id);
    }
    Ok(result)
}

/// After a failed ADD: one DEL; where that fails too, the sandbox stays, not ready, for the kubelet to stop.
fn give_up(runtime: &Runtime, sandbox: &Sandbox, path: &str) {
    let cleaned = runtime.cni.remove(&network::attachment(sandbox, path)).and_then(|()| netns::remove(path));
    match cleaned {
        Ok(()) => runtime.store.sandboxes.remove(&sandbox.id),
        Err(error) => eprintln!("runtime: failed to destroy network for sandbox {:?}: {error:#}", sandbox.id),
    }
}

/// Stops a sandbox: its containers, then its network. A DEL that fails is an error if the ADD had ended well.
pub fn stop(runtime: &Runtime, id: &str) -> Result<()> {
    let Ok(sandbox) = runtime.store.sandboxes.get(id) else {
        return Ok(());
    };
    for container in runtime.store.containers_of(&sandbox.id) {
        if container.is_running() {
            containers::stop(runtime, &container.id, NO_GRACE)
                .with_context(|| format!("failed to stop container {:?}", container.id))?;
        }
    }
    runtime.store.sandboxes.change(&sandbox.id, |sandbox| sandbox.ready = false)?;
    let Some(path) = &sandbox.netns else {
        return Ok(());
    };
    // A namespace that is gone is passed as an empty path.
    let shown = if netns::is_closed(path) { "" } else { path };
    if let Err(error) = runtime.cni.remove(&network::attachment(&sandbox, shown)) {
        if sandbox.result.is_some() {
            return Err(error.context(format!("failed to destroy network for sandbox {:?}", sandbox.id)));
        }
        eprintln!("runtime: failed to destroy network for sandbox {:?}; ignoring: {error:#}", sandbox.id);
    }
    netns::remove(path).with_context(|| format!("failed to remove network namespace for sandbox {:?}", sandbox.id))
}

/// Removes a sandbox, stopping it first if need be.
pub fn remove(runtime: &Runtime, id: &str) -> Result<()> {
    let Ok(sandbox) = runtime.store.sandboxes.get(id) else {
        return Ok(());
    };
    if sandbox.ready || sandbox.netns.as_deref().is_some_and(|path| !netns::is_closed(path)) {
        stop(runtime, &sandbox.id).with_context(|| format!("failed to forcibly stop sandbox {id:?}"))?;
    }
    for container in runtime.store.containers_of(&sandbox.id) {
        containers::remove(runtime, &container.id)?;
    }
    runtime.store.sandboxes.remove(&sandbox.id);
    Ok(())
}

/// After a restart: a sandbox of an earlier boot, or whose namespace is gone, is not ready.
pub fn recover(runtime: &Runtime) {
    for sandbox in runtime.store.sandboxes.all() {
        let gone = sandbox.boot != runtime.boot || sandbox.netns.as_deref().is_some_and(netns::is_closed);
        if sandbox.ready && gone {
            let noted = runtime.store.sandboxes.change(&sandbox.id, |sandbox| sandbox.ready = false);
            if let Err(error) = noted {
                eprintln!("runtime: sandbox {} could not be noted as gone: {error:#}", sandbox.id);
            }
        }
    }
}

/// The addresses of a sandbox, as its status shows them: none on the host's network, none once it is not ready and its namespace is gone.
pub fn addresses(sandbox: &Sandbox) -> Vec<String> {
    let closed = sandbox.netns.as_deref().is_none_or(netns::is_closed);
    if sandbox.netns.is_none() || (!sandbox.ready && closed) {
        return Vec::new();
    }
    sandbox.result.as_ref().map(network::addresses).unwrap_or_default()
}
