//! Readiness probes: HTTP, TCP and commands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Kubelet;
use super::pod::{self, list, number, text};

/// What is known of a container's readiness.
#[derive(Default)]
pub struct Probe {
    container: String,
    last: Option<Instant>,
    failures: i64,
    ready: bool,
}

impl Probe {
    /// True when the probe of this container has succeeded, and has not failed too often since.
    pub fn is_ready(&self, container: &str) -> bool {
        self.ready && self.container == container
    }

    /// Probes if it is time; a container without a probe is ready.
    pub fn run(&mut self, kubelet: &Kubelet, pod: &Value, container: &Value, id: &str, ip: &str) {
        if self.container != id {
            *self = Probe { container: id.to_owned(), ..Probe::default() };
        }
        let Some(probe) = container.get("readinessProbe") else {
            self.ready = true;
            return;
        };
        // Whole seconds are the API's smallest period; the kubelet's own look at the pod comes as often.
        let period = Duration::from_secs(number(probe, "/periodSeconds", 10).clamp(1, 3).unsigned_abs());
        if self.ready && self.last.is_some_and(|last| last.elapsed() < period) {
            return;
        }
        self.last = Some(Instant::now());
        if once(kubelet, pod, container, probe, id, ip) {
            (self.ready, self.failures) = (true, 0);
        } else {
            self.failures += 1;
            if self.failures >= number(probe, "/failureThreshold", 3) {
                self.ready = false;
            }
        }
    }
}

/// One try.
fn once(kubelet: &Kubelet, pod: &Value, container: &Value, probe: &Value, id: &str, ip: &str) -> bool {
    let limit = Duration::from_secs(number(probe, "/timeoutSeconds", 1).max(1).unsigned_abs());
    let command: Vec<String> = list(probe, "/exec/command").filter_map(Value::as_str).map(str::to_owned).collect();
    if !command.is_empty() {
        return kubelet.cri.exec_sync(id, &command, limit).is_ok();
    }
    let own = if pod::is_host_network(pod) { kubelet.options.address.to_string() } else { ip.to_owned() };
    for kind in ["httpGet", "tcpSocket"] {
        let Some(target) = probe.get(kind) else {
            continue;
        };
        let host = if text(target, "/host").is_empty() { &own } else { text(target, "/host") };
        let Some(address) =
            host.parse().ok().zip(port(target, container)).map(|(host, port)| SocketAddr::new(host, port))
        else {
            return false;
        };
        return if kind == "httpGet" {
            http(address, text(target, "/path"), limit)
        } else {
            TcpStream::connect_timeout(&address, limit).is_ok()
        };
    }
    true
}

/// A port by number, or by its name in the container.
fn port(target: &Value, container: &Value) -> Option<u16> {
    let wanted = target.get("port")?;
    let number = wanted.as_i64().or_else(|| {
        let name = wanted.as_str()?;
        list(container, "/ports").find(|port| text(port, "/name") == name)?.get("containerPort")?.as_i64()
    })?;
    u16::try_from(number).ok()
}

/// True for an answer of 200 to 399.
fn http(address: SocketAddr, path: &str, limit: Duration) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let path = if path.is_empty() { "/" } else { path };
        // write! would send each of its parts for itself.
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut head = [0u8; 12];
        stream.read_exact(&mut head)?;
        let status = String::from_utf8_lossy(&head).split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        Ok(status.is_some_and(|code| (200..400).contains(&code)))
    };
    ask().unwrap_or(false)
}
