//! A blocking route netlink socket: requests with the kernel's own words on failure, dumps that are whole.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as Raw, SocketAddr};
use nix::errno::Errno;

/// How often a dump is repeated that changed while it was read.
const DUMP_ATTEMPTS: usize = 30;

/// How many requests are sent at once. Each comes back as an acknowledgement that takes some kilobyte of the receive buffer
/// (208 KiB where nobody changed it); when that is full the kernel drops the rest, and nobody knows what was done.
const BATCH: usize = 64;

/// NLMSGERR_ATTR_MSG of linux/netlink.h: the kernel's explanation, as text.
const ATTRIBUTE_MESSAGE: u16 = 1;

/// A request that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error code.
    pub errno: Errno,
    /// The kernel's explanation, where it gives one.
    pub text: Option<String>,
}

/// A message to send, with its NLM_F_ flags.
pub type Request = (RouteNetlinkMessage, u16);

/// A connection to the kernel in the network namespace of the thread that opened it.
pub struct Socket {
    raw: Raw,
    sequence: u32,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{}: {text}", self.errno.desc()),
            None => f.write_str(self.errno.desc()),
        }
    }
}

impl std::error::Error for Refused {}

impl Socket {
    /// Opens a connection.
    pub fn open() -> Result<Socket> {
        let context = "could not open a netlink socket";
        let mut raw = Raw::new(NETLINK_ROUTE).context(context)?;
        raw.bind_auto().context(context)?;
        raw.connect(&SocketAddr::new(0, 0)).context(context)?;
        // Kernels before 4.12 and 4.20 lack these; all that is lost is an explanation, or a filter in a dump.
        let _ = raw.set_ext_ack(true);
        let _ = raw.set_cap_ack(true);
        let _ = raw.set_netlink_get_strict_chk(true);
        Ok(Socket { raw, sequence: 0 })
    }

    /// Reads a whole table. A dump that the kernel marks as interrupted by a change may lack entries or hold them twice: it
    /// is read again.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(messages) = self.dump_once(message)? {
                return Ok(messages);
            }
        }
        bail!("the kernel's tables changed {DUMP_ATTEMPTS} times while they were read")
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let mut results = self.batch(vec![(message, flags)])?;
        match results.pop() {
            Some(Err(refused)) => Err(refused.into()),
            _ => Ok(()),
        }
    }

    /// Asks for one object.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage> {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message, NLM_F_REQUEST);
        self.send(&buffer)?;
        loop {
            for part in self.receive()?.into_iter().filter(|part| part.header.sequence_number == self.sequence) {
                match part.payload {
                    NetlinkPayload::InnerMessage(inner) => return Ok(inner),
                    NetlinkPayload::Error(error) => outcome(error.raw_code(), &error.header, part.header.flags)?,
                    _ => {}
                }
            }
        }
    }

    /// Sends many requests in few system calls; the kernel works them off in order, whether or not one before it failed.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), Refused>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut buffer = Vec::new();
        let mut waiting = 0;
        for (message, flags) in requests {
            self.append(&mut buffer, message, flags | NLM_F_REQUEST | NLM_F_ACK);
            waiting += 1;
            if waiting == BATCH {
                self.flush(&mut buffer, &mut waiting, &mut results)?;
            }
        }
        self.flush(&mut buffer, &mut waiting, &mut results)?;
        Ok(results)
    }

    fn flush(
        &mut self,
        buffer: &mut Vec<u8>,
        waiting: &mut usize,
        results: &mut Vec<Result<(), Refused>>,
    ) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.send(buffer)?;
        buffer.clear();
        while *waiting > 0 {
            for message in self.receive()? {
                if let NetlinkPayload::Error(error) = &message.payload {
                    results.push(outcome(error.raw_code(), &error.header, message.header.flags));
                    *waiting -= 1;
                }
            }
        }
        Ok(())
    }

    fn dump_once(&mut self, message: &RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&buffer)?;
        let (mut messages, mut interrupted) = (Vec::new(), false);
        loop {
            for part in self.receive()? {
                if part.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= part.header.flags & NLM_F_DUMP_INTR != 0;
                match part.payload {
                    NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                    NetlinkPayload::Done(done) if done.code == 0 => {
                        return Ok((!interrupted).then_some(messages));
                    }
                    NetlinkPayload::Done(done) => bail!(refused(done.code, None)),
                    NetlinkPayload::Error(error) => {
                        outcome(error.raw_code(), &error.header, part.header.flags)?;
                    }
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn send(&self, buffer: &[u8]) -> Result<()> {
        loop {
            match self.raw.send(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("could not send to the kernel over netlink"),
            }
        }
    }

    /// The messages of one datagram.
    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let datagram = loop {
            match self.raw.recv_from_full() {
                Ok((datagram, _)) => break datagram,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("could not read from the kernel over netlink"),
            }
        };
        let mut messages = Vec::new();
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .context("a message of the kernel could not be understood")?;
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            if length == 0 {
                break;
            }
            rest = &rest[length..];
            messages.push(message);
        }
        Ok(messages)
    }
}

fn outcome(code: i32, payload: &[u8], flags: u16) -> Result<(), Refused> {
    if code == 0 { Ok(()) } else { Err(refused(code, explanation(payload, flags))) }
}

fn refused(code: i32, text: Option<String>) -> Refused {
    Refused { errno: Errno::from_raw(code.abs()), text }
}

/// The text among the attributes behind an error: after the request's header, or the whole request unless it was capped.
fn explanation(payload: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let skipped = if flags & NLM_F_CAPPED != 0 { 16 } else { request.next_multiple_of(4) };
    let mut rest = payload.get(skipped..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        if kind == ATTRIBUTE_MESSAGE {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}
