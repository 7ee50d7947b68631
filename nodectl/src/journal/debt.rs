//! What a revert without the API server leaves to be done.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adopt::claim::Installed;
use crate::step::AdoptedPod;

/// What a revert without the API server leaves to be done when it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "debt", rename_all = "kebab-case")]
pub enum Debt {
    /// Set the node's label.
    Label {
        /// To this value; removed where `None`.
        value: Option<String>,
    },
    /// Set spec.unschedulable.
    Unschedulable {
        /// To this.
        value: bool,
    },
    /// Put a Node condition back.
    Condition {
        /// The condition object.
        value: Value,
    },
    /// Start a unit that was stopped to keep it from fighting.
    StartUnit {
        /// Its name.
        unit: String,
    },
    /// Wait until the agent that the label asks for serves again.
    AwaitAgent {
        /// The agent.
        agent: Box<crate::step::Agent>,
    },
    /// Run the DELs that the shim keeps.
    PendingDels,
    /// Let Calico forget a pod that is flannel's again.
    Unclaim {
        /// The pod.
        pod: Box<AdoptedPod>,
        /// Calico as it was installed on this node: its conflist has gone by then.
        calico: Box<Installed>,
    },
    /// Let Calico know a pod again that stays its.
    Reclaim {
        /// The pod.
        pod: Box<AdoptedPod>,
    },
}

