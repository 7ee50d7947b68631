//! A crowded node that is disturbed again and again, and what must hold after each time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nodectl_lab::cluster::until;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, Done, PATIENCE, Scenario};
use nodectl_lab::snapshot::Snapshot;

/// Two nodes; the first is disturbed. Before each round it is on flannel, without the shim.
pub struct Bench {
    /// The cluster.
    pub s: Scenario,
    foreign: Snapshot,
    on_flannel: Snapshot,
    on_calico: Snapshot,
    failures: Vec<String>,
}

/// nodectl's exit code while another one works on the node.
const BUSY: i32 = 75;

/// `nodectl revert --yes`.
pub fn revert() -> Vec<&'static str> {
    vec!["revert", "--yes"]
}

/// How many of a switch's fault points it passes before its run is open: up to the renaming of the file that names it, which
/// is the first after the journal's first record.
pub fn before_open(points: &[String]) -> Result<usize> {
    let appended = points.iter().position(|point| point == "journal.appended").context("there is no journal")?;
    let renamed = points[appended..].iter().position(|point| point == "files.write.rename");
    Ok(appended + renamed.context("no run was opened")? + 1)
}

impl Bench {
    /// The bench, and the fault points of a switch from this start.
    pub fn start() -> Result<(Bench, Vec<String>)> {
        let mut pods = workloads::web(2);
        pods.push(workloads::daemon("stays"));
        let s = Scenario::start(2, &pods, |options| {
            options.boot_units();
            options.files.push(("/etc/kubernetes/manifests/fixed.yaml".into(), workloads::static_pod("fixed")));
        })?;
        s.prepare()?;
        s.crowd(1)?;
        let none = Snapshot::default();
        let mut bench =
            Bench { foreign: s.foreign(1)?, s, on_flannel: none.clone(), on_calico: none, failures: Vec::new() };
        // Makes nodectl's folders, which only the first run would.
        bench.s.nodectl(1, &["resume", "--yes"])?.expect(0)?;
        let points = bench.s.fault_points(1, |env| bench.s.migrate_with(1, Cni::Calico, env))?;
        bench.must_be(Cni::Calico)?;
        bench.on_calico = bench.s.state(1)?;
        bench.s.nodectl(1, &revert())?.expect(0)?;
        bench.must_be(Cni::Flannel)?;
        bench.s.retire_shim(1)?;
        bench.on_flannel = bench.s.state(1)?;
        Ok((bench, points))
    }

    /// One disturbance and its end. After one that went wrong the others go on, in a new cluster.
    pub fn round(&mut self, what: &str, disturb: impl FnOnce(&Bench) -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let outcome = disturb(self);
        println!("{what}: {:.1} s", started.elapsed().as_secs_f32());
        if let Err(error) = outcome {
            let troubles = self.troubles().unwrap_or_else(|error| format!("{error:#}"));
            let failure = format!("{what}: {error:#}\nwhat failed or turned back, of the last run: {troubles}");
            println!("FAILED at {failure}");
            self.failures.push(failure);
            let failures = std::mem::take(&mut self.failures);
            (*self, _) = Bench::start()?;
            self.failures = failures;
        }
        Ok(())
    }

