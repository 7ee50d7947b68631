//! Numbered questions to one target, over ICMP, UDP or TCP, and the numbers that come back: what a continuity probe sends.
//!
//! UDP and TCP want an echo at the far end: one that sends back what it got, alone or with something around it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use super::ping;

/// What stands before the numbers, so that an echo may put something around them.
const MARK: &str = "nodectl-probe";
/// Below the kernel's first repetition of a SYN after a second: a lost one is a lost question, not a slow answer.
const CONNECT_LIMIT: Duration = Duration::from_millis(900);
/// Bytes of a socket's room for what nobody has read yet.
const ROOM: usize = 8 << 20;
/// A stream's answers that are not whole yet are kept up to this many bytes.
const KEPT: usize = 4096;

/// How a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An echo request each.
    Icmp,
    /// A datagram each, from one socket, to an echo.
    Udp,
    /// A line each on one connection that stays open, to an echo.
    Tcp,
    /// A new TCP connection each; whatever listens will do.
    Connect,
}

impl Kind {
    /// As in `nodectl probe --to KIND:...`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Icmp => "icmp",
            Kind::Udp => "udp",
            Kind::Tcp => "tcp",
            Kind::Connect => "connect",
        }
    }
}

/// A target that is being asked.
pub struct Line {
    socket: Socket,
    id: u64,
}

enum Socket {
    Icmp { fd: OwnedFd, v6: bool },
    Udp(UdpSocket),
    Tcp { stream: TcpStream, begun: Vec<u8> },
    Connect { target: SocketAddr, answered: Vec<u64> },
}

/// Why a line is of no use any more, or has a question not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The network or the far end refused this question (port unreachable, prohibited); the next may fare better.
    Refused(String),
    /// This machine could not ask it (no route, no address, no socket left): of the network that says nothing.
    Failed(String),
    /// The connection is gone.
    Broken(String),
}

impl From<std::io::Error> for Trouble {
    /// What the kernel reports of an ICMP error, a reset, a firewall's verdict or a silence (net/ipv4/icmp.c,
    /// `icmp_err_convert`) is a refusal. That a network is unreachable is not: mostly the asker itself has no route.
    fn from(error: std::io::Error) -> Trouble {
        let refusals = [
            Errno::ECONNREFUSED,
            Errno::ECONNRESET,
            Errno::EHOSTUNREACH,
            Errno::EHOSTDOWN,
            Errno::ETIMEDOUT,
            Errno::ENOPROTOOPT,
            Errno::EACCES,
            Errno::EPERM,
        ];
        let is_refusal = error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| refusals.contains(&errno));
        match is_refusal || error.kind() == ErrorKind::TimedOut {
            true => Trouble::Refused(error.to_string()),
            false => Trouble::Failed(error.to_string()),
        }
    }
}

impl Line {
    /// Opens a line from the calling thread's network namespace. `id` tells its answers from other lines'.
    pub fn open(kind: Kind, target: SocketAddr, id: u64) -> Result<Line, Trouble> {
        let own = |error: std::io::Error| Trouble::Failed(error.to_string());
        let socket = match kind {
            Kind::Icmp => icmp(target)?,
            Kind::Udp => {
                let any: IpAddr = if target.is_ipv6() { [0u8; 16].into() } else { [0u8; 4].into() };
                let socket = UdpSocket::bind((any, 0)).map_err(own)?;
                make_room(&socket);
                socket.connect(target)?;
                socket.set_nonblocking(true).map_err(own)?;
                Socket::Udp(socket)
            }
            Kind::Tcp => {
                let stream = TcpStream::connect_timeout(&target, CONNECT_LIMIT)?;
                stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(own)?;
                Socket::Tcp { stream, begun: Vec::new() }
            }
            Kind::Connect => Socket::Connect { target, answered: Vec::new() },
        };
        Ok(Line { socket, id })
    }

