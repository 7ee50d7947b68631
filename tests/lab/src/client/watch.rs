//! The stream of a watch, line by line.

use std::io::{BufRead, BufReader};

use serde_json::Value;
use ureq::{Body, BodyReader};

use super::error::{ClientError, ClientResult};

/// One line of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// ADDED, MODIFIED, DELETED, BOOKMARK; ERROR becomes an error.
    pub kind: String,
    /// The object.
    pub object: Value,
}

/// Blocks for the next event; ends when the server ends the stream.
pub struct Watch {
    lines: BufReader<BodyReader<'static>>,
}

impl Watch {
    /// From the body of the answer.
    pub fn new(body: Body) -> Self {
        Self { lines: BufReader::new(body.into_with_config().limit(u64::MAX).reader()) }
    }
}

impl Iterator for Watch {
    type Item = ClientResult<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Err(error) => Some(Err(ClientError::transport("watch", &error))),
            Ok(_) => Some(event(&line)),
        }
    }
}

fn event(line: &str) -> ClientResult<Event> {
    let mut value: Value = serde_json::from_str(line).map_err(|error| ClientError::transport("watch", &error))?;
    let object = value["object"].take();
    match value["type"].as_str() {
        Some("ERROR") => {
            let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            Err(ClientError::refused("watch", code, &object.to_string()))
        }
        kind => Ok(Event { kind: kind.unwrap_or_default().to_string(), object }),
    }
}
