//! Health answers over HTTP: 200 while a flag is up, 503 otherwise. One thread, one request at a time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What is true of a program now, shared with the thread that answers.
pub type Flag = Arc<AtomicBool>;

/// How many bytes of a request are read.
const LONGEST: u64 = 1 << 16;

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

/// Reads a request up to its empty line, in however many pieces it comes, and answers it.
fn answer(mut stream: TcpStream, flags: &BTreeMap<&'static str, Flag>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).take(LONGEST).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // Closed with bytes unread, a connection is reset, and the client may lose the answer.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    let status = match flags.get(path) {
        Some(flag) if flag.load(Ordering::SeqCst) => "200 OK",
        Some(_) => "503 Service Unavailable",
        None => "404 Not Found",
    };
    // write! would send each of its parts for itself.
    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Asks a health address once: an error says what it answered.
pub fn ask(address: &str, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("nothing answers on {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let status = reply.lines().next().unwrap_or_default().to_owned();
    if !status.contains(" 200 ") {
        bail!("{address}{path} answers {status:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_in_pieces_is_answered_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        let flags = BTreeMap::from([("/readiness", Flag::new(true.into()))]);
        let answered = std::thread::spawn(move || answer(server, &flags));
        for piece in ["GET ", "/readiness", " HTTP/1.1\r\nHost: ", "x\r\n", "\r\n"] {
            client.write_all(piece.as_bytes()).unwrap();
            // Nothing tells when the other end has read a piece.
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        answered.join().unwrap().unwrap();
    }
}
