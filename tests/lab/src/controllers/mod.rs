//! The controllers that a cluster cannot do without: workloads, scheduling, budgets, node lifecycle, garbage.
//!
//! Each is one function that looks at everything and corrects what is wrong; they run after every change, one after the other.

mod access;
mod calico_gc;
mod daemon_sets;
mod disruption;
mod endpoints;
mod garbage;
mod node_lifecycle;
mod placement;
mod pods;
mod replica_sets;
mod scheduler;
mod service_accounts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use crate::apiserver::api::Api;
use crate::apiserver::{ControllerOptions, Regime};
use crate::client::Client;

use access::Access;
use calico_gc::CalicoGc;

/// The running controllers.
pub struct Controllers {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    options: ControllerOptions,
    stopped: AtomicBool,
    calico: Mutex<CalicoGc>,
}

impl Controllers {
    /// Starts them on the store of this process.
    pub fn start(api: Arc<Api>, options: &ControllerOptions) -> anyhow::Result<Self> {
        Self::run(Access::Local(api), options)
    }

    /// Starts them against another API server, which has no controllers of its own.
    pub fn start_remote(client: Client, options: &ControllerOptions) -> anyhow::Result<Self> {
        let version = client.get("/version").context("the API server does not say its version")?;
        // Some distributions say "20+".
        let minor: String =
            version["minor"].as_str().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        let minor = minor.parse().with_context(|| format!("the API server's version is none: {version}"))?;
        Self::run(Access::Remote(client, Regime::of_minor(minor)), options)
    }

    fn run(access: Access, options: &ControllerOptions) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            access,
            options: options.clone(),
            stopped: AtomicBool::new(false),
            calico: Mutex::new(CalicoGc::new(options.ipam_gc_grace_ms)),
        });
        let running = shared.clone();
        std::thread::Builder::new().name("controllers".into()).spawn(move || running.work())?;
        Ok(Self { shared })
    }

    /// Runs Calico's IPAM garbage collector now.
    pub fn collect_garbage(&self) {
        self.shared.collect_ipam();
    }

    /// Stops them.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Rounds: after every change once things have settled, and every second for what only time changes.
    fn work(&self) {
        let mut seen = None;
        let mut last = Instant::now();
        let mut last_ipam = Instant::now();
        while !self.stopped.load(Ordering::Relaxed) {
            let newest = self.access.revision();
            if newest.is_some() && (newest != seen || last.elapsed() >= Duration::from_secs(1)) {
                if newest != seen {
                    std::thread::sleep(self.options.settle_ms);
                }
                seen = self.access.revision();
                self.round();
                last = Instant::now();
            }
            if last_ipam.elapsed() >= self.options.ipam_gc_period_ms {
                self.collect_ipam();
                last_ipam = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn round(&self) {
        let access = &self.access;
        for outcome in [
            node_lifecycle::run(access, &self.options),
            replica_sets::run(access),
            daemon_sets::run(access),
            scheduler::run(access),
            disruption::run(access),
            endpoints::run(access),
            service_accounts::run(access),
            garbage::run(access),
        ] {
            // What one could not see it looks at in the next round.
            if let Err(error) = outcome
                && !self.stopped.load(Ordering::Relaxed)
            {
                eprintln!("controllers: {error}");
            }
        }
    }

    fn collect_ipam(&self) {
        if let Err(error) = self.calico.lock().unwrap_or_else(PoisonError::into_inner).run(&self.access) {
            eprintln!("controllers: Calico's garbage collector: {error}");
        }
    }
}

/// `nodectl-lab controllers`
#[derive(Debug, clap::Parser)]
#[command(name = "controllers")]
struct Arguments {
    /// The kubeconfig of an administrator
    #[arg(long)]
    kubeconfig: PathBuf,
    #[command(flatten)]
    options: ControllerOptions,
}

/// `nodectl-lab controllers`: serves an API server that has no controllers, until killed.
pub fn main(args: &[String]) -> anyhow::Result<ExitCode> {
    let name = "controllers".to_string();
    let arguments = match Arguments::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(if error.use_stderr() { 64 } else { 0 }));
        }
    };
    let client = Client::from_kubeconfig(&arguments.kubeconfig)?;
    let _running = Controllers::start_remote(client, &arguments.options)?;
    loop {
        std::thread::park();
    }
}
