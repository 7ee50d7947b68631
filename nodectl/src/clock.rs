//! Time as it is written into journals, annotations and reports.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use jiff::Timestamp;

/// Now, RFC 3339 in UTC, to the second.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// Now, in seconds since 1970.
pub fn unix_seconds() -> i64 {
    Timestamp::now().as_second()
}

/// A run's id: its time, and the process that began it.
pub fn run_id() -> String {
    let now = Timestamp::now().to_string();
    let digits: String = now.chars().take(19).filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("{digits}z-{}", std::process::id()).to_lowercase()
}

/// A point in time as given with `--deadline`: RFC 3339, or a duration from now (`90s`, `15m`, `2h`).
pub fn deadline(text: &str) -> Result<SystemTime> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(SystemTime::from(at));
    }
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).unwrap_or((text, ""));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!(
            "{text:?} is neither a time nor a duration. To fix it: give one like 2026-11-21T04:00:00Z, 90s, 15m or 2h"
        ),
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)) {
        Some(seconds) => Ok(SystemTime::now() + Duration::from_secs(seconds.min(7 * 24 * 3600))),
        None => bail!(
            "{text:?} is neither a time nor a duration. To fix it: give one like 2026-11-21T04:00:00Z, 90s, 15m or 2h"
        ),
    }
}

/// Milliseconds for people: `0.1 s`, `12 s`, `3 min 20 s`.
pub fn spent(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..60_000 => format!("{} s", ms / 1000),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_times_or_durations() {
        assert!(deadline("15m").is_ok());
        assert!(deadline("2026-11-21T04:00:00Z").is_ok());
        for bad in ["", "m", "15", "-3m", "ßm", "99999999999999999999h"] {
            assert!(deadline(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_read_well() {
        assert_eq!(spent(120), "0.1 s");
        assert_eq!(spent(61_500), "1 min 1 s");
        assert_eq!(run_id().find('t'), Some(8), "{}", run_id());
    }
}
