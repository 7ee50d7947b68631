//! Asking whether something answers: ICMP echo, TCP, DNS.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn};

/// What one target answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Who was asked.
    pub target: IpAddr,
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Mean round trip in microseconds; 0 where nothing came.
    pub avg_us: u64,
}

/// Sends so many echo requests to each IPv4 target, each answered within `limit` or lost. IPv6 targets answer nothing yet.
pub fn ping(targets: &[IpAddr], count: u32, limit: Duration) -> Result<Vec<Reply>> {
    let fd = socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::Icmp,
    )
    .context("could not open a raw socket for echo requests")?;
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let mut replies: Vec<Reply> =
        targets.iter().map(|t| Reply { target: *t, sent: 0, received: 0, avg_us: 0 }).collect();
    for round in 0..u16::try_from(count).unwrap_or(u16::MAX) {
        let start = Instant::now();
        let mut waiting = Vec::new();
        for reply in &mut replies {
            let IpAddr::V4(target) = reply.target else { continue };
            reply.sent += 1;
            // ENETUNREACH and the like are an answer too: lost.
            let address = SockaddrIn::from(std::net::SocketAddrV4::new(target, 0));
            if socket::sendto(fd.as_raw_fd(), &request(id, round), &address, MsgFlags::empty()).is_ok() {
                waiting.push(target);
            }
        }
        while !waiting.is_empty() && start.elapsed() < limit {
            match receive(fd.as_raw_fd(), id, round, limit.saturating_sub(start.elapsed())) {
                Some(from) if waiting.contains(&from) => {
                    waiting.retain(|w| *w != from);
                    let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                    if let Some(reply) = replies.iter_mut().find(|r| r.target == IpAddr::V4(from)) {
                        reply.received += 1;
                        reply.avg_us += took;
                    }
                }
                _ => {}
            }
        }
    }
    replies.iter_mut().filter(|r| r.received > 0).for_each(|r| r.avg_us /= u64::from(r.received));
    Ok(replies)
}

/// Echo request, RFC 792: type 8, code 0, checksum, identifier, sequence.
fn request(id: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(b"nodectl probe...");
    let sum = packet
        .chunks(2)
        .fold(0_u32, |sum, pair| sum + u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |b| u32::from(*b)));
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from(folded & 0xffff).unwrap_or(0);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Waits for one packet; who sent it, if it answers our request.
fn receive(fd: i32, id: u16, sequence: u16, limit: Duration) -> Option<Ipv4Addr> {
    let mut buffer = [0_u8; 512];
    // A raw socket sees every ICMP packet of the namespace; short naps keep the loop simple.
    let (n, from) = match socket::recvfrom::<SockaddrIn>(fd, &mut buffer) {
        Ok(got) => got,
        Err(_) => {
            std::thread::sleep(limit.min(Duration::from_micros(200)));
            return None;
        }
    };
    let header = usize::from(buffer[0] & 0x0f) * 4;
    let icmp = buffer.get(header..n)?;
    let answers =
        icmp.len() >= 8 && icmp[0] == 0 && icmp[4..6] == id.to_be_bytes() && icmp[6..8] == sequence.to_be_bytes();
    answers.then(|| from.map(|f| f.ip()))?
}

/// Whether a TCP connection is accepted.
pub fn tcp_connect(address: SocketAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&address, limit).is_ok()
}

/// Whether a DNS server answers anything at all to a query for `kubernetes.default.svc.cluster.local`.
pub fn dns_answers(server: SocketAddr, limit: Duration) -> bool {
    ask(server, limit).is_ok_and(|answered| answered)
}

fn ask(server: SocketAddr, limit: Duration) -> std::io::Result<bool> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(server)?;
    // Header: id, recursion desired, one question; then the name, type A, class IN.
    let mut query = vec![0x6e, 0x63, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0_u8; 512];
    match socket.recv(&mut answer) {
        Ok(n) => Ok(n >= 12 && answer[..2] == [0x6e, 0x63]),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}