    /// Asks one question.
    pub fn ask(&mut self, number: u64) -> Result<(), Trouble> {
        let text = format!("{MARK} {:016x} {number:016x}\n", self.id);
        match &mut self.socket {
            Socket::Icmp { fd, v6 } => {
                let (kind, id) = (if *v6 { 128 } else { 8 }, short(self.id));
                let packet = ping::echo_request(kind, id, short(number), text.as_bytes());
                let sent = socket::send(fd.as_raw_fd(), &packet, MsgFlags::empty());
                sent.map(drop).map_err(|e| std::io::Error::from(e).into())
            }
            Socket::Udp(socket) => Ok(socket.send(text.as_bytes()).map(drop)?),
            Socket::Tcp { stream, .. } => match stream.write_all(text.as_bytes()) {
                // The buffer is full of questions that were not acknowledged: half a line must not stand in the stream.
                Err(e) if e.kind() == ErrorKind::WouldBlock => Err(Trouble::Broken("it takes no more data".into())),
                other => other.map_err(|e| Trouble::Broken(e.to_string())),
            },
            Socket::Connect { target, answered } => {
                TcpStream::connect_timeout(target, CONNECT_LIMIT)?;
                answered.push(number);
                Ok(())
            }
        }
    }

    /// Waits for answers, at most so long; the numbers that came.
    pub fn answers(&mut self, wait: Duration) -> Result<Vec<u64>, Trouble> {
        let (id, mut numbers, mut buffer) = (self.id, Vec::new(), [0_u8; 2048]);
        match &mut self.socket {
            Socket::Icmp { fd, v6 } => {
                await_input(fd, wait);
                loop {
                    let length = match socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                        Ok(length) => length,
                        Err(Errno::EAGAIN) => break,
                        Err(e) => return some(numbers).ok_or_else(|| std::io::Error::from(e).into()),
                    };
                    let packet = buffer.get(..length).unwrap_or_default();
                    numbers.extend(echoed(packet, *v6, short(id)).iter().flat_map(|text| numbers_in(text, id)));
                }
            }
            Socket::Udp(socket) => {
                await_input(socket, wait);
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(length) => numbers.extend(numbers_in(buffer.get(..length).unwrap_or_default(), id)),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return some(numbers).ok_or_else(|| e.into()),
                    }
                }
            }
            Socket::Tcp { stream, begun } => {
                await_input(stream, wait);
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => return some(numbers).ok_or_else(|| Trouble::Broken("the far end closed it".into())),
                        Ok(length) => begun.extend(buffer.get(..length).unwrap_or_default()),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return some(numbers).ok_or_else(|| Trouble::Broken(e.to_string())),
                    }
                    numbers.extend(whole_lines(begun, id));
                }
            }
            Socket::Connect { answered, .. } => {
                if answered.is_empty() {
                    std::thread::sleep(wait);
                }
                numbers.append(answered);
            }
        }
        Ok(numbers)
    }
}

/// Room for what comes while a busy machine has no time for the reader: the usual 200 KB are full after some hundred datagrams, and
/// what the socket drops then looks as if the network had lost it.
pub fn make_room(socket: &impl AsFd) {
    // Without CAP_NET_ADMIN it keeps the usual size.
    let _ = socket::setsockopt(socket, RcvBufForce, &ROOM);
}

/// Numbers that came before the trouble are told first; the trouble shows itself again.
fn some(numbers: Vec<u64>) -> Option<Vec<u64>> {
    (!numbers.is_empty()).then_some(numbers)
}

fn icmp(target: SocketAddr) -> Result<Socket, Trouble> {
    let v6 = target.is_ipv6();
    let (family, protocol) = match v6 {
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        false => (AddressFamily::Inet, SockProtocol::Icmp),
    };
    let fd = socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)
        .map_err(|e| Trouble::Failed(e.desc().to_owned()))?;
    make_room(&fd);
    // Connected, it sees what comes from this target alone; others that ping here cost it nothing.
    let there = SockaddrStorage::from(SocketAddr::new(target.ip(), 0));
    socket::connect(fd.as_raw_fd(), &there).map_err(std::io::Error::from)?;
    Ok(Socket::Icmp { fd, v6 })
}

