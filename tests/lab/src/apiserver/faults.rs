//! Faults on demand: slow, refusing, resetting, failing, dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answered after this time.
    Slow(Duration),
    /// Connections are refused, open ones are cut.
    Refuse,
    /// The connection is reset instead of an answer; the request has no effect.
    Reset,
    /// The connection is reset instead of an answer, after the request took effect.
    Lose,
    /// Answered with this status, and with Retry-After where servers send one.
    Fail(u16),
    /// Answered with this status, without Retry-After.
    FailBare(u16),
    /// Never answered.
    Dead,
}

/// A fault and which requests it meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// Only paths that start so; empty: all.
    pub prefix: String,
    /// Only this method; empty: all.
    pub method: String,
    /// Only requests whose User-Agent starts so; empty: all.
    pub agent: String,
    /// Only after so many requests that it would meet.
    pub skip: u32,
    /// Only so many requests.
    pub times: Option<u32>,
}

impl Fault {
    /// A fault for every request.
    pub fn all(kind: Kind) -> Self {
        Self { kind, prefix: String::new(), method: String::new(), agent: String::new(), skip: 0, times: None }
    }

    /// Reads `slow MS`, `refuse`, `reset`, `lose`, `500` (any code), `dead`, then `/prefix`, `method=PATCH`, `agent=NAME`,
    /// `skip=N`, `times=N`, and for a code `bare`: without Retry-After.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let (kind, rest) = match words {
            ["slow", ms, rest @ ..] => {
                let ms = ms.parse().map_err(|_| format!("{ms} is no number of milliseconds"))?;
                (Kind::Slow(Duration::from_millis(ms)), rest)
            }
            ["refuse", rest @ ..] => (Kind::Refuse, rest),
            ["reset", rest @ ..] => (Kind::Reset, rest),
            ["lose", rest @ ..] => (Kind::Lose, rest),
            ["dead", rest @ ..] => (Kind::Dead, rest),
            [code, rest @ ..] => match code.trim_end_matches('s').parse() {
                Ok(code @ 400..=599) => (Kind::Fail(code), rest),
                _ => return Err(format!("unknown fault {code}; known: slow MS, refuse, reset, lose, 500, dead, ok")),
            },
            [] => return Err("no fault named".into()),
        };
        let mut fault = Self::all(kind);
        for word in rest {
            if word.starts_with('/') {
                fault.prefix = (*word).into();
            } else if let Some(method) = word.strip_prefix("method=") {
                fault.method = method.to_uppercase();
            } else if let Some(agent) = word.strip_prefix("agent=") {
                fault.agent = agent.into();
            } else if let Some(Ok(skip)) = word.strip_prefix("skip=").map(str::parse) {
                fault.skip = skip;
            } else if let Some(Ok(times)) = word.strip_prefix("times=").map(str::parse) {
                fault.times = Some(times);
            } else if let ("bare", Kind::Fail(code)) = (*word, fault.kind) {
                fault.kind = Kind::FailBare(code);
            } else {
                return Err(format!(
                    "{word} is no /prefix, method=NAME, agent=NAME, skip=N, times=N or, after a code, bare"
                ));
            }
        }
        Ok(fault)
    }

    /// Whether it can be had without looking into requests.
    pub fn is_whole(&self) -> bool {
        let all = *self == Self::all(self.kind);
        all && matches!(self.kind, Kind::Refuse | Kind::Reset | Kind::Dead)
    }

    fn meets(&self, method: &str, path: &str, agent: &str) -> bool {
        let fits = path.starts_with(&self.prefix) && agent.starts_with(&self.agent);
        fits && (self.method.is_empty() || self.method == method)
    }
}

/// The faults in force. Cheap to share.
#[derive(Clone)]
pub struct Faults {
    list: Arc<Mutex<Vec<Fault>>>,
    changed: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { list: Arc::default(), changed: watch::channel(0).0 }
    }
}

impl Faults {
    /// Adds a fault.
    pub fn add(&self, fault: Fault) {
        self.lock(|list| list.push(fault));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.lock(Vec::clear);
    }

    /// The faults in force.
    pub fn current(&self) -> Vec<Fault> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fault that a request meets, counted off if it is a limited one.
    pub fn take(&self, method: &str, path: &str, agent: &str) -> Option<Kind> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.iter().position(|fault| fault.kind != Kind::Refuse && fault.meets(method, path, agent))?;
        if list[at].skip > 0 {
            list[at].skip -= 1;
            return None;
        }
        let kind = list[at].kind;
        if let Some(times) = &mut list[at].times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                list.remove(at);
            }
        }
        Some(kind)
    }

    /// Whether the listener is closed.
    pub fn refusing(&self) -> bool {
        self.has(|fault| fault.kind == Kind::Refuse)
    }

    /// Whether nothing at all is answered, not even a TLS handshake.
    pub fn dead(&self) -> bool {
        self.has(|fault| fault.kind == Kind::Dead && fault.prefix.is_empty() && fault.method.is_empty())
    }

    /// Whether even streams that are open already must end: watches of a server that resets or refuses.
    pub fn cuts(&self, path: &str) -> bool {
        self.has(|fault| match fault.kind {
            Kind::Refuse => true,
            Kind::Reset => fault.times.is_none() && fault.meets("GET", path, &fault.agent),
            _ => false,
        })
    }

    /// Whether open streams must fall silent.
    pub fn silences(&self, path: &str) -> bool {
        self.has(|fault| fault.kind == Kind::Dead && fault.meets("GET", path, &fault.agent))
    }

    /// Follows changes.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn has(&self, wanted: impl Fn(&Fault) -> bool) -> bool {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).iter().any(wanted)
    }

    fn lock(&self, change: impl FnOnce(&mut Vec<Fault>)) {
        change(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }
}
