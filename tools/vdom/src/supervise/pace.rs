//! How soon a guest is created again: one that ends as soon as it has started must not keep the host busy.

use std::time::Duration;

use crate::failure::Trouble;

/// The time from one start to the next, at least.
pub(crate) const SHORTEST: Duration = Duration::from_secs(2);
/// A guest that has lived for so long has not ended at once.
const LONG: Duration = Duration::from_secs(30);
/// What that time becomes at most, unless the operator says otherwise, and what he may say.
const MOST: Duration = Duration::from_secs(60);
const RANGE: std::ops::RangeInclusive<u64> = 2..=3600;
const VARIABLE: &str = "VDOM_RESTART_GAP";

/// The time from this start to the next, at least: twice as long after each short life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    next: Duration,
    most: Duration,
}

impl Pace {
    fn new(most: Duration) -> Self {
        Self {
            next: SHORTEST,
            most,
        }
    }

    /// With the longest time from the environment.
    pub(crate) fn from_environment() -> Result<Self, Trouble> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Self::new(MOST)),
            Some(text) => Self::parse(&text.to_string_lossy()),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Trouble> {
        let seconds = text.parse().ok().filter(|seconds| RANGE.contains(seconds));
        let most = seconds.map(Duration::from_secs).ok_or_else(|| {
            Trouble::new(
                format!("{VARIABLE}={text:?} is no number of seconds that can be"),
                format!("use {} to {}", RANGE.start(), RANGE.end()),
            )
        })?;
        Ok(Self::new(most))
    }

    /// What it is for a guest that has lived for so long.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= LONG {
            self.next = SHORTEST;
        }
        let gap = self.next;
        self.next = (gap * 2).min(self.most);
        gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(pace: &mut Pace, lives: &[u64]) -> Vec<u64> {
        let lives = lives.iter().copied().map(Duration::from_secs);
        lives.map(|lived| pace.after(lived).as_secs()).collect()
    }

    #[test]
    fn short_lives_are_further_and_further_apart_until_there_is_a_long_one() {
        let mut pace = Pace::new(MOST);
        let short = [0, 1, 29, 0, 0, 0, 0];
        assert_eq!(gaps(&mut pace, &short), [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(gaps(&mut pace, &[30, 0, 0, 3600, 0]), [2, 4, 8, 2, 4]);
    }

    #[test]
    fn the_operator_may_have_it_otherwise() {
        for (text, expected) in [("2", [2, 2, 2]), ("5", [2, 4, 5]), ("3600", [2, 4, 8])] {
            let mut pace = Pace::parse(text).unwrap();
            assert_eq!(gaps(&mut pace, &[0, 0, 0]), expected, "{text}");
        }
        for text in ["", "1", "3601", "2s", "-2", "99999999999999999999"] {
            let trouble = Pace::parse(text).unwrap_err();
            assert!(trouble.what.contains(VARIABLE), "{text}");
        }
    }

    #[test]
    fn that_is_a_minute_if_nothing_is_said() {
        assert_eq!(Pace::new(MOST), Pace::parse("60").unwrap());
    }
}
