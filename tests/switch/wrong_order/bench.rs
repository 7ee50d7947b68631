//! A cluster of two nodes on whose first node wrong plans are tried.

use std::time::Duration;

use nodectl_lab::client::Patch;
use nodectl_lab::cluster::{Network, Options, until};
use nodectl_lab::node::Node;
use nodectl_lab::objects::flannel::Flannel;
use nodectl_lab::scenario::{Cni, Done, SavedPlan, Scenario};
use nodectl_lab::traffic::Endpoint;
use serde_json::{Value, json};

/// How long an agent gets in these plans, which know that it will not come.
pub const AGENT_S: u32 = 25;

/// A prepared cluster of two nodes; plans are tried on node1.
pub struct Bench {
    pub scenario: Scenario,
}

impl Bench {
    /// With flannel as a release of this line.
    pub fn new(flannel: &str, change: impl FnOnce(&mut Options)) -> Bench {
        let scenario = Scenario::start(2, &Scenario::workloads(3), |options| {
            options.network = Network::Flannel(like(flannel));
            change(options);
        })
        .unwrap();
        scenario.prepare().unwrap();
        Bench { scenario }
    }

    pub fn node(&self) -> &dyn Node {
        self.scenario.node(1).unwrap()
    }

    pub fn plan(&self, to: Cni) -> SavedPlan {
        self.scenario.settled().unwrap();
        self.scenario.plan(1, to, AGENT_S).unwrap()
    }

    /// Carries out a plan that must fail for this reason and be taken back whole.
    pub fn fails(&self, case: &str, plan: &SavedPlan, from: Cni, reason: &str) {
        self.fails_with(case, plan, &[], from, reason);
    }

    /// The same with more arguments.
    pub fn fails_with(&self, case: &str, plan: &SavedPlan, more: &[&str], from: Cni, reason: &str) {
        println!("{case}");
        let done = self.scenario.carry_out(1, plan, more).unwrap();
        assert_eq!(done.code, 4, "{case}: should have failed and been put back: {}", done.all());
        assert!(done.stderr.contains(reason), "{case}: should have failed by {reason:?}: {}", done.all());
        self.is_whole(case, from);
    }

    /// Carries out a plan whose fault shows when the node serves already: it stays so, and the run open, until it is taken back.
    pub fn fails_late(&self, case: &str, plan: &SavedPlan, from: Cni, reason: &str) {
        println!("{case}");
        let done = self.scenario.carry_out(1, plan, &[]).unwrap();
        assert_eq!(done.code, 5, "{case}: should have failed and stayed open: {}", done.all());
        assert!(done.stderr.contains(reason), "{case}: should have failed by {reason:?}: {}", done.all());
        self.taken_back(case, from);
    }

    /// Carries out a plan that is made to stop half way, and leaves the run open.
    pub fn stands_open(&self, case: &str, plan: &SavedPlan) -> Done {
        println!("{case}");
        let done = self.scenario.carry_out(1, plan, &["--no-auto-revert"]).unwrap();
        assert_eq!(done.code, 5, "{case}: should be open: {}", done.all());
        assert!(done.stderr.contains("/nonexistent"), "{case}: it failed before it was to: {}", done.all());
        done
    }

    /// Takes the open run back; the node must be whole.
    pub fn taken_back(&self, case: &str, from: Cni) {
        self.scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        self.is_whole(case, from);
    }

    /// node1 is on this CNI, its pods run and are reached.
    pub fn is_whole(&self, case: &str, cni: Cni) {
        self.scenario.must_be_on(1, cni).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        self.scenario.settled().unwrap_or_else(|e| panic!("{case}: {e:#}"));
        self.scenario.must_be_whole().unwrap_or_else(|e| panic!("{case}: {e:#}"));
    }

    /// The DaemonSet's pod on a node.
    pub fn probe(&self, index: usize) -> Endpoint {
        let node = format!("node{index}");
        let staying = self.scenario.staying().unwrap();
        staying.into_iter().find(|(_, place)| *place == node).map(|(pod, _)| pod).unwrap()
    }

    /// Whether the other node's pod gets answers from node1's.
    pub fn is_reached(&self) -> bool {
        self.scenario.reaches(&self.probe(2), &self.probe(1)).unwrap()
    }

    /// Whether a pod got no network since events were forgotten: its sandbox could not be made, or kubelet did not even ask for
    /// one, since the runtime had told it that the network is not ready.
    pub fn fails_to_attach(&self) -> bool {
        let events = self.scenario.client.list("/api/v1/events").unwrap();
        let is = |event: &Value, reason: &str| event["reason"] == reason;
        events.iter().any(|event| is(event, "FailedCreatePodSandBox") || is(event, "NetworkNotReady"))
    }

    /// Forgets what the cluster has told so far.
    pub fn forget_events(&self) {
        for event in self.scenario.client.list("/api/v1/events").unwrap() {
            let (space, name) = (&event["metadata"]["namespace"], &event["metadata"]["name"]);
            let path = format!("/api/v1/namespaces/{}/events/{}", space.as_str().unwrap(), name.as_str().unwrap());
            // It may have gone by itself.
            let _ = self.scenario.client.delete(&path);
        }
    }

    /// Changes the pods of an agent's DaemonSet, and waits until they are new.
    pub fn change_agent(&self, namespace: &str, name: &str, spec: &Value) {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
        let patch = json!({"spec": {"template": {"spec": spec}}});
        self.scenario.client.patch(&path, Patch::Strategic, &patch).unwrap();
        until(Duration::from_secs(60), || {
            let object = self.scenario.client.get(&path)?;
            let status = &object["status"];
            let new = status["observedGeneration"] == object["metadata"]["generation"]
                && status["updatedNumberScheduled"] == status["desiredNumberScheduled"]
                && (status["desiredNumberScheduled"] == 0 || status["numberReady"] == status["desiredNumberScheduled"]);
            Ok((!new).then(|| format!("{name} is not new: {status}")))
        })
        .unwrap();
        self.scenario.settled().unwrap();
    }
}

/// flannel as a release of this line.
pub fn like(version: &str) -> Flannel {
    Flannel { env: vec![("FLANNELD_VERSION_LIKE".into(), version.into())], ..Flannel::default() }
}

/// A step that does nothing but take about two seconds: an address that nobody has does not answer.
pub fn pause() -> Value {
    json!({"step": "baseline", "targets": {"peers": ["192.0.2.1"]}})
}
