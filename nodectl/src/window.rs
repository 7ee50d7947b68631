//! Maintenance windows: when a switch may begin, and by when it must have ended. In UTC, as the journal's times are.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

/// A time of the day, on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Days on which it begins, Monday first.
    days: [bool; 7],
    /// Its first minute, counted from midnight.
    from: i64,
    /// The minute after its last one; at most that of the next day at the same time.
    to: i64,
}

impl Window {
    /// When the window that is open at this time (seconds since 1970) ends; `None` where none is.
    pub fn ends(&self, now: i64) -> Option<i64> {
        let today = now.div_euclid(DAY);
        // One of yesterday may reach into today.
        [today - 1, today].into_iter().find_map(|day| {
            // 1 January 1970 was a Thursday.
            let weekday = usize::try_from((day + 3).rem_euclid(7)).unwrap_or_default();
            let (from, to) = (day * DAY + self.from * MINUTE, day * DAY + self.to * MINUTE);
            (self.days.get(weekday) == Some(&true) && (from..to).contains(&now)).then_some(to)
        })
    }
}

/// When the last of the windows that are open now ends.
pub fn ends(windows: &[Window], now: i64) -> Option<SystemTime> {
    let end = windows.iter().filter_map(|window| window.ends(now)).max()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).ok()?))
}

impl FromStr for Window {
    type Err = anyhow::Error;

    /// `Sat,Sun 02:00-05:00`, `Mon-Fri 23:00-03:00`, `02:00-05:00`.
    fn from_str(text: &str) -> anyhow::Result<Window> {
        let wrong = || format!("{text:?} is no window: give one like \"Sat,Sun 02:00-05:00\" (UTC)");
        let (days, times) = text.trim().rsplit_once(' ').unwrap_or(("Mon-Sun", text.trim()));
        let (from, to) = times.split_once('-').with_context(wrong)?;
        let (from, mut to) = (minute(from).with_context(wrong)?, minute(to).with_context(wrong)?);
        if from == 24 * 60 {
            bail!(wrong());
        }
        if to <= from {
            to += 24 * 60;
        }
        let mut window = Window { days: [false; 7], from, to };
        for part in days.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first).with_context(wrong)?, day(last).with_context(wrong)?);
            let count = (last + 7 - first) % 7;
            (0..=count).for_each(|n| window.days[(first + n) % 7] = true);
        }
        Ok(window)
    }
}

fn day(text: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(text.trim()))
}

fn minute(text: &str) -> Option<i64> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u8>().ok()).flatten().map(i64::from);
    let (hour, minute) = (number(hour)?, number(minute)?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= 24 * 60).then_some(all)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = DAYS.iter().zip(self.days).filter_map(|(name, on)| on.then_some(*name)).collect();
        let time = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        let to = if self.to > 24 * 60 { self.to - 24 * 60 } else { self.to };
        write!(f, "{} {}-{}", days.join(","), time(self.from), time(to))
    }
}

impl TryFrom<String> for Window {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Window> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    #[test]
    fn a_window_is_open_on_its_days_and_into_the_next() {
        let window: Window = "Sat,Sun 02:00-05:30".parse().unwrap();
        // 21 November 2026 is a Saturday.
        assert_eq!(window.ends(at("2026-11-21T02:00:00Z")), Some(at("2026-11-21T05:30:00Z")));
        for closed in ["2026-11-21T01:59:59Z", "2026-11-21T05:30:00Z", "2026-11-20T03:00:00Z"] {
            assert_eq!(window.ends(at(closed)), None, "{closed}");
        }
        let night: Window = "Fri-Sat 23:00-03:00".parse().unwrap();
        assert_eq!(night.ends(at("2026-11-21T01:00:00Z")), Some(at("2026-11-21T03:00:00Z")));
        assert_eq!(night.ends(at("2026-11-20T01:00:00Z")), None, "Thursday's night is none of them");
        let week: Window = "Sat-Mon 00:00-24:00".parse().unwrap();
        assert!(week.ends(at("2026-11-23T23:59:00Z")).is_some() && week.ends(at("2026-11-24T00:00:00Z")).is_none());
        assert_eq!(ends(&[], at("2026-11-21T02:00:00Z")), None);
    }

    #[test]
    fn a_window_reads_as_it_is_written() {
        for (text, wanted) in [
            ("02:00-05:00", "Mon,Tue,Wed,Thu,Fri,Sat,Sun 02:00-05:00"),
            ("sat,sun 22:00-04:00", "Sat,Sun 22:00-04:00"),
            ("Fri-Mon 00:00-24:00", "Mon,Fri,Sat,Sun 00:00-24:00"),
        ] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string(), wanted);
            assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        }
        for bad in [
            "",
            "Sat",
            "Sat 2:00-5:00",
            "Sat 25:00-26:00",
            "Someday 02:00-05:00",
            "02:00",
            "24:00-03:00",
            "02:60-03:00",
        ] {
            assert!(bad.parse::<Window>().unwrap_err().to_string().contains("is no window"), "{bad}");
        }
    }
}
