//! The program that probes: inside a pod's network namespace (or a node's), it sends numbered datagrams to many targets and tells what came back.
//!
//! Standard input: `set KEY ADDRESS:PORT` and `drop KEY`; its end ends the program. Standard output: one JSON report per target, five times a second.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How often reports are written.
const PERIOD: Duration = Duration::from_millis(200);
/// How long answers are waited for after the last datagram: a machine with much to do takes its time.
const LINGER: Duration = Duration::from_secs(3);
/// How many of the datagrams without an answer are told.
const TOLD: usize = 8;

/// What is known of one target so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Report {
    /// The name that the target was set with.
    pub key: String,
    /// Datagrams sent, those that the kernel refused included.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// When the first datagram was sent, in ns since 1970.
    pub first_sent: u64,
    /// When the first answer came; 0 for never.
    pub first_answer: u64,
    /// When the last answer came.
    pub last_answer: u64,
    /// The longest time between two answers, in ns.
    pub longest_gap: u64,
    /// The addresses that the target saw as the sender's.
    pub seen: Vec<String>,
    /// When the first of those without an answer were sent, and what the kernel said to it, if it refused.
    pub unanswered: Vec<(u64, Option<String>)>,
}

/// A target and its numbers.
struct Target {
    address: SocketAddr,
    /// Distinguishes the answers of an earlier target of the same name.
    generation: u64,
    report: Report,
    /// Those without an answer, by number, as in the report.
    waiting: BTreeMap<u64, (u64, Option<String>)>,
}

/// What all threads share.
struct Shared {
    targets: Mutex<BTreeMap<String, Target>>,
    socket: UdpSocket,
    /// For IPv6 targets; none where the kernel has no IPv6.
    second: Option<UdpSocket>,
    stopping: AtomicBool,
}

/// The program `probe RATE`, in datagrams a second to each target.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [rate] = arguments else {
        anyhow::bail!("usage: nodectl-lab probe RATE");
    };
    let rate: u32 = rate.parse().with_context(|| format!("{rate} is no rate"))?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).context("no UDP socket")?;
    let second = UdpSocket::bind(("::", 0)).ok();
    for socket in std::iter::once(&socket).chain(&second) {
        nodectl::host::line::make_room(socket);
    }
    let shared = Arc::new(Shared { targets: Mutex::default(), socket, second, stopping: AtomicBool::new(false) });
    let workers: [fn(&Shared, u32); 4] = [
        send,
        |shared, _| receive(shared, &shared.socket),
        |shared, _| shared.second.iter().for_each(|socket| receive(shared, socket)),
        |shared, _| write_reports(shared),
    ];
    for worker in workers {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || worker(&shared, rate.max(1)));
    }
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        command(&shared, &line);
    }
    shared.stopping.store(true, Ordering::Relaxed);
    let until = Instant::now() + LINGER;
    while Instant::now() < until && lock(&shared).values().any(|target| !target.waiting.is_empty()) {
        std::thread::sleep(Duration::from_millis(20));
    }
    print_reports(&shared)?;
    Ok(ExitCode::SUCCESS)
}

/// The targets, for as long as the answer lives.
fn lock(shared: &Shared) -> MutexGuard<'_, BTreeMap<String, Target>> {
    shared.targets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line of standard input.
fn command(shared: &Shared, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["set", key, address] => {
            if let Ok(address) = address.parse() {
                let report = Report { key: (*key).to_owned(), ..Report::default() };
                lock(shared)
                    .insert((*key).to_owned(), Target { address, generation: now(), report, waiting: BTreeMap::new() });
            }
        }
        ["drop", key] => drop(lock(shared).remove(*key)),
        _ => {}
    }
}

/// Sends to all targets at the rate, on a fixed grid of times: a late tick is not made up for by a burst.
fn send(shared: &Shared, rate: u32) {
    let period = Duration::from_secs(1) / rate;
    let mut next = Instant::now();
    while !shared.stopping.load(Ordering::Relaxed) {
        for (key, target) in lock(shared).iter_mut() {
            if target.report.sent == 0 {
                target.report.first_sent = now();
            }
            target.report.sent += 1;
            let text = format!("{key} {} {}", target.generation, target.report.sent);
            // Refused by the kernel, for want of a route: lost.
            let socket = shared.second.as_ref().filter(|_| target.address.is_ipv6()).unwrap_or(&shared.socket);
            let refused = socket.send_to(text.as_bytes(), target.address).err().map(|e| e.to_string());
            target.waiting.insert(target.report.sent, (now(), refused));
        }
        next = (next + period).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Counts answers: "SEEN KEY GENERATION NUMBER".
fn receive(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = [0u8; 512];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let [seen, key, generation, number] = text.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        let mut targets = lock(shared);
        if let Some(target) = targets.get_mut(key).filter(|target| target.generation.to_string() == generation) {
            target.report.count(seen, now());
            number.parse().ok().and_then(|number| target.waiting.remove(&number));
        }
    }
}

impl Report {
    /// One more answer.
    fn count(&mut self, seen: &str, now: u64) {
        if self.answered == 0 {
            self.first_answer = now;
        } else {
            self.longest_gap = self.longest_gap.max(now.saturating_sub(self.last_answer));
        }
        self.answered += 1;
        self.last_answer = now;
        if !self.seen.iter().any(|known| known == seen) {
            self.seen.push(seen.to_owned());
        }
    }
}

/// Writes reports until the end.
fn write_reports(shared: &Shared) {
    while !shared.stopping.load(Ordering::Relaxed) {
        std::thread::sleep(PERIOD);
        // Nobody reads any more: standard input will end too.
        let _ = print_reports(shared);
    }
}

/// Writes one report per target.
fn print_reports(shared: &Shared) -> Result<()> {
    let mut text = String::new();
    for target in lock(shared).values_mut() {
        target.report.unanswered = target.waiting.values().take(TOLD).cloned().collect();
        text.push_str(&serde_json::to_string(&target.report).context("a report cannot be written")?);
        text.push('\n');
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("nobody reads the reports")
}

/// Now, in ns since 1970: the same clock in all processes of the machine.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
