//! The API server in trouble at each step of a switch: slow, refusing, resetting, losing answers, failing, frozen, dead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cni_store::pending::Pending;
use cni_store::record::Record;
use cni_store::state::Backend;
use nix::sys::signal::Signal;
use nodectl_lab::scenario::{Cni, Done, Scenario, full, sample};

/// How the API server is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// A command of the fault injection, kept up until nodectl has ended.
    Lasting(&'static str),
    /// One that ends by itself after some requests: nodectl must bear it.
    Passing(&'static str),
    /// The process is stopped: connections are taken, nothing is answered.
    Frozen,
    /// The process is killed: connections are refused.
    Killed,
}

use Trouble::{Frozen, Killed, Lasting, Passing};

const TROUBLES: [Trouble; 9] = [
    Lasting("slow 150"),
    Passing("slow 2000 times=4"),
    Lasting("refuse"),
    Lasting("reset"),
    Passing("lose times=3"),
    // An internal error is not asked again (a broken webhook lasts): the run is taken back.
    Lasting("500 times=6"),
    Lasting("500"),
    Frozen,
    Killed,
];

struct Lab {
    scenario: Scenario,
}

impl Lab {
    fn start() -> Result<Lab> {
        let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {})?;
        scenario.prepare()?;
        Ok(Lab { scenario })
    }

    fn begin(&self, trouble: Trouble) -> Result<()> {
        let api = self.scenario.cluster.api()?;
        match trouble {
            Lasting(command) | Passing(command) => api.control(command).map(drop),
            Frozen => api.freeze(),
            Killed => {
                api.kill();
                Ok(())
            }
        }
    }

    fn end(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Lasting(_) | Passing(_) => self.scenario.cluster.api()?.control("ok").map(drop)?,
            Frozen => self.scenario.cluster.api()?.thaw()?,
            Killed => self.scenario.restart_api()?,
        }
        Ok(())
    }

    /// Trouble from the moment at which a step begins; whatever becomes of the run, it settles once the trouble is over.
    fn trouble_at(&mut self, trouble: Trouble, step: &str) -> Result<()> {
        self.scenario.spread_pods()?;
        // A node that was switched before keeps the shim, so its plan lacks the steps that install it.
        let planned = self.scenario.steps(1, "calico")?;
        let step = if planned.iter().any(|s| s == step) { step } else { "cordon" };
        let begun = Instant::now();
        let mut run = self.scenario.drive(1, &Scenario::switch_args("calico", &[]))?;
        if !run.until("step", step)? {
            bail!("the run ended before {step}: {}", run.finish()?.all());
        }
        self.begin(trouble)?;
        let done = run.finish()?;
        // Not settled yet, but what is owed is all that may be missing.
        let faults = if done.code == 5 { self.scenario.faults_without_api(1) } else { Ok(Vec::new()) };
        self.end(trouble)?;
        let faults = faults?;
        ensure!(faults.is_empty(), "before the server is back: {}\n{}", faults.join("; "), done.all());
        let cni = self.settle(&done)?;
        println!(
            "{trouble:?} at {step}: exit {}, then {}, {:.1} s",
            done.code,
            cni.name(),
            begun.elapsed().as_secs_f32()
        );
        if matches!(trouble, Passing(_)) && done.code != 0 {
            bail!("a trouble that passes ended the run: {}", done.all());
        }
        self.back_to_flannel(cni)
    }

    /// Sees to it that nodectl's end is one of those that are promised, and settles what is owed; the CNI it is on then.
    fn settle(&self, done: &Done) -> Result<Cni> {
        let cni = match done.code {
            0 => Cni::Calico,
            4 => Cni::Flannel,
            5 => {
                let resumed = self.scenario.nodectl(1, &["resume", "--yes"])?.expect(0);
                resumed.with_context(|| format!("after {}", done.all()))?;
                Cni::Flannel
            }
            _ => bail!("an end that is not promised: {}", done.all()),
        };
        self.scenario.must_be_settled(1, cni).with_context(|| done.all())?;
        Ok(cni)
    }

    fn back_to_flannel(&self, cni: Cni) -> Result<()> {
        if cni == Cni::Calico {
            self.scenario.nodectl(1, &["revert", "--yes"])?.expect(0)?;
            self.scenario.must_be_settled(1, Cni::Flannel)?;
        }
        Ok(())
    }

    /// What is wrong on the node while the server is away still; where felix had run, kubelet must not bring it back.
    fn still_down(&self, step: &str) -> Result<Vec<String>> {
        let mut faults = self.scenario.faults_without_api(1)?;
        if ["probe", "await-pods", "clean"].contains(&step) {
            let kubelet = self.scenario.node(1)?.unit_state("kubelet.service")?.active;
            if kubelet != "inactive" {
                faults.push(format!("kubelet is {kubelet}"));
            }
        }
        if step == "await-pods" {
            // Asked again too early: it owes as before, and changes nothing.
            self.scenario.nodectl(1, &["resume", "--yes"])?.expect(5)?;
            faults.extend(self.scenario.faults_without_api(1)?);
        }
        Ok(faults)
    }

    /// A run that stands open at a step, by a kill or by `--on-stop resume`; then the server dies, and revert must do without.
    fn revert_without_api(&mut self, trouble: Trouble, step: &str, killed: bool) -> Result<()> {
        self.scenario.spread_pods()?;
        let begun = Instant::now();
        let more: &[&str] = if killed { &["--no-auto-revert"] } else { &["--on-stop", "resume"] };
        let mut run = self.scenario.drive(1, &Scenario::switch_args("calico", more))?;
        if !run.until("step", step)? {
            bail!("the run ended before {step}: {}", run.finish()?.all());
        }
        let ended = if killed {
            run.kill()?
        } else {
            run.signal(Signal::SIGTERM)?;
            run.finish()?.expect(5)?
        };
        self.begin(trouble)?;
        let done = self.scenario.nodectl(1, &["revert", "--yes"]);
        let faults = self.still_down(step);
        self.end(trouble)?;
        let (done, faults) = (done?, faults?);
        if !faults.is_empty() {
            bail!(
                "with the API server dead, the node is not on flannel: {}\n{}\n{}",
                faults.join("; "),
                done.all(),
                ended.all()
            );
        }
        match done.code {
            5 => drop(
                self.scenario
                    .nodectl(1, &["resume", "--yes"])?
                    .expect(0)
                    .with_context(|| format!("after {}", done.all()))?,
            ),
            0 => {}
            _ => bail!("an end that is not promised: {}", done.all()),
        }
        self.scenario.must_be_settled(1, Cni::Flannel).with_context(|| done.all())?;
        println!("revert at {step} ({trouble:?}): exit {}, settled, {:.1} s", done.code, begun.elapsed().as_secs_f32());
        Ok(())
    }
}

