//! The stand-in for kube-apiserver: an object store behind the real one's HTTP interface, with its refusals. Or, where the
//! options name its folder, the real one in its place (`crate::kube_apiserver`).
//!
//! A request passes, in this order: [`serve`] (sockets, TLS, faults), [`handler`], [`authorize`], [`api`] with
//! admission in [`node_restriction`], and ends in the [`store`].

pub mod api;
pub mod authorize;
pub mod control;
pub mod delete;
mod discovery;
pub mod error;
mod eviction;
pub mod faults;
pub mod handler;
pub mod identity;
mod journal;
pub mod modify;
mod node_authorizer;
pub mod node_restriction;
pub mod options;
pub mod patch;
mod pod_strategy;
mod rbac;
pub mod request;
pub mod resources;
mod reviews;
pub mod selector;
pub mod serve;
pub mod store;
mod strategy;
mod subresources;
mod tls;
pub mod value;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};

use api::Api;
use control::Control;
use error::ApiResult;
use faults::Faults;
use handler::Handler;
use identity::{Tokens, User};
use serve::{Service, Socket};
use store::Store;
use tls::Tls;

use crate::client::Client;
use crate::controllers::Controllers;
use crate::kube_apiserver::KubeApiserver;
use crate::pki::Pki;

pub use eviction::selects as budget_selects;
pub use options::{ControllerOptions, Listen, Options, Regime};

/// A running server; it stops when dropped.
pub struct Server {
    /// Where it listens, in the order of the options.
    pub addresses: Vec<SocketAddr>,
    /// Whose refusals it gives.
    pub regime: Regime,
    /// What goes wrong.
    pub faults: Faults,
    /// Commands as on the control socket.
    pub control: Control,
    /// Its certificates.
    pub pki: Pki,
    /// The stand-in's.
    runtime: Option<tokio::runtime::Runtime>,
    /// The one in its place.
    real: Option<KubeApiserver>,
}

impl Server {
    /// Starts a server inside this process, or a real one that ends with it. It answers when this returns.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let pki = Pki::open_or_create(&options.pki)?;
        let mut server = match &options.assets {
            None => Self::stand_in(options, pki)?,
            Some(assets) => Self::real(options, assets, pki)?,
        };
        if !options.no_controllers {
            let controllers = match &server.control.api {
                Some(api) => Controllers::start(api.clone(), &options.controllers)?,
                None => {
                    // The others may be in network namespaces that this process is not in.
                    let here = options.listen.iter().position(|place| place.netns.is_none());
                    let here = here.and_then(|index| server.addresses.get(index));
                    let address =
                        here.context("the controllers reach no address. To fix it: listen on a loopback too")?;
                    let kubeconfig = server.pki.admin_kubeconfig(&format!("https://{address}"))?;
                    Controllers::start_remote(Client::from_text(&kubeconfig)?, &options.controllers)?
                }
            };
            server.control.controllers = Some(Arc::new(controllers));
        }
        if let Some(path) = &options.control {
            server.control.clone().listen(path)?;
        }
        Ok(server)
    }

    fn stand_in(options: &Options, pki: Pki) -> anyhow::Result<Self> {
        let api = Arc::new(Api {
            store: Store::open(options.state.as_deref())?,
            regime: options.regime,
            tokens: Tokens::new(&pki.token_secret()?),
        });
        bootstrap(&api).context("creating the objects that every cluster has")?;
        let faults = Faults::default();
        let handler = Handler { api: api.clone(), faults: faults.clone() };
        let service = Arc::new(Service { handler, tls: Tls::new(&pki)?, faults: faults.clone() });
        let (sockets, addresses) = open(&options.listen)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        for socket in sockets {
            let service = service.clone();
            runtime.spawn(serve::accept(socket, faults.clone(), move |stream| service.connected(stream)));
        }
        let control = Control { faults: faults.clone(), api: Some(api), controllers: None };
        let regime = options.regime;
        Ok(Self { addresses, regime, faults, control, pki, runtime: Some(runtime), real: None })
    }

    fn real(options: &Options, assets: &Path, pki: Pki) -> anyhow::Result<Self> {
        let mut listen = options.listen.clone();
        for place in &mut listen {
            // The server's own thread is in another one.
            place.netns.get_or_insert_with(|| "/proc/self/ns/net".into());
        }
        let (sockets, addresses) = open(&listen)?;
        let faults = Faults::default();
        let real = KubeApiserver::start(assets, options.state.as_deref(), &pki, sockets, faults.clone())?;
        let control = Control { faults: faults.clone(), api: None, controllers: None };
        Ok(Self { addresses, regime: real.regime, faults, control, pki, runtime: None, real: Some(real) })
    }

    /// A client with all rights.
    pub fn admin(&self) -> anyhow::Result<Client> {
        Client::from_text(&self.pki.admin_kubeconfig(&self.url())?)
    }

    /// Whether it is a real kube-apiserver.
    pub fn is_real(&self) -> bool {
        self.real.is_some()
    }

    /// Its URL, by the first address.
    pub fn url(&self) -> String {
        self.addresses.first().map(|address| format!("https://{address}")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(controllers) = &self.control.controllers {
            controllers.stop();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Opens all sockets; the addresses have their real ports.
fn open(listen: &[Listen]) -> anyhow::Result<(Vec<Socket>, Vec<SocketAddr>)> {
    let sockets = listen.iter().map(Socket::open).collect::<anyhow::Result<Vec<_>>>()?;
    let addresses = sockets.iter().map(Socket::address).collect();
    Ok((sockets, addresses))
}

/// `nodectl-lab apiserver`: runs until killed.
pub fn main(args: &[String]) -> anyhow::Result<ExitCode> {
    let name = "apiserver".to_string();
    let options = match Options::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(options) => options,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(if error.use_stderr() { 64 } else { 0 }));
        }
    };
    let server = Server::start(&options)?;
    if let Some(path) = &options.port_file {
        let text: String = server.addresses.iter().map(|address| format!("{address}\n")).collect();
        let scratch = path.with_extension("new");
        std::fs::write(&scratch, text)?;
        std::fs::rename(scratch, path).with_context(|| format!("writing {}", path.display()))?;
    }
    loop {
        std::thread::park();
    }
}

/// The namespaces and the Service that a real server makes for itself.
fn bootstrap(api: &Api) -> anyhow::Result<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(api, "namespaces", "", &json!({"metadata": {"name": name}}))?;
    }
    ensure(api, "services", "default", &crate::objects::kubernetes_service())?;
    Ok(())
}

fn ensure(api: &Api, resource: &str, namespace: &str, object: &Value) -> ApiResult<()> {
    let target = api.target(resource, namespace, "")?;
    match api.create(&User::controller(), &target, object.clone(), false) {
        Err(error) if error.code != 409 => Err(error),
        _ => Ok(()),
    }
}
