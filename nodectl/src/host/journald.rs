//! The system's journal, by its native protocol: entries with fields of our own.
//!
//! Not by a library: the ones at hand wait for a journald that does not read, and a switch must not hang for the sake of its log.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where journald listens; absent where there is none.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest value: an entry is one datagram, and those of a socket have a limit (net.core.wmem_default, 208 KiB).
const LONGEST: usize = 16 * 1024;

/// Sends an entry. Nothing happens where there is no journald, or where it does not read.
pub fn send(fields: &[(&str, &str)]) {
    send_to(Path::new(SOCKET), fields);
}

fn send_to(socket: &Path, fields: &[(&str, &str)]) {
    let sent = UnixDatagram::unbound().and_then(|datagram| {
        datagram.set_nonblocking(true)?;
        datagram.send_to(&encode(fields), socket)
    });
    if let Err(error) = sent {
        tracing::debug!("the journal was not told: {error}");
    }
}

/// `NAME=value` a line; a value of several lines with its length before it (eight bytes, little-endian).
fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut entry = Vec::new();
    for (name, value) in fields {
        let value = &value.as_bytes()[..value.floor_char_boundary(LONGEST)];
        entry.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value);
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_arrives_as_the_protocol_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        send_to(&path, &[("MESSAGE", "nobody listens")]);
        let journal = UnixDatagram::bind(&path).unwrap();
        let long = "ä".repeat(LONGEST);
        send_to(&path, &[("MESSAGE", "two\nlines"), ("NODECTL_RUN", "r1"), ("LONG", &long)]);
        let mut buffer = vec![0; 64 * 1024];
        let length = journal.recv(&mut buffer).unwrap();
        let wanted =
            [&b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nNODECTL_RUN=r1\nLONG="[..], &long.as_bytes()[..LONGEST], b"\n"];
        assert_eq!(buffer[..length], wanted.concat());
    }

    #[test]
    fn a_journal_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let text = "x".repeat(LONGEST);
        (0..2000).for_each(|_| send_to(&path, &[("MESSAGE", &text)]));
    }
}