/// Steps at which the way back meets what is hardest: an agent half gone, felix alive, pods on the new CNI, flannel cleaned away.
const HARD: [&str; 6] = ["stop-agent", "start-agent", "probe", "await-pods", "clean", "disable-boot-units"];

/// The same on the way from Calico to flannel.
const HARD_BACK: [&str; 4] = ["stop-agent", "await-pods", "clean", "disable-boot-units"];

#[test]
fn trouble_at_every_step_ends_on_one_cni_or_the_other() {
    let mut lab = Lab::start().unwrap();
    let steps = lab.scenario.steps(1, "calico").unwrap();
    let cases: Vec<(Trouble, String)> = TROUBLES
        .iter()
        .zip(0u64..)
        .flat_map(|(trouble, salt)| sample(&steps, 1, salt).into_iter().map(|step| (*trouble, step)))
        .collect();
    // Each kind of trouble at a step of its own takes minutes; by default some kinds do.
    for (trouble, step) in chosen(sample(&cases, 4, 18)) {
        lab.trouble_at(trouble, &step).with_context(|| format!("{trouble:?} at {step}")).unwrap();
    }
}

/// It meets the plugin, when nodectl's own attachment is made.
#[test]
fn answers_that_are_lost_to_the_probe_take_nothing_back() {
    let mut lab = Lab::start().unwrap();
    lab.trouble_at(Passing("lose times=3"), "probe").unwrap();
}

