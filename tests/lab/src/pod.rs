//! What runs in a pod: an echo server on port 7777, over UDP and TCP, that tells the caller its own address.
//!
//! Each answer is the sender's address as this pod saw it, a space, and what was sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;

use anyhow::{Context, Result};
use nodectl::host::line::make_room;

/// The port every pod answers on.
pub const PORT: u16 = 7777;

/// The program `pod [PORT...]`: answers until it is killed.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let more = arguments.iter().map(|word| word.parse::<u16>().with_context(|| format!("{word} is no port")));
    let ports = std::iter::once(Ok(PORT)).chain(more).collect::<Result<Vec<u16>>>()?;
    for port in ports {
        // One socket for both families: an IPv4 peer shows as ::ffff:a.b.c.d.
        let any = SocketAddr::from(([0u16; 8], port));
        let datagrams = UdpSocket::bind(any).with_context(|| format!("UDP port {port} is taken"))?;
        make_room(&datagrams);
        let listener = TcpListener::bind(any).with_context(|| format!("TCP port {port} is taken"))?;
        std::thread::spawn(move || echo_datagrams(&datagrams));
        std::thread::spawn(move || echo_streams(&listener));
    }
    loop {
        std::thread::park();
    }
}

/// The peer's address as people write it.
fn seen(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

/// Answers datagrams for ever.
fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0u8; 2048];
    loop {
        // An error here is an ICMP answer to an earlier datagram: the next one may fare better.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut answer = seen(peer).into_bytes();
        answer.push(b' ');
        answer.extend(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(&answer, peer);
    }
}

/// Answers connections for ever, each in a thread of its own.
fn echo_streams(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || echo_stream(stream));
    }
}

/// First the peer's address and a newline, then whatever the peer sends.
fn echo_stream(mut stream: TcpStream) -> std::io::Result<()> {
    let greeting = format!("{}\n", seen(stream.peer_addr()?));
    stream.write_all(greeting.as_bytes())?;
    let mut buffer = [0u8; 65536];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}
