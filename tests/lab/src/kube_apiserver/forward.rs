//! Connections from the addresses that the server is to have, through to the server in its own namespace.
//!
//! They pass as they are, TLS and all. So of the lab's faults only those of whole connections can be had here: refuse,
//! reset and dead.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::programs::ADDRESS;
use crate::apiserver::faults::Faults;
use crate::apiserver::serve::{Socket, accept, reset, revival};

/// Passes connections on until told to stop. To be called on a thread in the server's namespace, to which all sockets
/// belong that are made here.
pub fn run(sockets: Vec<Socket>, faults: &Faults, stopped: oneshot::Receiver<()>) -> Result<()> {
    let target: SocketAddr = ADDRESS.parse().context("the server's own address is none")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut doors = tokio::task::JoinSet::new();
        for socket in sockets {
            let shared = faults.clone();
            let connected = move |stream| drop(tokio::spawn(pass(stream, target, shared.clone())));
            doors.spawn(accept(socket, faults.clone(), connected));
        }
        tokio::select! {
            _ = stopped => Ok(()),
            Some(ended) = doors.join_next() => ended?,
        }
    })
}

/// One connection, until either side ends it or a fault does.
async fn pass(mut client: TcpStream, target: SocketAddr, faults: Faults) {
    let mut changes = faults.follow();
    let Ok(door) = client.as_fd().try_clone_to_owned() else { return };
    if faults.dead() {
        revival(&faults).await;
        return reset(&door);
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return reset(&door) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut copy = std::pin::pin!(copy_bidirectional(&mut client, &mut server));
    loop {
        tokio::select! {
            _ = &mut copy => return,
            changed = changes.changed() => {
                if changed.is_err() || faults.cuts("") {
                    return reset(&door);
                }
            }
        }
        // While the server is dead nothing is read and nothing sent; then the streams go on where they were.
        revival(&faults).await;
    }
}