impl Debt {
    /// Whether both are about one label, one field, one condition, one unit, one agent or one pod: the later one then counts.
    pub fn concerns_the_same(&self, other: &Debt) -> bool {
        match (self, other) {
            (Debt::StartUnit { unit: a }, Debt::StartUnit { unit: b }) => a == b,
            (Debt::Unclaim { pod: a, .. }, Debt::Unclaim { pod: b, .. })
            | (Debt::Reclaim { pod: a }, Debt::Reclaim { pod: b }) => a.sandbox == b.sandbox,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Its turn: the agent that is to leave is told so before kubelet starts, which would start it again; the one that is to come
    /// needs kubelet; pods are let in when it serves. Calico knows its pods before kubelet starts others, which could be given
    /// their addresses. Kept DELs come last: each may take its whole time.
    fn turn(&self) -> u8 {
        match self {
            Debt::Label { .. } | Debt::Condition { .. } | Debt::Unschedulable { value: true } => 0,
            Debt::Reclaim { .. } => 0,
            Debt::StartUnit { .. } => 1,
            Debt::AwaitAgent { .. } => 2,
            Debt::Unschedulable { value: false } => 3,
            Debt::PendingDels | Debt::Unclaim { .. } => 4,
        }
    }

    /// Whether the node is well without it: it waits for nothing, and nothing for it. It needs Calico's plugin and its
    /// credentials.
    pub fn is_leftover(&self) -> bool {
        matches!(self, Debt::PendingDels | Debt::Unclaim { .. })
    }

    /// Whether this one must not be paid while the other is owed still.
    pub fn waits_for(&self, other: &Debt) -> bool {
        let leads = matches!(other, Debt::Label { .. } | Debt::StartUnit { .. } | Debt::AwaitAgent { .. });
        leads && !self.is_leftover() && other.turn() < self.turn()
    }

    /// The order in which they are paid, so that they lead to one end whatever happened since they arose, a reboot included.
    pub fn in_order(mut debts: Vec<Debt>) -> Vec<Debt> {
        debts.sort_by_key(Debt::turn);
        debts
    }

    /// What is owed, in words.
    pub fn describe(&self) -> String {
        match self {
            Debt::Label { value } => {
                format!("set the label nodectl.io/cni to {}", value.as_deref().unwrap_or("nothing"))
            }
            Debt::Unschedulable { value: true } => "cordon the node".into(),
            Debt::Unschedulable { value: false } => "uncordon the node".into(),
            Debt::Condition { .. } => "put the Node's condition back".into(),
            Debt::StartUnit { unit } => format!("start {unit}"),
            Debt::AwaitAgent { agent } => format!("see {} serving again", agent.cni),
            Debt::PendingDels => "finish the DELs that are kept because a plugin failed".into(),
            Debt::Unclaim { pod, .. } => format!("take {} out of Calico's address management", pod.pod),
            Debt::Reclaim { pod } => format!("put {} into Calico's address management again", pod.pod),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn await_flannel() -> Debt {
        let agent = serde_json::json!({
            "cni": "flannel", "namespace": "kube-flannel", "daemonset": "kube-flannel-ds", "conflist": "", "binaries": [],
            "overlay": "flannel.1", "timeout_s": 60,
            "scope": {
                "cluster_cidr": "10.244.0.0/16", "pod_cidr": "10.244.1.0/24", "vni": 1, "network": "cbr0",
                "conflist": "10-flannel.conflist", "conf_dir": "/etc/cni/net.d", "bin_dir": "/opt/cni/bin",
                "interface_prefix": "cali"
            }
        });
        Debt::AwaitAgent { agent: Box::new(serde_json::from_value(agent).unwrap()) }
    }

    /// As they arise when a run is taken back: newest step first.
    fn arisen() -> Vec<Debt> {
        vec![
            Debt::Unschedulable { value: true },
            Debt::PendingDels,
            Debt::Label { value: Some("none".into()) },
            Debt::StartUnit { unit: "kubelet.service".into() },
            Debt::Label { value: Some("flannel".into()) },
            await_flannel(),
            Debt::Unschedulable { value: false },
        ]
    }

    #[test]
    fn the_node_is_opened_to_pods_after_its_agent_serves() {
        let words: Vec<String> = Debt::in_order(arisen()).iter().map(Debt::describe).collect();
        assert_eq!(
            words,
            [
                "cordon the node",
                "set the label nodectl.io/cni to none",
                "set the label nodectl.io/cni to flannel",
                "start kubelet.service",
                "see flannel serving again",
                "uncordon the node",
                "finish the DELs that are kept because a plugin failed",
            ]
        );
    }

    #[test]
    fn one_pods_debt_is_not_anothers() {
        let pod = |sandbox: &str| {
            let pod = serde_json::json!({"pod": "default/web-1", "uid": "u", "sandbox": sandbox, "ifname": "eth0", "netns": "",
                "ips": [], "interface": "cali1", "way": "live"});
            Box::new(serde_json::from_value(pod).unwrap())
        };
        let reclaim = |sandbox: &str| Debt::Reclaim { pod: pod(sandbox) };
        assert!(reclaim("a").concerns_the_same(&reclaim("a")) && !reclaim("a").concerns_the_same(&reclaim("b")));
        let order: Vec<Debt> =
            Debt::in_order(arisen().into_iter().chain([reclaim("a"), reclaim("b")]).collect()).into_iter().collect();
        let place = |wanted: &dyn Fn(&Debt) -> bool| order.iter().position(wanted).unwrap();
        let kubelet = place(&|debt| matches!(debt, Debt::StartUnit { .. }));
        assert!(
            place(&|debt| matches!(debt, Debt::Reclaim { .. })) < kubelet,
            "or its address could be another's by then"
        );
    }

    #[test]
    fn a_kept_del_holds_nothing_and_a_label_holds_all_but_that() {
        for debt in arisen() {
            assert!(!debt.waits_for(&Debt::PendingDels) && !Debt::PendingDels.waits_for(&debt), "{debt:?}");
            assert!(!debt.waits_for(&debt), "{debt:?}");
        }
        let label = Debt::Label { value: None };
        let waiting: Vec<Debt> = Debt::in_order(arisen()).into_iter().filter(|debt| debt.waits_for(&label)).collect();
        let unit = Debt::StartUnit { unit: "kubelet.service".into() };
        assert_eq!(waiting, [unit.clone(), await_flannel(), Debt::Unschedulable { value: false }]);
        assert!(!label.waits_for(&unit) && !unit.waits_for(&Debt::Condition { value: Value::Null }));
    }
}
