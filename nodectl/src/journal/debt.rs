//! What a revert without the API server leaves to be done.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
}

impl Debt {
    /// Whether both are about one label, one field, one condition, one unit or one agent: the later one then counts.
    pub fn concerns_the_same(&self, other: &Debt) -> bool {
        match (self, other) {
            (Debt::StartUnit { unit: a }, Debt::StartUnit { unit: b }) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// What is owed, in words.
    pub fn describe(&self) -> String {
        match self {
            Debt::Label { value } => {
                format!("set the label nodectl.io/cni to {}", value.as_deref().unwrap_or("nothing"))
            }
            Debt::Unschedulable { value: true } => "cordon the node".into(),
            Debt::Unschedulable { value: false } => "uncordon the node".into(),
            Debt::Condition { .. } => "put a Node condition back".into(),
            Debt::StartUnit { unit } => format!("start {unit}"),
            Debt::AwaitAgent { agent } => format!("see {} serving again", agent.cni),
            Debt::PendingDels => "finish the DELs that need Calico's API".into(),
        }
    }
}
