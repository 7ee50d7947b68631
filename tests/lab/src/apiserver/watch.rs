//! Watches: a stream of JSON lines that resumes from a resource version.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api::{Api, ListQuery, Target, present};
use super::error::{ApiError, ApiResult};
use super::faults::Faults;
use super::options::Regime;
use super::request::RequestInfo;
use super::selector::{Fields, Labels};
use super::store::Change;
use super::value::items;

/// One watch.
pub struct Watch {
    api: Arc<Api>,
    target: Target,
    labels: Labels,
    fields: Fields,
    seen: u64,
    bookmarks: bool,
    ends: Instant,
}

/// A line of the stream.
pub type Line = Result<Vec<u8>, std::convert::Infallible>;

impl Watch {
    /// Checks a watch request; the objects to send first come with it.
    pub fn start(api: &Arc<Api>, target: Target, request: &RequestInfo) -> ApiResult<(Self, Vec<Vec<u8>>)> {
        let seconds = request.query("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800);
        let mut watch = Self {
            api: api.clone(),
            target,
            labels: request.labels()?,
            fields: request.fields()?,
            seen: 0,
            bookmarks: request.flag("allowWatchBookmarks"),
            ends: Instant::now() + Duration::from_secs(seconds),
        };
        let initial = request.flag("sendInitialEvents");
        if initial && api.regime == Regime::V1_20 {
            return Err(ApiError::new(
                422,
                "Invalid",
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            ));
        }
        let from: u64 = match request.query("resourceVersion") {
            None => 0,
            Some(text) => {
                let why = format!(
                    "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
                );
                text.parse().map_err(|_| ApiError::new(500, "", why))?
            }
        };
        let mut first = Vec::new();
        if from == 0 || initial {
            first = watch.everything(initial)?;
        } else {
            let (oldest, newest) = api.store.transaction(|store| (store.compacted(), store.revision()));
            if from < oldest {
                // In the stream, not as the answer's status: so does a server that watches out of its cache.
                first = vec![line("ERROR", &ApiError::expired(from, oldest).status())];
                watch.ends = Instant::now();
            }
            watch.seen = from.min(newest);
        }
        Ok((watch, first))
    }

    /// Sends lines until the time is over or nobody listens.
    pub async fn run(mut self, first: Vec<Vec<u8>>, lines: mpsc::Sender<Line>, faults: Faults, path: String) {
        let mut faults_changed = faults.follow();
        let mut newest = self.api.store.follow();
        let mut bookmark_at = Instant::now() + Duration::from_secs(60);
        for line in first {
            if lines.send(Ok(line)).await.is_err() {
                return;
            }
        }
        while Instant::now() < self.ends {
            while faults.silences(&path) {
                tokio::select! {
                    _ = faults_changed.changed() => {}
                    () = lines.closed() => return,
                }
            }
            newest.mark_unchanged();
            for line in self.news() {
                if lines.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            let wake = if self.bookmarks { bookmark_at.min(self.ends) } else { self.ends };
            tokio::select! {
                _ = newest.changed() => continue,
                () = lines.closed() => return,
                () = tokio::time::sleep_until(wake) => {}
            }
            if Instant::now() >= self.ends {
                break;
            }
            bookmark_at = Instant::now() + Duration::from_secs(60);
            if lines.send(Ok(self.bookmark(false))).await.is_err() {
                return;
            }
        }
    }

    fn everything(&mut self, initial: bool) -> ApiResult<Vec<Vec<u8>>> {
        let query = ListQuery { labels: self.labels.clone(), fields: self.fields.clone(), ..ListQuery::default() };
        let list = self.api.list(&self.target, &query)?;
        self.seen = list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        let whole = |object| line("ADDED", &present(&self.target.kind, object));
        let mut lines: Vec<Vec<u8>> = items(&list["items"]).map(whole).collect();
        if initial && self.bookmarks {
            lines.push(self.bookmark(true));
        }
        Ok(lines)
    }

    fn news(&mut self) -> Vec<Vec<u8>> {
        let seen = self.seen;
        let (changes, newest) = self.api.store.transaction(|store| (store.changes_since(seen), store.revision()));
        let Some(changes) = changes else {
            self.ends = Instant::now();
            return vec![line("ERROR", &ApiError::expired(seen, newest).status())];
        };
        self.seen = newest;
        changes.iter().filter_map(|change| self.event(change)).collect()
    }

    /// What a change means to this watch: an object may come into a selector or leave it.
    fn event(&self, change: &Change) -> Option<Vec<u8>> {
        let ours = change.key.resource == self.target.kind.group_resource()
            && (self.target.namespace.is_empty() || change.key.namespace == self.target.namespace);
        if !ours {
            return None;
        }
        let matches = |object: &&Arc<Value>| self.labels.matches(object) && self.fields.matches(object);
        let before = change.before.as_ref().filter(matches);
        let after = change.after.as_ref().filter(matches);
        let (kind, object) = match (before, after) {
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
            (Some(object), None) => ("DELETED", change.after.as_ref().unwrap_or(object)),
            (None, None) => return None,
        };
        let mut object = present(&self.target.kind, object);
        object["metadata"]["resourceVersion"] = json!(change.revision.to_string());
        Some(line(kind, &object))
    }

    fn bookmark(&self, initial: bool) -> Vec<u8> {
        let mut object = json!({"kind": self.target.kind.kind, "apiVersion": self.target.kind.api_version(),
            "metadata": {"resourceVersion": self.seen.to_string()}});
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut text = json!({"type": kind, "object": object}).to_string().into_bytes();
    text.push(b'\n');
    text
}
