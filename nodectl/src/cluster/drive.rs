//! The loop of a command that writes: observe, decide, execute, and again, until nothing is left to be done. What is
//! reported as done was read back from the server; what others have to do meanwhile is waited for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;

use super::backup;
use super::change::Change;
use super::check::Check;
use super::decision::Decision;
use super::execute::{Outcome, execute};
use super::facts::ClusterFacts;
use super::fleet::FleetNode;
use super::object::ObjectRef;
use super::observe::{Scope, observe, pod_addresses6};
use super::request::{Now, Request};
use crate::failure::Failure;
use crate::host::kube::Kube;

/// How often the same write may have to be done until somebody else is taken to undo it.
const REPEATS: usize = 3;
/// How often in a row the cluster may change under our hands.
const STALE: usize = 10;
/// Pause between two looks at the cluster.
const PAUSE: Duration = Duration::from_secs(2);

/// A command that writes.
pub struct Drive<'a> {
    /// The cluster.
    pub kube: &'a Kube,
    /// Its name.
    pub command: &'static str,
    /// What it has to see.
    pub scope: Scope,
    /// What it decides.
    pub decide: fn(&ClusterFacts, &Request) -> Decision,
    /// Where objects are saved before they are changed.
    pub backup_dir: &'a Path,
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for others.
    pub wait: Duration,
    /// How many writes at the same time.
    pub parallel: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Run {
    /// The command.
    pub command: &'static str,
    /// Nothing was written.
    pub dry_run: bool,
    /// A check refused.
    pub refused: bool,
    /// The checks, as they were last.
    pub checks: Vec<Check>,
    /// The writes that were done; those that would be done in a dry run.
    pub changes: Vec<Change>,
    /// What still has to happen by itself.
    pub pending: Vec<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// What it came to for every node, in a dry run.
    pub fleet: Vec<FleetNode>,
    /// Files with the objects as they were.
    pub backups: Vec<PathBuf>,
}

impl Drive<'_> {
    /// Runs the command.
    pub fn run(&self, request: Request) -> Result<Run> {
        let mut run = Run { command: self.command, dry_run: self.dry_run, ..Run::default() };
        match self.rounds(request, &mut run) {
            Ok(()) => Ok(run),
            Err(error) if run.changes.is_empty() => Err(error),
            Err(error) => Err(Failure::NeedsHands(format!(
                "{error:#}. {} writes were done before that and stay; running `nodectl cluster {}` again goes on from there",
                run.changes.len(),
                self.command
            ))
            .into()),
        }
    }

    fn rounds(&self, mut request: Request, run: &mut Run) -> Result<()> {
        let until = Instant::now() + self.wait;
        let mut stale = 0;
        let mut addresses = None;
        loop {
            request.now = now();
            let mut facts = observe(self.kube, self.scope, &request)?;
            if self.scope == Scope::PodAddresses {
                // Once for a run: it is a long read, and with each new pod there might be more to write.
                let known = addresses.take().map_or_else(|| pod_addresses6(self.kube, &facts, &request), Ok)?;
                facts.pod_addresses6.clone_from(&known);
                addresses = Some(known);
            }
            let decision = (self.decide)(&facts, &request);
            run.take_over(&decision);
            if self.dry_run {
                run.fleet.clone_from(&decision.fleet);
            }
            if run.refused {
                return Ok(());
            }
            if self.dry_run {
                run.changes = decision.changes;
                return Ok(());
            }
            let ready = decision.ready();
            if ready.is_empty() {
                if run.pending.is_empty() || Instant::now() >= until {
                    return Ok(());
                }
                tracing::info!(waiting_for = %run.pending.join("; "), "waiting");
                std::thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
                continue;
            }
            self.refuse_endless_repeats(run, ready)?;
            run.backups.push(backup::save(self.backup_dir, self.command, &request.now.rfc3339, ready)?);
            match execute(self.kube, ready, self.parallel, |change| run.changes.push(change.clone()))? {
                Outcome::Done => stale = 0,
                Outcome::Stale(object) if stale < STALE => {
                    stale += 1;
                    tracing::info!(%object, "it changed meanwhile; looking again");
                }
                Outcome::Stale(object) => bail!("{object} changes faster than it can be written: see who writes it"),
            }
        }
    }

    /// Somebody who undoes what we write would keep us here for ever.
    fn refuse_endless_repeats(&self, run: &Run, ready: &[Change]) -> Result<()> {
        let mut written: HashMap<&ObjectRef, Vec<&Change>> = HashMap::new();
        run.changes.iter().for_each(|done| written.entry(&done.target).or_default().push(done));
        let repeated = ready.iter().find(|change| {
            let before = written.get(&change.target).into_iter().flatten();
            before.filter(|done| done.fields() == change.fields()).count() >= REPEATS
        });
        let Some(change) = repeated else { return Ok(()) };
        let fields: Vec<String> = change.fields().into_iter().map(|f| f.field).collect();
        bail!(
            "{} does not stay as it is written ({}): something else puts it back each time. To fix it: find out what \
             manages it (an operator, a GitOps tool, an admission webhook) and let it have the same value",
            change.target,
            fields.join(", ")
        );
    }
}

impl Run {
    fn take_over(&mut self, decision: &Decision) {
        self.refused = decision.is_refused();
        self.checks = decision.checks.clone();
        self.pending = decision.waits();
        for note in &decision.notes {
            if !self.notes.contains(note) {
                self.notes.push(note.clone());
            }
        }
    }
}

fn now() -> Now {
    let now = Timestamp::now();
    Now { rfc3339: format!("{now:.0}"), unix_ns: u64::try_from(now.as_nanosecond()).unwrap_or_default() }
}
