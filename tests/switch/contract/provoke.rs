//! A fault made for real, what preflight says of it, and the fault undone.

use anyhow::{Context, Result, bail, ensure};
use nodectl_lab::scenario::Scenario;
use serde_json::{Value, json};

pub const NODE: &str = "/api/v1/nodes/node1";

/// Two prepared nodes.
pub fn start() -> Result<Scenario> {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {})?;
    scenario.prepare()?;
    Ok(scenario)
}

/// What a check is expected to say.
pub struct Expected {
    /// The check's name.
    pub name: &'static str,
    /// "fail", "warn" or "pass".
    pub verdict: &'static str,
    /// Words of the cause.
    pub cause: &'static str,
}

pub const fn fails(name: &'static str, cause: &'static str) -> Expected {
    Expected { name, verdict: "fail", cause }
}

pub const fn warns(name: &'static str, cause: &'static str) -> Expected {
    Expected { name, verdict: "warn", cause }
}

pub const fn passes(name: &'static str, cause: &'static str) -> Expected {
    Expected { name, verdict: "pass", cause }
}

/// Makes a fault, sees preflight name it with its cause and its remedy, undoes it. What fails also refuses a switch.
pub fn provoke(
    scenario: &Scenario,
    expected: &Expected,
    make: impl FnOnce(&Scenario) -> Result<()>,
    mend: impl FnOnce(&Scenario) -> Result<()>,
) -> Result<()> {
    make(scenario).with_context(|| format!("making the fault for {}", expected.name))?;
    let seen = look(scenario, expected, &[]);
    mend(scenario).with_context(|| format!("mending the fault for {}", expected.name))?;
    seen
}

/// Asks preflight, with these arguments besides, until it says so or some seconds have passed: agents take a moment.
pub fn look(scenario: &Scenario, expected: &Expected, more: &[&str]) -> Result<()> {
    let mut last = String::new();
    for _ in 0..12 {
        match said(scenario, expected, more) {
            Ok(()) => return Ok(()),
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(400));
    }
    bail!("{}: {last}", expected.name)
}

fn said(scenario: &Scenario, expected: &Expected, more: &[&str]) -> Result<()> {
    let mut args = vec!["preflight", "--output", "json"];
    args.extend(more);
    let done = scenario.nodectl(1, &args)?;
    let checks = done.json()?["checks"].as_array().cloned().unwrap_or_default();
    let matching = |c: &&Value| c["name"] == expected.name && c["verdict"] == expected.verdict;
    let found: Vec<&Value> = checks.iter().filter(matching).collect();
    let with_cause = found.iter().find(|c| c["found"].as_str().is_some_and(|text| text.contains(expected.cause)));
    let Some(check) = with_cause else {
        let all: Vec<&Value> = checks.iter().filter(|c| c["name"] == expected.name || c["verdict"] == "fail").collect();
        bail!("no {} that says {:?}: {}", expected.verdict, expected.cause, json!(all));
    };
    let mends = !check["fix"].as_str().unwrap_or_default().is_empty();
    ensure!(mends || expected.verdict == "pass", "it does not say how to mend it: {check}");
    if expected.verdict == "fail" {
        ensure!(done.code == 3, "exit {}", done.code);
        args.retain(|arg| !["--output", "json"].contains(arg));
        let text = scenario.nodectl(1, &args)?.expect(3)?;
        // Lines are wrapped: the first words of the cause are on the line that names the check.
        ensure!(text.stdout.contains(expected.name) && text.stdout.contains("To fix it:"), "{}", text.all());
    }
    Ok(())
}

/// Merges into the Node's metadata or spec, as the administrator.
pub fn patch_node(scenario: &Scenario, change: &Value) -> Result<()> {
    scenario.client.patch(NODE, nodectl_lab::client::Patch::Merge, change)?;
    Ok(())
}

/// Sets annotations of the Node.
pub fn annotate(scenario: &Scenario, annotations: &Value) -> Result<()> {
    patch_node(scenario, &json!({"metadata": {"annotations": annotations}}))
}

/// The Node's annotation.
pub fn annotation(scenario: &Scenario, name: &str) -> Result<String> {
    let node = scenario.node_object(1)?;
    Ok(node["metadata"]["annotations"][name].as_str().with_context(|| format!("no annotation {name}"))?.to_owned())
}
