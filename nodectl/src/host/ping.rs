//! Asking whether something answers: ICMP echo, TCP, DNS. Both address families.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6};

/// What a request carries.
const PAYLOAD: &[u8] = b"nodectl probe...";

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

/// Sends so many echo requests to each target, all targets at once, each request answered within `limit` or lost. The next
/// round begins as soon as all have answered.
pub fn ping(targets: &[IpAddr], count: u32, limit: Duration) -> Result<Vec<Reply>> {
    let sockets = Sockets::open(targets)?;
    // Others in this namespace ping too, another nodectl among them.
    let id = std::hash::RandomState::new().build_hasher().finish().to_be_bytes();
    let id = u16::from_be_bytes([id[0], id[1]]);
    let mut replies: Vec<Reply> =
        targets.iter().map(|t| Reply { target: *t, sent: 0, received: 0, avg_us: 0 }).collect();
    for round in 0..count {
        let sequence = u16::try_from(round % 0x1_0000).unwrap_or_default();
        let start = Instant::now();
        let mut waiting: BTreeMap<IpAddr, Instant> = BTreeMap::new();
        for reply in &mut replies {
            reply.sent += 1;
            // A refusal (no route, say) is an answer too: lost.
            if sockets.send(reply.target, id, sequence) {
                waiting.insert(reply.target, Instant::now());
            }
        }
        while !waiting.is_empty() && start.elapsed() < limit {
            for from in sockets.receive(id, sequence, limit.saturating_sub(start.elapsed())) {
                let Some(sent) = waiting.remove(&from) else { continue };
                let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                for reply in replies.iter_mut().filter(|r| r.target == from) {
                    reply.received += 1;
                    reply.avg_us += took;
                }
            }
        }
    }
    replies.iter_mut().filter(|r| r.received > 0).for_each(|r| r.avg_us /= u64::from(r.received));
    Ok(replies)
}

/// Whether a TCP connection is accepted.
pub fn tcp_connect(address: SocketAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&address, limit).is_ok()
}

/// Whether a DNS server answers anything at all to a query for `kubernetes.default.svc.cluster.local`.
pub fn dns_answers(server: SocketAddr, limit: Duration) -> bool {
    // Whatever the kernel says (no route, port unreachable): there was no answer.
    ask(server, limit).unwrap_or(false)
}

/// A raw socket for each family that is asked.
struct Sockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Sockets {
    fn open(targets: &[IpAddr]) -> Result<Sockets> {
        let open = |wanted: bool, family, protocol| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let opened = wanted.then(|| socket::socket(family, SockType::Raw, flags, protocol)).transpose();
            opened.context("could not open a raw socket for echo requests")
        };
        Ok(Sockets {
            v4: open(targets.iter().any(IpAddr::is_ipv4), AddressFamily::Inet, SockProtocol::Icmp)?,
            v6: open(targets.iter().any(IpAddr::is_ipv6), AddressFamily::Inet6, SockProtocol::IcmpV6)?,
        })
    }

    fn send(&self, target: IpAddr, id: u16, sequence: u16) -> bool {
        let sent = match (target, &self.v4, &self.v6) {
            (IpAddr::V4(ip), Some(fd), _) => {
                let to = SockaddrIn::from(SocketAddrV4::new(ip, 0));
                socket::sendto(fd.as_raw_fd(), &echo_request(8, id, sequence, PAYLOAD), &to, MsgFlags::empty())
            }
            (IpAddr::V6(ip), _, Some(fd)) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, 0));
                socket::sendto(fd.as_raw_fd(), &echo_request(128, id, sequence, PAYLOAD), &to, MsgFlags::empty())
            }
            _ => return false,
        };
        sent.is_ok()
    }

    /// Waits for packets; who among their senders answers our request. A raw socket sees every ICMP packet of the namespace.
    fn receive(&self, id: u16, sequence: u16, limit: Duration) -> Vec<IpAddr> {
        let sockets = [&self.v4, &self.v6];
        let mut waiting: Vec<PollFd> =
            sockets.into_iter().flatten().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        // Rounded up: a wait of 0 ms would spin.
        let millis = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX).saturating_add(1);
        if poll(&mut waiting, PollTimeout::from(millis)).is_err() {
            return Vec::new();
        }
        let mut buffer = [0_u8; 512];
        let mut answered = Vec::new();
        while let Some(Ok((n, from))) =
            self.v4.as_ref().map(|fd| socket::recvfrom::<SockaddrIn>(fd.as_raw_fd(), &mut buffer))
        {
            // The IPv4 header comes along, with its length in words of four bytes.
            let header = usize::from(buffer[0] & 0x0f) * 4;
            let ours = buffer.get(header..n).is_some_and(|icmp| answers(icmp, 0, id, sequence));
            answered.extend(from.filter(|_| ours).map(|f| IpAddr::V4(f.ip())));
        }
        while let Some(Ok((n, from))) =
            self.v6.as_ref().map(|fd| socket::recvfrom::<SockaddrIn6>(fd.as_raw_fd(), &mut buffer))
        {
            let ours = buffer.get(..n).is_some_and(|icmp| answers(icmp, 129, id, sequence));
            answered.extend(from.filter(|_| ours).map(|f| IpAddr::V6(f.ip())));
        }
        answered
    }
}

/// Echo request of RFC 792 or RFC 4443: type, code 0, checksum, identifier, sequence. For ICMPv6 the kernel overwrites the
/// checksum with the right one.
pub(super) fn echo_request(kind: u8, id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(payload);
    let pair = |bytes: &[u8]| u32::from(bytes[0]) << 8 | u32::from(bytes.get(1).copied().unwrap_or(0));
    let mut sum: u32 = packet.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or_default();
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn answers(icmp: &[u8], kind: u8, id: u16, sequence: u16) -> bool {
    icmp.len() >= 8 && icmp[0] == kind && icmp[4..6] == id.to_be_bytes() && icmp[6..8] == sequence.to_be_bytes()
}

fn ask(server: SocketAddr, limit: Duration) -> std::io::Result<bool> {
    let any: IpAddr = if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
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
    let length = socket.recv(&mut answer)?;
    Ok(length >= 12 && answer[..2] == query[..2])
}