/// The last 16 bits: what ICMP has room for in its header. The whole number stands behind it.
fn short(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or_default()
}

/// What an echo reply for us carries. An IPv4 socket gets the IP header too.
fn echoed(packet: &[u8], v6: bool, id: u16) -> Option<Vec<u8>> {
    let header = if v6 { 0 } else { usize::from(packet.first()? & 0x0f) * 4 };
    let icmp = packet.get(header..)?;
    let reply = if v6 { 129 } else { 0 };
    (icmp.len() >= 8 && icmp[0] == reply && icmp[4..6] == id.to_be_bytes()).then(|| icmp[8..].to_vec())
}

/// Waits until there is something to read. A wait that is interrupted or fails ends early, and is asked for again.
fn await_input(fd: &impl AsFd, wait: Duration) {
    // Not poll(2), which counts in milliseconds: a thousand questions a second are a millisecond apart.
    let _ = ppoll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], Some(TimeSpec::from_duration(wait)), None);
}

/// The numbers of this line in an answer.
fn numbers_in(answer: &[u8], id: u64) -> Vec<u64> {
    let text = String::from_utf8_lossy(answer);
    let ours = format!("{MARK} {id:016x} ");
    let after = text.split(&ours).skip(1);
    after.filter_map(|rest| u64::from_str_radix(rest.get(..16)?, 16).ok()).collect()
}

/// The numbers in what has come of a stream so far; a line that is not whole is kept.
fn whole_lines(begun: &mut Vec<u8>, id: u64) -> Vec<u64> {
    let Some(end) = begun.iter().rposition(|byte| *byte == b'\n') else {
        if begun.len() > KEPT {
            begun.clear();
        }
        return Vec::new();
    };
    let whole: Vec<u8> = begun.drain(..=end).collect();
    numbers_in(&whole, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_may_put_something_around_the_numbers() {
        let text = format!("10.1.2.3 {MARK} {:016x} {:016x}\n", 7, 9);
        assert_eq!(numbers_in(text.as_bytes(), 7), [9]);
        assert!(numbers_in(text.as_bytes(), 8).is_empty(), "another line's");
        assert!(numbers_in(b"nodectl-probe 0000000000000007 00000", 7).is_empty());
        assert!(numbers_in(&[0xff, 0xfe, b'\n'], 7).is_empty());
    }

    #[test]
    fn only_what_the_network_says_is_a_refusal() {
        let trouble = |errno: Errno| Trouble::from(std::io::Error::from(errno));
        for errno in [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::EPERM, Errno::ECONNRESET, Errno::ETIMEDOUT] {
            assert!(matches!(trouble(errno), Trouble::Refused(_)), "{errno}");
        }
        for errno in [Errno::ENETUNREACH, Errno::EADDRNOTAVAIL, Errno::EMFILE, Errno::EINVAL, Errno::EAFNOSUPPORT] {
            assert!(matches!(trouble(errno), Trouble::Failed(_)), "{errno}");
        }
        let silence = std::io::Error::new(ErrorKind::TimedOut, "connection timed out");
        assert_eq!(Trouble::from(silence), Trouble::Refused("connection timed out".into()));
    }

    #[test]
    fn a_stream_comes_in_pieces() {
        let line = |n: u64| format!("{MARK} {:016x} {n:016x}\n", 7).into_bytes();
        let mut begun = b"10.1.2.3\n".to_vec();
        begun.extend(line(1));
        begun.extend(&line(2)[..20]);
        assert_eq!(whole_lines(&mut begun, 7), [1]);
        begun.extend(&line(2)[20..]);
        assert_eq!(whole_lines(&mut begun, 7), [2]);
        let mut babble = vec![b'x'; KEPT + 1];
        assert!(whole_lines(&mut babble, 7).is_empty() && babble.is_empty());
    }
}
