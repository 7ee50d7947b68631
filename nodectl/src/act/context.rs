//! What the steps of one run share: the machine, the run's folders, the API server, the journal for debts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use cni_store::backends::Backends;
use serde_json::Value;

use super::api::Api;
use super::continuity::Watch;
use crate::events::{self, Event};
use crate::host::cri::Cri;
use crate::host::{Host, files};
use crate::journal::{Debt, Journal, Record};
use crate::observe;
use crate::plan::{Plan, SHIM_CONFLIST};
use crate::stop::Stop;

/// Folders of one run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The run's id.
    pub id: String,
    /// Backups of files and binaries.
    pub backup: PathBuf,
}

/// What the steps of one run share.
pub struct Context<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The run's folders.
    pub run: RunFolder,
    /// The API server, with the node's own identity.
    pub api: Api,
    /// What may end the run early.
    pub stop: &'a Stop,
    /// The plan that is carried out.
    pub plan: &'a Plan,
    /// What the baseline measured, once it has.
    pub baseline: Value,
    /// The journal.
    pub journal: Journal,
    /// The step that is being done or undone, as an index into the plan.
    pub at: usize,
    /// What the step has found or measured so far, should it fail.
    pub found: Value,
    /// What watches the pods that are re-plumbed, while they are.
    pub continuity: Option<Watch>,
    cri: Option<Cri>,
}

impl<'a> Context<'a> {
    /// A run's context.
    pub fn new(host: &'a Host, run: RunFolder, api: Api, stop: &'a Stop, plan: &'a Plan, journal: Journal) -> Self {
        Context {
            host,
            run,
            api,
            stop,
            plan,
            baseline: Value::Null,
            journal,
            at: 0,
            found: Value::Null,
            continuity: None,
            cri: None,
        }
    }

    /// The container runtime; connected at first use, and anew after it was restarted.
    pub fn cri(&mut self) -> Result<&Cri> {
        if self.cri.is_none() {
            self.cri = Some(Cri::detect(self.host)?);
        }
        self.cri.as_ref().ok_or_else(|| anyhow::anyhow!("the container runtime is not connected"))
    }

    /// The shim's files.
    pub fn shim(&self) -> cni_store::Paths {
        cni_store::Paths::under(self.host.root())
    }

    /// The shim's network, if its conflist is there, and the two conflists behind it.
    pub fn backends(&self) -> Backends {
        let own = Path::new(&self.plan.conf_dir).join(SHIM_CONFLIST);
        let own = files::read_optional(&self.host.path(own)).ok().flatten();
        let own: Value = serde_json::from_slice(&own.unwrap_or_default()).unwrap_or_default();
        Backends { network: observe::network_name(&own), ..self.conflists() }
    }

    /// The two conflists, as the node names them, without the shim's network.
    pub fn conflists(&self) -> Backends {
        let dir = Path::new(&self.plan.conf_dir);
        Backends {
            network: String::new(),
            flannel: dir.join(&self.plan.prepared.flannel.conflist),
            calico: dir.join(&self.plan.prepared.calico.conflist),
        }
    }

    /// The CNI binary directory.
    pub fn bin_dir(&self) -> PathBuf {
        self.host.path(&self.plan.bin_dir)
    }

    /// Says which pod the step works on, for `systemctl status`.
    pub fn working_on(&self, pod: &str) {
        if let Some(step) = self.plan.steps.get(self.at) {
            events::doing(self.at + 1, self.plan.steps.len(), &format!("{}: {pod}", step.title()));
        }
    }

    /// Notes in the system's journal what was done to a pod, and says it in `systemctl status`.
    pub fn did(&self, what: &str, pod: &str) {
        self.working_on(pod);
        let step = self.plan.steps.get(self.at).map_or("", crate::step::Step::name);
        let fields = [("NODECTL_STEP", step), ("NODECTL_POD", pod)];
        events::tell(Event::Pod, &self.run.id, &format!("{pod}: {what}"), &fields);
    }

    /// Something was done directly that an earlier try had to leave owed.
    pub fn no_longer_owed(&mut self, done: &Debt) -> Result<()> {
        if self.journal.log()?.debts().iter().any(|d| d.concerns_the_same(done)) {
            self.journal.append(&Record::Paid { debt: done.clone() })?;
        }
        Ok(())
    }

    /// Notes that something must be done that cannot be done now, mostly for want of the API server.
    pub fn owe(&mut self, debt: Debt) -> Result<()> {
        tracing::warn!("owed for now: {}", debt.describe());
        self.journal.append(&Record::Owed { debt })
    }
}
