//! Saved plans, and what becomes of a switch whose plan somebody has changed.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Cni, Done, Scenario};

/// Where plans are kept on a node.
const FILE: &str = "/var/lib/plan.json";

/// A saved plan.
#[derive(Debug, Clone)]
pub struct SavedPlan(Value);

impl Scenario {
    /// The plan of a switch, short of patience: an agent gets so many seconds.
    pub fn plan(&self, index: usize, to: Cni, agent_s: u32) -> Result<SavedPlan> {
        let patience = agent_s.to_string();
        let argv = ["plan", "--to", to.name(), "--out", FILE, "--drain-timeout", "60", "--agent-timeout", &patience];
        self.nodectl(index, &argv)?.expect(0)?;
        let text = std::fs::read(self.node(index)?.path(FILE)?).context("the saved plan could not be read")?;
        Ok(SavedPlan(serde_json::from_slice(&text).context("the saved plan is not JSON")?))
    }

    /// `nodectl migrate --plan` with this plan and more arguments. Only a nodectl with fault points takes one that was changed.
    pub fn carry_out(&self, index: usize, plan: &SavedPlan, more: &[&str]) -> Result<Done> {
        std::fs::write(self.node(index)?.path(FILE)?, plan.0.to_string()).context("the plan could not be saved")?;
        let mut args = vec!["migrate", "--plan", FILE, "--yes"];
        args.extend(more);
        self.nodectl_with(index, &args, &[("NODECTL_FAULT_PLANS", "1")])
    }
}

impl SavedPlan {
    /// The steps' names, in order.
    pub fn names(&self) -> Vec<String> {
        self.steps().iter().filter_map(|step| step["step"].as_str().map(str::to_owned)).collect()
    }

    /// A step's content.
    pub fn step(&self, name: &str) -> Result<&Value> {
        self.steps().get(self.place(name)?).context("the plan has lost a step")
    }

    /// The same without a step.
    pub fn without(mut self, name: &str) -> Result<SavedPlan> {
        let place = self.place(name)?;
        self.list()?.remove(place);
        Ok(self)
    }

    /// The same with a step moved to just before another.
    pub fn with_before(mut self, name: &str, other: &str) -> Result<SavedPlan> {
        let step = self.step(name)?.clone();
        let mut plan = self.without(name)?;
        let place = plan.place(other)?;
        plan.list()?.insert(place, step);
        self = plan;
        Ok(self)
    }

    /// The same with a step moved to just after another.
    pub fn with_after(self, name: &str, other: &str) -> Result<SavedPlan> {
        let step = self.step(name)?.clone();
        self.without(name)?.with_new_after(step, other)
    }

    /// The same with a new step just after another.
    pub fn with_new_after(mut self, step: Value, other: &str) -> Result<SavedPlan> {
        let place = self.place(other)? + 1;
        self.list()?.insert(place, step);
        Ok(self)
    }

    /// The same, made to fail right after a step: the run then stands there, all steps up to it done and none begun after.
    pub fn broken_after(self, name: &str) -> Result<SavedPlan> {
        let place = self.place(name)? + 1;
        self.broken_at(place)
    }

    /// The same, made to fail after its first `count` steps.
    pub fn broken_at(mut self, count: usize) -> Result<SavedPlan> {
        let there_is_none =
            json!({"step": "install-shim-binary", "from": "/nonexistent", "to": "/opt/cni/bin/no-such-plugin"});
        self.list()?.insert(count, there_is_none);
        Ok(self)
    }

    fn steps(&self) -> &[Value] {
        self.0["steps"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn list(&mut self) -> Result<&mut Vec<Value>> {
        self.0["steps"].as_array_mut().context("the plan has no steps")
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.steps().iter().position(|step| step["step"] == name);
        place.with_context(|| format!("the plan has no step {name}: {:?}", self.names()))
    }
}
