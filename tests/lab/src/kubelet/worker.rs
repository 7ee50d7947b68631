//! One thread per pod: it alone touches the pod's sandboxes and containers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sync::PodState;
use super::{Kubelet, pod, sync, terminate};

/// How long a quiet pod is left alone: what changes in the runtime or the API wakes its worker anyway.
const QUIET: Duration = Duration::from_secs(5);
/// How long to wait after something failed; the real kubelet's backoff begins at ten seconds.
const RETRY: Duration = Duration::from_secs(1);

/// A pod's thread.
pub struct Worker {
    wake: Sender<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts to look after the pod of a uid; `orphan` is given for a pod that only the runtime knows.
    pub fn start(kubelet: &Arc<Kubelet>, uid: &str, orphan: Option<Value>) -> Worker {
        let (wake, woken) = channel();
        let (kubelet, uid) = (Arc::clone(kubelet), uid.to_owned());
        let thread = std::thread::spawn(move || look_after(&kubelet, &uid, orphan, &woken));
        Worker { wake, thread }
    }

    /// Tells it to look now.
    pub fn wake(&self) {
        // It may have ended this instant.
        let _ = self.wake.send(());
    }

    /// True once the pod is gone.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Syncs the pod until it is gone.
fn look_after(kubelet: &Kubelet, uid: &str, orphan: Option<Value>, woken: &Receiver<()>) {
    let mut last = orphan;
    let mut state = PodState::default();
    let mut complained = (String::new(), Instant::now());
    loop {
        let wanted = kubelet.pod(uid);
        if wanted.is_some() {
            last.clone_from(&wanted);
        }
        let Some(pod) = &last else {
            return;
        };
        let ending = wanted.as_ref().is_none_or(|pod| pod::is_deleted(pod) || pod::is_terminal(pod));
        let step = if ending {
            terminate::run(kubelet, pod, wanted.is_some(), &mut state)
        } else {
            sync::run(kubelet, pod, &mut state)
        };
        match step {
            Ok(true) => return,
            Ok(false) => {
                // Whatever woke us while we worked is answered by the next look.
                let _ = woken.recv_timeout(state.hurry.take().unwrap_or(QUIET));
            }
            Err(error) => {
                let words = format!("{}: {error:#}", pod::show(pod));
                // The same complaint once in ten seconds is enough.
                if words != complained.0 || complained.1.elapsed() > Duration::from_secs(10) {
                    eprintln!("kubelet: {words}");
                    complained = (words, Instant::now());
                }
                back_off(kubelet, uid, ending, woken);
            }
        }
        while woken.try_recv().is_ok() {}
    }
}

/// Waits after a failure, unless the pod is to be ended now and was not before: what failed wakes us too, and is no reason to hurry.
fn back_off(kubelet: &Kubelet, uid: &str, was_ending: bool, woken: &Receiver<()>) {
    let until = Instant::now() + RETRY;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let _ = woken.recv_timeout(left);
        let ending = kubelet.pod(uid).is_none_or(|pod| pod::is_deleted(&pod));
        if ending && !was_ending {
            return;
        }
    }
}
