//! http://127.0.0.1:10248/healthz.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};

/// Answers in a thread of its own.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 10248)).context("port 10248 of the node is taken")?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A caller that goes away early is none of our business.
            let _ = answer(stream);
        }
    });
    Ok(())
}

/// Reads a request's head and answers "ok".
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (status, body) =
        if first.starts_with("GET /healthz") { ("200 OK", "ok") } else { ("404 Not Found", "404 page not found") };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