#[test]
fn revert_does_without_the_api_server_at_every_step() {
    let mut lab = Lab::start().unwrap();
    let steps = lab.scenario.steps(1, "calico").unwrap();
    let wanted: Vec<String> =
        if full() { steps } else { steps.into_iter().filter(|step| HARD.contains(&step.as_str())).collect() };
    let wanted = chosen(wanted.into_iter().map(|step| (Killed, step)).collect());
    for (at, (_, step)) in wanted.iter().enumerate() {
        let trouble = if at % 5 == 2 { Frozen } else { Killed };
        // A signal during the last step comes too late to stop anything.
        let killed = at % 2 == 0 || step == "disable-boot-units";
        lab.revert_without_api(trouble, step, killed).with_context(|| format!("{trouble:?} at {step}")).unwrap();
    }
}

/// All cases, or those whose step `TROUBLE_AT` names and whose kind begins as `TROUBLE` says (`Lasting("500`), for whoever looks
/// into one.
fn chosen(cases: Vec<(Trouble, String)>) -> Vec<(Trouble, String)> {
    let (step, kind) = (std::env::var("TROUBLE_AT").ok(), std::env::var("TROUBLE").unwrap_or_default());
    let is_wanted = |trouble: &Trouble, at: &String| {
        step.as_ref().is_none_or(|step| step == at) && format!("{trouble:?}").starts_with(&kind)
    };
    cases.into_iter().filter(|(trouble, at)| is_wanted(trouble, at)).collect()
}

/// On the way from Calico to flannel: the node is Calico's again as soon as the server is back.
#[test]
fn revert_on_the_way_to_flannel_does_without_the_api_server() {
    let mut lab = Lab::start().unwrap();
    lab.scenario.migrate(1, Cni::Calico).unwrap();
    let steps = lab.scenario.steps(1, "flannel").unwrap();
    let paths = cni_store::Paths::under(lab.scenario.node(1).unwrap().path("/").unwrap());
    let wanted: Vec<String> =
        if full() { steps } else { steps.into_iter().filter(|s| HARD_BACK.contains(&s.as_str())).collect() };
    for (_, step) in chosen(wanted.into_iter().map(|step| (Killed, step)).collect()) {
        lab.scenario.spread_pods().unwrap();
        let pod = Record::list(&paths).unwrap().0.into_iter().find(|r| r.backend == Backend::Calico).unwrap();
        let mut run = lab.scenario.drive(1, &Scenario::switch_args("flannel", &["--no-auto-revert"])).unwrap();
        assert!(run.until("step", &step).unwrap());
        run.kill().unwrap();
        if HARD_BACK.contains(&step.as_str()) {
            // A DEL that kubelet had asked for when the server was away already, of a pod that is gone by now.
            let gone = cni_spec::Error::new(11, "the API server does not answer", "");
            Pending::note(&paths, &pod.container_id, &pod.ifname, Some(&pod), &gone).unwrap();
        }
        lab.begin(Killed).unwrap();
        let done = lab.scenario.nodectl(1, &["revert", "--yes"]);
        lab.end(Killed).unwrap();
        let done = done.unwrap();
        assert!([0, 5].contains(&done.code), "{step}: {}", done.all());
        if done.code == 5 {
            lab.scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).with_context(|| done.all()).unwrap();
        }
        lab.scenario.must_be_settled(1, Cni::Calico).with_context(|| format!("{step}: {}", done.all())).unwrap();
        println!("revert at {step} on the way to flannel: exit {}, settled", done.code);
    }
}

/// A frozen server is noticed within the time that a request may take, not after an age.
#[test]
fn a_frozen_server_does_not_hang_what_only_looks() {
    let lab = Lab::start().unwrap();
    lab.begin(Frozen).unwrap();
    let begun = Instant::now();
    let status = lab.scenario.nodectl(1, &["status"]);
    let preflight = lab.scenario.nodectl(1, &["preflight"]);
    let spent = begun.elapsed();
    lab.scenario.cluster.api().unwrap().thaw().unwrap();
    status.unwrap().expect(0).unwrap();
    let preflight = preflight.unwrap().expect(3).unwrap();
    assert!(preflight.stdout.contains("To fix it:") && preflight.stdout.contains("api"), "{}", preflight.all());
    assert!(spent < Duration::from_secs(60), "{spent:?}");
}
