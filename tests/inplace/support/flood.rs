//! Datagrams as fast as one thread sends them: an instant in which a path is not there, shorter than a probe sees, loses some.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{setsockopt, sockopt};
use nodectl::host::netns;
use nodectl_lab::wait::eventually;

/// A second's datagrams of the first try; a machine that does not carry so many at rest is asked for fewer.
const RATE: u32 = 50_000;
const LEAST: u32 = 3_000;
/// How long a machine is tried out.
const CONTROL: Duration = Duration::from_millis(300);
/// Nothing comes any more.
const SILENCE: Duration = Duration::from_millis(200);

/// From whom to whom.
#[derive(Clone, Debug)]
pub struct Line {
    /// Namespace of the sender.
    pub from: PathBuf,
    /// Namespace of the receiver.
    pub to: PathBuf,
    /// Where the receiver listens.
    pub address: SocketAddr,
}

/// A flood that runs.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Vec<u64>>,
    sink: JoinHandle<Vec<bool>>,
}

impl Flood {
    pub fn start(line: &Line, rate: u32) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let address = line.address;
        let socket = netns::enter(&line.to, move || {
            let socket = bound(address);
            // The receiver may wait for a processor while the sender has one.
            setsockopt(&socket, sockopt::RcvBufForce, &(256 << 20)).unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket
        });
        let (socket, stopped) = (socket.unwrap(), stop.clone());
        let sink = std::thread::spawn(move || receive(&socket, &stopped));
        let (from, stopped) = (line.from.clone(), stop.clone());
        let sender = std::thread::spawn(move || netns::enter(&from, move || send(address, rate, &stopped)).unwrap());
        Flood { stop, sender, sink }
    }

    /// When those that were lost were sent, in milliseconds since 1970.
    pub fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, came) = (self.sender.join().unwrap(), self.sink.join().unwrap());
        assert!(came.contains(&true), "nothing came at all");
        let is_lost = |n: usize| !came.get(n).copied().unwrap_or(false);
        sent.iter().enumerate().filter(|(n, _)| is_lost(*n)).map(|(_, at)| *at).collect()
    }
}

/// What this line carries at rest without a loss, in datagrams a second.
pub fn carried(line: &Line) -> u32 {
    let mut rate = RATE;
    while rate > LEAST {
        let flood = Flood::start(line, rate);
        std::thread::sleep(CONTROL);
        if flood.finish().is_empty() {
            break;
        }
        rate /= 2;
    }
    rate
}

/// A test beside this one that starts a program has a copy of the socket before this one, until the program is there.
fn bound(address: SocketAddr) -> UdpSocket {
    let mut bound = None;
    eventually("the address is free", || match UdpSocket::bind(address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => false,
        other => {
            bound = Some(other.unwrap());
            true
        }
    });
    bound.unwrap()
}

fn send(to: SocketAddr, rate: u32, stop: &AtomicBool) -> Vec<u64> {
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(to).unwrap();
    let (step, mut next) = (Duration::from_secs(1) / rate, Instant::now());
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        // Not made up for: what a sender that had to wait would send at once is no steady stream.
        next = Instant::now() + step;
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        socket.send(&u32::try_from(sent.len()).unwrap().to_be_bytes()).unwrap();
        sent.push(u64::try_from(at.as_millis()).unwrap());
    }
    sent
}

/// By number, whether it came: two paths may carry one in front of the other.
fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Vec<bool> {
    let (mut came, mut buffer) = (Vec::new(), [0; 4]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let n = u32::from_be_bytes(buffer) as usize;
                if came.len() <= n {
                    came.resize(n + 1, false);
                }
                came[n] = true;
            }
            Err(_) if stop.load(Ordering::Relaxed) => return came,
            Err(_) => {}
        }
    }
}

/// This thread's namespace, by a path that every thread of the process can open.
pub fn own_netns() -> PathBuf {
    Path::new("/proc/self/task").join(nix::unistd::gettid().to_string()).join("ns/net")
}
