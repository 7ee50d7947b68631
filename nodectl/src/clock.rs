//! Time as it is written into journals, annotations and reports.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::request::LONGEST_S;

/// Now, RFC 3339 in UTC, to the second.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// Now, RFC 3339 in UTC, to the millisecond.
pub fn now_precisely() -> String {
    format!("{:.3}", Timestamp::now())
}

/// A time of RFC 3339 without the fraction of its second.
pub fn to_the_second(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(whole, _)| format!("{whole}Z"))
}

/// A time of RFC 3339 in milliseconds since 1970; `None` where it is no time.
pub fn milliseconds_at(at: &str) -> Option<u64> {
    u64::try_from(at.parse::<Timestamp>().ok()?.as_millisecond()).ok()
}

/// The time of day in UTC of a time in milliseconds since 1970: `04:10:00.123Z`.
pub fn time_of_day(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let whole = format!("{at:.3}");
    whole.split_once('T').map_or_else(|| whole.clone(), |(_, time)| time.to_owned())
}

/// Now, in seconds since 1970.
pub fn unix_seconds() -> i64 {
    Timestamp::now().as_second()
}

/// Now, in milliseconds since 1970.
pub fn unix_milliseconds() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
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
    match span(text) {
        Some(span) => Ok(SystemTime::now() + span),
        None => bail!(
            "{text:?} is neither a time nor a duration. To fix it: give one like 2026-11-21T04:00:00Z, 90s, 15m or 2h"
        ),
    }
}

/// A duration as given with `--confirm-timeout`: `90s`, `15m`, `2h`; a week at most.
pub fn duration(text: &str) -> Result<Duration> {
    match span(text) {
        Some(span) if !span.is_zero() => Ok(span),
        _ => bail!("{text:?} is not a duration. To fix it: give one like 90s, 15m or 2h"),
    }
}

/// A time limit in seconds, as a number or as `90s`, `15m`, `2h`; a week at most.
pub fn seconds(text: &str) -> Result<u64> {
    match text.parse().ok().or_else(|| span(text).map(|span| span.as_secs())) {
        Some(seconds) if seconds <= LONGEST_S => Ok(seconds),
        _ => bail!("{text:?} is no time limit of up to a week. To fix it: give one like 300, 90s, 15m or 2h"),
    }
}

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    Some(Duration::from_secs(seconds.min(LONGEST_S)))
}

/// A point in time so long from now, RFC 3339 in UTC.
pub fn from_now(span: Duration) -> String {
    Timestamp::try_from(SystemTime::now() + span).map_or_else(|_| now(), |at| format!("{at:.0}"))
}

/// How long it is until a point in time (RFC 3339); zero where it has passed, or is no time.
pub fn until(at: &str) -> Duration {
    let at = at.parse::<Timestamp>().map(SystemTime::from).ok();
    at.and_then(|at| at.duration_since(SystemTime::now()).ok()).unwrap_or_default()
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
    fn durations_are_bounded_and_counted_down() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("999h").unwrap(), Duration::from_secs(LONGEST_S));
        for bad in ["", "0s", "15", "2026-11-21T04:00:00Z", "1d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        let left = until(&from_now(Duration::from_secs(600)));
        assert!(left > Duration::from_secs(590) && left <= Duration::from_secs(600), "{left:?}");
        assert_eq!(until("2020-01-01T00:00:00Z"), Duration::ZERO);
    }

    #[test]
    fn time_limits_are_seconds_or_durations() {
        assert_eq!(["0", "300", "90s", "5m"].map(|text| seconds(text).unwrap()), [0, 300, 90, 300]);
        for bad in ["", "soon", "-3", "604801", "1d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_precise_where_that_is_wanted() {
        let now = now_precisely();
        assert_eq!(now.len(), "2026-11-21T04:10:00.123Z".len(), "{now}");
        assert_eq!(to_the_second("2026-11-21T04:10:00.123Z"), "2026-11-21T04:10:00Z");
        assert_eq!(to_the_second("2026-11-21T04:10:00Z"), "2026-11-21T04:10:00Z");
        assert_eq!(milliseconds_at("1970-01-01T00:00:01.5Z"), Some(1500));
        assert_eq!(milliseconds_at("yesterday"), None);
        assert_eq!(time_of_day(86_400_000 + 3_600_500), "01:00:00.500Z");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(spent(120), "0.1 s");
        assert_eq!(spent(61_500), "1 min 1 s");
        assert_eq!(run_id().find('t'), Some(8), "{}", run_id());
    }
}
