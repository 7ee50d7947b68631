//! What a bench finds: a series of measurements of ours, one of the other way, and their ratio.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// Least and middle value of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The least: what it takes when nothing comes in between.
    pub min: f64,
    /// The middle one.
    pub median: f64,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The unit of both series.
    pub unit: String,
    /// How many times each was measured.
    pub rounds: usize,
    /// This project's way.
    pub ours: Series,
    /// What the other way is.
    pub against: String,
    /// The other way.
    pub other: Series,
    /// Ours by the other: of the middle values.
    pub ratio: f64,
    /// Ours over the other: the middle of the differences within one round, which both spent under the same load.
    pub over: f64,
    /// How far off that may be, half the width of its 95 % interval: nothing narrower tells two ways apart.
    pub spread: f64,
}

impl Figure {
    /// A figure from two series of the same run.
    pub fn new(what: &str, unit: &str, ours: &[f64], against: &str, other: &[f64]) -> Result<Figure> {
        let differences: Vec<f64> = ours.iter().zip(other).map(|(ours, other)| ours - other).collect();
        let (over, spread) = (Series::of(&differences)?.median, spread(&differences));
        let (rounds, ours, other) = (ours.len(), Series::of(ours)?, Series::of(other)?);
        let ratio = ours.median / other.median;
        Ok(Figure {
            what: what.into(),
            unit: unit.into(),
            rounds,
            ours,
            against: against.into(),
            other,
            ratio,
            over,
            spread,
        })
    }
}

impl Series {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Result<Series> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let min = values.first().copied().context("nothing was measured")?;
        let median = values.get(values.len() / 2).copied().context("nothing was measured")?;
        Ok(Series { min, median })
    }
}

/// Half the width of the 95 % interval of the middle value, whatever the values' distribution: it lies between the values that are
/// about the square root of their number, in ranks, before and after the middle.
fn spread(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (middle, ranks) = (values.len() / 2, values.len().isqrt());
    let at = |rank: usize| values.get(rank).or(values.last()).copied().unwrap_or_default();
    (at(middle + ranks) - at(middle.saturating_sub(ranks))) / 2.0
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.unit == "bytes" { 0 } else { 2 };
        let pair = |s: &Series| format!("{:.digits$}/{:.digits$}", s.min, s.median);
        write!(
            f,
            "{:<24} {:>18} {}   {}: {}   ratio {:.3} ({:+.digits$} ± {:.digits$})   (min/median of {})",
            self.what,
            pair(&self.ours),
            self.unit,
            self.against,
            pair(&self.other),
            self.ratio,
            self.over,
            self.spread,
            self.rounds
        )
    }
}

/// What a piece of work took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// By the clock.
    pub wall: f64,
    /// Of the processors, in the processes that it started and waited for, and in theirs.
    pub cpu: f64,
    /// The same with what this process spent itself: starting others is work, whoever does it.
    pub whole: f64,
}

/// Measures a piece of work that other processes do.
pub fn spent(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let (own, cpu, begun) = (used(UsageWho::RUSAGE_SELF)?, used(UsageWho::RUSAGE_CHILDREN)?, Instant::now());
    work()?;
    let wall = milliseconds(begun.elapsed());
    let own = milliseconds(used(UsageWho::RUSAGE_SELF)?.saturating_sub(own));
    let cpu = milliseconds(used(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(cpu));
    Ok(Spent { wall, cpu, whole: cpu + own })
}

/// Processor time of this process, or of the children that were waited for.
fn used(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who).context("the processor time could not be read")?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds).unwrap_or_default()))
}

/// As a fraction of milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_compares_the_middle_values() {
        let figure = Figure::new("x", "ms", &[3.0, 1.0, 2.0], "by hand", &[4.0, 9.0, 4.0]).expect("a figure");
        assert_eq!((figure.ours, figure.other), (Series { min: 1.0, median: 2.0 }, Series { min: 4.0, median: 4.0 }));
        assert_eq!((figure.ratio, figure.over, figure.rounds), (0.5, -2.0, 3));
        // Of -1, -8 and -2, one rank to each side.
        assert_eq!(figure.spread, 3.5);
        assert!(Figure::new("x", "ms", &[], "by hand", &[]).is_err());
    }
}
