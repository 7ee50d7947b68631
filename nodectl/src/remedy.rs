//! One remedy in a message: what happened, to what, why, and behind it, once, "To fix it: ...".
//!
//! An error brings its remedy from where it arises, and whoever passes it on may add one: each alone would be right.

use std::fmt;

/// What stands before a remedy.
const MARK: &str = "To fix it: ";

/// What happened, and what mends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// What happened, to what, and why.
    pub what: String,
    /// What mends it, in the order in which it was said.
    pub remedies: Vec<String>,
}

impl Told {
    /// A text, its remedies taken out of it. Each line of a list may have its own.
    pub fn of(text: &str) -> Told {
        let mut told = Told::default();
        for (n, line) in text.split('\n').enumerate() {
            let (what, remedies) = line.split_once(MARK).unwrap_or((line, ""));
            if n > 0 {
                told.what.push('\n');
            }
            told.what.push_str(if remedies.is_empty() { what } else { what.trim_end_matches([' ', '.']) });
            remedies.split(MARK).for_each(|remedy| told.add(remedy));
        }
        told
    }

    /// An error with its causes. One that wraps another brings its remedy before the cause is told.
    pub fn of_error(error: &anyhow::Error) -> Told {
        error.chain().fold(Told::default(), |told, cause| told.join(": ", &cause.to_string()))
    }

    /// Says more of it.
    pub fn and(mut self, more: &str) -> Told {
        self.what.truncate(self.what.trim_end_matches('.').len());
        self.join(". ", more)
    }

    /// Names what mends it, beside what was named.
    pub fn mended_by(mut self, remedy: &str) -> Told {
        self.add(remedy);
        self
    }

    fn join(mut self, with: &str, more: &str) -> Told {
        let more = Told::of(more);
        if !self.what.is_empty() && !more.what.is_empty() {
            self.what.push_str(with);
        }
        self.what.push_str(&more.what);
        more.remedies.iter().for_each(|remedy| self.add(remedy));
        self
    }

    fn add(&mut self, remedy: &str) {
        let remedy = remedy.trim_end_matches([' ', '.']).to_owned();
        if !remedy.is_empty() && !self.remedies.contains(&remedy) {
            self.remedies.push(remedy);
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.remedies.is_empty() {
            return Ok(());
        }
        // A list has a line of its own for it.
        let stop = if self.what.ends_with('\n') { "" } else { ". " };
        write!(f, "{stop}{MARK}{}", self.remedies.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn remedies_come_once_and_last() {
        let plain = "not confirmed; nothing was changed.";
        assert_eq!(Told::of(plain).to_string(), plain);
        let one = "calico does not serve. To fix it: see its log";
        assert_eq!(Told::of(one).to_string(), one);
        let list = "it has drifted:\n  a\n  b\nTo fix it: make a new plan";
        assert_eq!(Told::of(list).to_string(), list);
        let two = Told::of(one).and("The run stays open").and("To fix it: `nodectl resume`");
        assert_eq!(
            two.to_string(),
            "calico does not serve. The run stays open. To fix it: see its log; `nodectl resume`"
        );
        let lines = "the shim stays: a. To fix it: x\n  b. To fix it: y";
        assert_eq!(Told::of(lines).to_string(), "the shim stays: a\n  b. To fix it: x; y");
        assert_eq!(Told::of("a. To fix it: b. To fix it: b. To fix it: c").to_string(), "a. To fix it: b; c");
    }

    #[test]
    fn the_cause_behind_a_remedy_is_told_before_it() {
        let error = anyhow!("No space left on device").context("the journal cannot be written. To fix it: make room");
        assert_eq!(
            Told::of_error(&error).to_string(),
            "the journal cannot be written: No space left on device. To fix it: make room"
        );
        assert_eq!(Told::of_error(&anyhow!("a").context("b")).to_string(), "b: a");
    }
}
