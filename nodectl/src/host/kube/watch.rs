//! Watches: what there is, then every change, over a stream that ends every now and then by design.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{self, Call};
use super::status::{Kind, KubeError};
use super::{Kube, target};

/// How long one stream is asked to last.
const STREAM: Duration = Duration::from_secs(30);
/// What a stream may take longer than it was asked to.
const MARGIN: Duration = Duration::from_secs(10);
/// A stream that lasted less than this and told nothing was none.
const SHORT: Duration = Duration::from_millis(300);

/// What a watch tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News<'a> {
    /// All objects as they are now: at the beginning, and again whenever changes may have been missed.
    All(&'a [Value]),
    /// One was added or changed.
    Changed(&'a Value),
    /// One has gone.
    Gone(&'a Value),
    /// Nothing happened for a while.
    Quiet,
}

/// How a stream ended.
enum End {
    Stopped,
    /// As it should, or broken: it goes on from the last version.
    Over,
    /// The server has forgotten that version.
    Expired,
}

impl Kube {
    /// Follows a collection until `handle` breaks off. A stream that ends or breaks is taken up where it was; where the server
    /// has forgotten that version (410), everything is listed anew. A server that does not answer for as long as patience
    /// lasts is an error. `quiet` is how long to stay without news, at most.
    pub fn watch(
        &self,
        path: &str,
        query: &[(&str, &str)],
        quiet: Duration,
        mut handle: impl FnMut(News<'_>) -> ControlFlow<()>,
    ) -> Result<(), KubeError> {
        loop {
            let (items, mut version) = self.list_at(path, query)?;
            if handle(News::All(&items)).is_break() {
                return Ok(());
            }
            drop(items);
            let (mut answered, mut failures, mut renewed) = (Instant::now(), 0, false);
            loop {
                let (begun, before) = (Instant::now(), version.clone());
                let ended = self.stream(path, query, quiet.min(STREAM), &mut version, &mut handle);
                if ended.is_ok() || version != before {
                    (answered, failures, renewed) = (Instant::now(), 0, false);
                }
                match ended {
                    Ok(End::Stopped) => return Ok(()),
                    Ok(End::Over) => {}
                    Ok(End::Expired) => break,
                    // The credentials may have been rotated since they were read.
                    Err(error) if error.is_unauthorized() && !renewed => {
                        renewed = true;
                        self.renew().map_err(|_| error)?;
                    }
                    Err(error) => {
                        self.overcome(error, path, failures, self.patience.saturating_sub(answered.elapsed()))?;
                        failures += 1;
                    }
                }
                if handle(News::Quiet).is_break() {
                    return Ok(());
                }
                // A stream that ends at once must not become a hail of requests.
                if version == before && begun.elapsed() < SHORT {
                    std::thread::sleep(SHORT);
                }
            }
            std::thread::sleep(SHORT);
        }
    }

    /// Waits until a stream may be tried again, or says why it may not.
    fn overcome(&self, error: KubeError, path: &str, failures: u32, left: Duration) -> Result<(), KubeError> {
        // One that breaks off half way through an event has done no harm.
        let broken = matches!(error.kind, Kind::Broken).then(|| http::backoff(failures));
        match broken.or_else(|| http::pause(&error, &Call::read(path.to_owned()), failures)) {
            Some(pause) if pause < left => {
                std::thread::sleep(pause);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        length: Duration,
        version: &mut String,
        handle: &mut impl FnMut(News<'_>) -> ControlFlow<()>,
    ) -> Result<End, KubeError> {
        let seconds = length.as_secs().max(1).to_string();
        let from = version.clone();
        let mut query = query.to_vec();
        query.extend([
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", from.as_str()),
            ("timeoutSeconds", seconds.as_str()),
        ]);
        let call = Call::read(target(path, &query));
        let mut end = End::Over;
        let followed = self.fresh_session()?.follow(&call, length + MARGIN, |line| {
            end = event(line, version, handle);
            if matches!(end, End::Over) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        match followed {
            Ok(()) => Ok(end),
            Err(error) if error.code == Some(410) => Ok(End::Expired),
            Err(error) => Err(error),
        }
    }
}

/// One line of the stream.
fn event(line: &[u8], version: &mut String, handle: &mut impl FnMut(News<'_>) -> ControlFlow<()>) -> End {
    // A line that was cut off is followed by the end of the stream.
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return End::Over };
    let Some(object) = event.get("object") else { return End::Over };
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "ERROR" {
        // 410: the version is too old. Any other is met again by the list.
        return End::Expired;
    }
    if let Some(now) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
        now.clone_into(version);
    }
    let told = match kind {
        "ADDED" | "MODIFIED" => handle(News::Changed(object)),
        "DELETED" => handle(News::Gone(object)),
        _ => ControlFlow::Continue(()),
    };
    if told.is_break() { End::Stopped } else { End::Over }
}
