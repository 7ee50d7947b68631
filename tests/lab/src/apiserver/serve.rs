//! Sockets: listening (in other network namespaces too), TLS, connections, and the faults that happen there.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::body::{Body, to_bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::faults::{Faults, Kind};
use super::handler::{Handler, injected};
use super::options::Listen;
use super::tls::{Certificate, Tls};

/// Everything a connection needs.
pub struct Service {
    /// Answers.
    pub handler: Handler,
    /// TLS.
    pub tls: Tls,
    /// What goes wrong.
    pub faults: Faults,
}

/// A listening socket and how to make it again.
pub struct Socket {
    listener: Option<StdListener>,
    listen: Listen,
}

impl Socket {
    /// Opens a listening socket, in another network namespace if asked for.
    pub fn open(listen: &Listen) -> anyhow::Result<Self> {
        let listener = bind(listen)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: Some(listener), listen: Listen { netns: listen.netns.clone(), address } })
    }

    /// The address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.listen.address
    }

    /// The listener, for the runtime of the caller; while nobody has it, connections are refused.
    pub fn listener(&mut self) -> anyhow::Result<TcpListener> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => bind(&self.listen)?,
        };
        Ok(TcpListener::from_std(listener)?)
    }
}

/// A socket belongs to the namespace of the thread that makes it, so a thread of its own goes there.
fn bind(listen: &Listen) -> anyhow::Result<StdListener> {
    let wanted = listen.clone();
    let bound = std::thread::spawn(move || -> anyhow::Result<StdListener> {
        if let Some(path) = &wanted.netns {
            let namespace = std::fs::File::open(path)
                .with_context(|| format!("opening the network namespace {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering the network namespace {}", path.display()))?;
        }
        let listener = StdListener::bind(wanted.address).with_context(|| format!("listening on {}", wanted.address))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.join().map_err(|_| anyhow::anyhow!("the thread that listens on {} died", listen.address))?
}

/// Accepts connections until the runtime ends. While faults make the server refuse, its socket is closed.
pub async fn accept(mut socket: Socket, faults: Faults, connected: impl Fn(TcpStream)) -> anyhow::Result<()> {
    let mut listener = None;
    let mut changes = faults.follow();
    loop {
        if faults.refusing() {
            listener = None;
            changes.changed().await?;
            continue;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => socket.listener()?,
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((stream, _)) = accepted {
                    connected(stream);
                }
            }
            changed = changes.changed() => changed?,
        }
        listener = Some(open);
    }
}

impl Service {
    /// Serves a connection in a task of its own.
    pub fn connected(self: &Arc<Self>, stream: TcpStream) {
        tokio::spawn(connection(self.clone(), stream));
    }
}

/// What a connection and its requests tell each other.
#[derive(Default)]
struct Line {
    path: Mutex<String>,
    reset: Notify,
}

async fn connection(service: Arc<Service>, stream: TcpStream) {
    let mut faults = service.faults.follow();
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    if service.faults.dead() {
        revival(&service.faults).await;
        return reset(&socket);
    }
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(service.tls.config.clone());
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = service.tls.judge(stream.get_ref().1.peer_certificates());
    let line = Arc::new(Line::default());
    let http = hyper::server::conn::http1::Builder::new().serve_connection(
        TokioIo::new(stream),
        service_fn(|request| respond(service.clone(), certificate.clone(), line.clone(), request)),
    );
    let mut http = std::pin::pin!(http);
    loop {
        tokio::select! {
            _ = &mut http => return,
            () = line.reset.notified() => return reset(&socket),
            changed = faults.changed() => {
                let path = line.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if changed.is_err() || service.faults.cuts(&path) {
                    return reset(&socket);
                }
            }
        }
    }
}

/// Makes the coming close of the socket a reset.
pub fn reset(socket: &OwnedFd) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
}

async fn respond(
    service: Arc<Service>,
    certificate: Certificate,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let path = request.uri().path().to_string();
    *line.path.lock().unwrap_or_else(PoisonError::into_inner) = path.clone();
    let request = request.map(Body::new);
    let agent =
        request.headers().get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    match service.faults.take(request.method().as_str(), &path, agent) {
        Some(Kind::Slow(time)) => tokio::time::sleep(time).await,
        Some(Kind::Fail(code)) => return Ok(injected(code, false)),
        Some(Kind::FailBare(code)) => return Ok(injected(code, true)),
        Some(Kind::Dead) => {
            revival(&service.faults).await;
            cut(&line).await;
        }
        Some(Kind::Reset | Kind::Refuse) => {
            // The whole request first: a reset while the client still sends would be another error than the one asked for.
            let _ = to_bytes(request.into_body(), usize::MAX).await;
            cut(&line).await;
            return Ok(Response::default());
        }
        Some(Kind::Lose) => {
            service.handler.answer(&certificate, request).await;
            cut(&line).await;
            return Ok(Response::default());
        }
        None => {}
    }
    Ok(service.handler.answer(&certificate, request).await)
}

/// Ends this connection with a reset; does not return before it is gone.
async fn cut(line: &Line) {
    line.reset.notify_one();
    std::future::pending().await
}

/// Waits until no fault makes the server dead.
pub async fn revival(faults: &Faults) {
    let mut changed = faults.follow();
    while faults.current().iter().any(|fault| fault.kind == Kind::Dead) && changed.changed().await.is_ok() {}
}