    /// What the last journal says of trouble: of a process that was killed nothing else is left to be read.
    fn troubles(&self) -> Result<String> {
        let last = "cat \"$(ls -t /var/lib/nodectl/journal/*.jsonl | head -n 1)\"";
        self.s.node(1)?.sh(&format!(r#"{last} | grep -E '^."record":"(failed|reverting|owed|attach)"' || true"#))
    }

    /// An error with all that went wrong.
    pub fn verdict(&self) -> Result<()> {
        if !self.failures.is_empty() {
            bail!("{} rounds went wrong:\n{}", self.failures.len(), self.failures.join("\n"));
        }
        Ok(())
    }

    /// True while a run is open on the node.
    pub fn is_open(&self) -> Result<bool> {
        self.s.is_open(1)
    }

    /// The open run has written its last record: only its open file is left.
    pub fn has_ended(&self) -> Result<bool> {
        self.s.has_ended(1)
    }

    /// A run that was killed before it was open has changed nothing, and the next nodectl removes what it had begun to write. One
    /// that was killed when it was not open any more has come to its end.
    pub fn nothing_is_open(&self) -> Result<()> {
        let done = self.s.nodectl(1, &["resume", "--yes"])?.expect(0)?;
        if !done.stdout.contains("Nothing to resume") {
            bail!("it is said to be open: {}", done.all());
        }
        if self.s.node_object(1)?["metadata"]["labels"]["nodectl.io/cni"] == Cni::Calico.name() {
            self.must_be(Cni::Calico)?;
            return self.back_to_the_start();
        }
        self.must_be_as_before()
    }

    /// `resume` finishes the killed run.
    pub fn resume_to_calico(&self) -> Result<()> {
        if !self.is_open()? {
            return self.nothing_is_open();
        }
        self.s.nodectl(1, &["resume", "--yes"])?.expect(0)?;
        self.must_be(Cni::Calico)?;
        let changed = self.on_calico.diff(&self.s.state(1)?);
        if !changed.is_empty() {
            bail!("a switch that was resumed ends elsewhere than one that was not disturbed:\n{}", changed.join("\n"));
        }
        self.back_to_the_start()
    }

    /// `revert` takes the killed run back, to the last object; one that was killed after its last record is a closed one,
    /// and the shim stays then.
    pub fn revert_to_flannel(&self) -> Result<()> {
        if !self.is_open()? {
            return self.nothing_is_open();
        }
        let last = self.s.node(1)?.sh("tail -n 1 /var/lib/nodectl/journal/$(cat /var/lib/nodectl/open).jsonl")?;
        self.s.nodectl(1, &revert())?.expect(0)?;
        if last.contains("\"record\":\"close\"") {
            self.must_be(Cni::Flannel)?;
            return self.s.retire_shim(1);
        }
        self.must_be_as_before()
    }

    /// The node is as it was before the run.
    pub fn must_be_as_before(&self) -> Result<()> {
        self.must_be(Cni::Flannel)?;
        let changed = self.on_flannel.diff(&self.s.state(1)?);
        if !changed.is_empty() {
            bail!("the node is not as it was before the run:\n{}", changed.join("\n"));
        }
        Ok(())
    }

    /// On this CNI, pods Ready, nothing left over, and nothing of others' changed.
    pub fn must_be(&self, cni: Cni) -> Result<()> {
        self.s.must_be_on(1, cni)?;
        self.s.settled().with_context(|| format!("pods after the node came to {}", cni.name()))?;
        until(PATIENCE, || {
            let strays = self.s.strays(1)?;
            Ok((!strays.is_empty()).then(|| strays.join("; ")))
        })?;
        let changed = self.foreign.diff(&self.s.foreign(1)?);
        if !changed.is_empty() {
            bail!("what is others' has changed:\n{}", changed.join("\n"));
        }
        Ok(())
    }

    /// Wherever the node is, it goes back to flannel and loses the shim.
    pub fn back_to_the_start(&self) -> Result<()> {
        let done = self.s.nodectl(1, &["migrate", "--to", "flannel", "--yes"])?.expect(0)?;
        self.must_be(Cni::Flannel).with_context(|| done.all())?;
        self.s.retire_shim(1)
    }

    /// A switch during which the API server begins to refuse everything as a step begins; it is taken back and owes.
    pub fn owes_at(&self, step: &str) -> Result<Done> {
        let mut run = self.s.drive(1, &Scenario::switch_args("calico", &[]))?;
        if !run.until("step", step)? {
            bail!("the run ended before {step}: {}", run.finish()?.all());
        }
        self.s.cluster.api()?.control("refuse")?;
        let done = run.finish()?;
        if done.code == 0 {
            // Too late: the step's one request had been answered. Once more.
            self.s.cluster.api()?.control("ok")?;
            self.back_to_the_start()?;
            return self.owes_at(step);
        }
        let done = done.expect(5)?;
        for debt in ["to flannel", "start kubelet.service", "see flannel serving again", "uncordon the node"] {
            let wanted = format!("{debt};");
            if !done.stderr.replace(" (", ";").replace(". Report", ";").contains(&wanted) {
                bail!("it does not name {debt:?}: {}", done.all());
            }
        }
        Ok(done)
    }

    /// Waits until all is well with flannel, but for the run, which is open still.
    pub fn only_the_run_is_open(&self) -> Result<()> {
        until(PATIENCE, || {
            let faults = self.s.faults(1, Cni::Flannel)?;
            Ok((faults != ["a run is open"]).then(|| faults.join("; ")))
        })
    }

    /// A power cut, and the crowd that comes with the next boot.
    pub fn reboot(&self) -> Result<()> {
        let node = self.s.node(1)?;
        node.power_cut()?;
        node.start()?;
        self.s.crowd(1)
    }

    /// `nodectl resume`, when the units' own nodectl is out of its way.
    pub fn resume_once_free(&self) -> Result<Done> {
        let end = Instant::now() + PATIENCE;
        loop {
            let done = self.s.nodectl(1, &["resume", "--yes"])?;
            if done.code != BUSY || Instant::now() >= end {
                return Ok(done);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The boot-time units settle what is open; a run that had not come to enable them yet is taken back by hand.
    pub fn settles_by_itself(&self) -> Result<()> {
        if !self.is_open()? {
            // Nobody has anything to settle; whoever comes next removes what was begun to be written.
            self.resume_once_free()?.expect(0)?;
        }
        let end = Instant::now() + Duration::from_secs(90);
        while self.is_open()? {
            let enabled = self.s.node(1)?.unit_state("nodectl-settle.service")?.file == "enabled";
            if !enabled {
                // On its way back the unit disables itself and still works: then nodectl is busy.
                let done = self.s.nodectl(1, &["resume", "--yes"])?;
                if done.code != BUSY {
                    done.expect(0)?;
                }
            }
            if Instant::now() >= end {
                let log = self.s.node(1)?.sh("tail -n 40 /var/log/*settle* /var/log/*boot* 2>/dev/null || true")?;
                bail!("the run is still open 90 s after the boot: {log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let cni = self.s.comes_to_one_of_both(1, PATIENCE)?;
        self.must_be(cni)
    }
}
