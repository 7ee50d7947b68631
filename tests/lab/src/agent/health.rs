//! Health answers over HTTP: 200 while a flag is up, 503 otherwise. One thread, one request at a time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What is true of a program now, shared with the thread that answers.
pub type Flag = Arc<AtomicBool>;

/// Serves the flags under their paths, for the life of the process.
pub fn serve(address: &str, flags: BTreeMap<&'static str, Flag>) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| {
        format!("health answers could not be served on {address}. To fix it: stop what listens there")
    })?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off is its own trouble.
            let _ = answer(stream, &flags);
        }
    });
    Ok(())
}

/// Reads one request line and answers it.
fn answer(mut stream: TcpStream, flags: &BTreeMap<&'static str, Flag>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0_u8; 1024];
    let length = stream.read(&mut buffer)?;
    let request = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let status = match flags.get(path) {
        Some(flag) if flag.load(Ordering::SeqCst) => "200 OK",
        Some(_) => "503 Service Unavailable",
        None => "404 Not Found",
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Asks a health address once: an error says what it answered.
pub fn ask(address: &str, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("nothing answers on {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let status = reply.lines().next().unwrap_or_default().to_owned();
    if !status.contains(" 200 ") {
        bail!("{address}{path} answers {status:?}");
    }
    Ok(())
}
