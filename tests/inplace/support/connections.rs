//! Connections that are begun while a pod changes hands, and must live on when it has.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use nodectl::host::netns;

/// How long a connection may take to stand, or to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// From whom to whom.
#[derive(Clone, Debug)]
pub struct Way {
    /// The beginner's name.
    pub from: &'static str,
    /// Its namespace; this thread's where there is none.
    pub netns: Option<PathBuf>,
    /// An echo.
    pub to: SocketAddr,
}

/// A connection, and when it was begun.
pub struct Begun {
    way: Way,
    /// The operation before it.
    pub when: String,
    stream: TcpStream,
}

impl Begun {
    /// Begins one, and sees that it answers.
    pub fn new(way: &Way, when: String) -> Begun {
        let to = way.to;
        let connect = move || TcpStream::connect_timeout(&to, LIMIT);
        let stream = match &way.netns {
            Some(path) => netns::enter(path, connect).unwrap(),
            None => connect(),
        };
        let stream = stream.unwrap_or_else(|e| panic!("{way:?}, {when}: {e}"));
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut begun = Begun { way: way.clone(), when, stream };
        assert_eq!(begun.trouble(), None);
        begun
    }

    /// What is wrong with it by now, in a sentence.
    pub fn trouble(&mut self) -> Option<String> {
        let mut answer = [0];
        let asked = self.stream.write_all(b"x").and_then(|()| self.stream.read_exact(&mut answer));
        let (from, to, local) = (self.way.from, self.way.to, self.stream.local_addr());
        asked.err().map(|e| format!("{from} -> {to}, from {local:?}, begun after {}: {e}", self.when))
    }
}
