//! What somebody who begins or goes on with a run says of it.

use std::time::Duration;

use crate::report::ProgressFormat;

/// How a run is driven.
#[derive(Debug, Clone)]
pub struct Options {
    /// Why, for the journal.
    pub reason: Option<String>,
    /// Who began it, for the journal.
    pub by: String,
    /// Take a new run back unless it is confirmed within this.
    pub confirm_within: Option<Duration>,
    /// Take a failed run back.
    pub auto_revert: bool,
    /// Leave a stopped run open.
    pub stay_open_on_stop: bool,
    /// How progress is shown.
    pub progress: ProgressFormat,
    /// The closed run that a new one is the way back of.
    pub takes_back: Option<String>,
}
