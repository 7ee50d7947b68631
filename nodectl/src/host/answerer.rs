//! An echo over UDP and TCP for probes, in a network namespace of choice.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::make_room;
use super::netns;

/// How long a thread may take to notice that it is to end.
const GLANCE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub struct Answerer {
    port: u16,
    stopping: Arc<AtomicBool>,
}

impl Answerer {
    /// Answers on a port in the network namespace at `path`, or in this thread's; 0 takes a free one.
    pub fn start(path: Option<&Path>, port: u16) -> Result<Answerer> {
        let bound = match path {
            Some(path) => netns::enter(path, move || bind(port))?,
            None => bind(port),
        };
        let place = path.map_or("this host".into(), |path| path.display().to_string());
        let (datagrams, listener) = bound.with_context(|| format!("could not answer on port {port} in {place}"))?;
        let port = datagrams.local_addr().context("a socket has no address")?.port();
        let stopping = Arc::new(AtomicBool::new(false));
        // Sockets stay in the namespace in which they were made, whatever thread uses them.
        let (one, two) = (Arc::clone(&stopping), Arc::clone(&stopping));
        std::thread::spawn(move || echo_datagrams(&datagrams, &one));
        std::thread::spawn(move || accept(&listener, &two));
        Ok(Answerer { port, stopping })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// The same port for both.
fn bind(port: u16) -> std::io::Result<(UdpSocket, TcpListener)> {
    let both: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    // Where the kernel has no IPv6.
    let datagrams = UdpSocket::bind(both).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    let listener = TcpListener::bind(datagrams.local_addr()?)?;
    make_room(&datagrams);
    datagrams.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    Ok((datagrams, listener))
}

fn wait(fd: &impl AsFd) {
    let millis = u16::try_from(GLANCE.as_millis()).unwrap_or(u16::MAX);
    let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(millis));
}

fn echo_datagrams(socket: &UdpSocket, stopping: &AtomicBool) {
    let mut buffer = [0_u8; 2048];
    while !stopping.load(Ordering::Relaxed) {
        wait(socket);
        loop {
            match socket.recv_from(&mut buffer) {
                // Whatever becomes of the answer, the next question gets one too.
                Ok((length, peer)) => drop(socket.send_to(buffer.get(..length).unwrap_or_default(), peer)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // An ICMP answer to an earlier one of ours.
                Err(_) => {}
            }
        }
    }
}

fn accept(listener: &TcpListener, stopping: &Arc<AtomicBool>) {
    while !stopping.load(Ordering::Relaxed) {
        wait(listener);
        while let Ok((stream, _)) = listener.accept() {
            let stopping = Arc::clone(stopping);
            std::thread::spawn(move || drop(echo_stream(stream, &stopping)));
        }
    }
}

fn echo_stream(mut stream: TcpStream, stopping: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(GLANCE))?;
    let mut buffer = [0_u8; 65536];
    while !stopping.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => stream.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
