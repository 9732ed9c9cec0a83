//! When to look after a disk that another domain serves, and when nobody is to wait for it any longer.
//!
//! Looking after it means a dozen questions to xenstore, one after the other, and the guest waits meanwhile. What asks
//! for it is partly in the hands of the back end's domain, which can change its nodes without end: so there is a limit.

use vd_xenbus::rate::{Admission, RateLimiter};

/// Looks in a row, and how many more a second. A connection takes less than the first.
const LOOKS: u32 = 16;
const LOOKS_PER_SECOND: u32 = 2;
/// Ticks between two looks at a disk without a back end: nothing should come that no watch tells of.
const TICKS: u32 = 8;

/// How a disk stands with its back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Connected.
    Up,
    /// On the way to it, or without one.
    Away,
    /// This side is done and the back end has to let go, which no event tells of.
    LettingGo,
}

/// One disk's share of the main loop.
#[derive(Clone, Debug)]
pub struct Attention {
    due: bool,
    limiter: RateLimiter,
    /// Nanoseconds that requests wait for a back end.
    patience: u64,
    /// Since when there is none.
    away_since: Option<u64>,
    /// It was said that nobody is to wait any longer.
    said: bool,
    ticks: u32,
}

impl Attention {
    /// For a disk whose requests wait for so many nanoseconds.
    #[must_use]
    pub const fn new(patience: u64) -> Self {
        Self {
            due: true,
            limiter: RateLimiter::new(LOOKS, LOOKS_PER_SECOND),
            patience,
            away_since: None,
            said: false,
            ticks: 0,
        }
    }

    /// Something has changed, or may have.
    pub fn note(&mut self) {
        self.due = true;
    }

    /// Whether it is to be looked after.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due
    }

    /// Whether to look now; if not, it stays due for the next tick.
    pub fn begin(&mut self, now: u64) -> bool {
        let begun = self.due && matches!(self.limiter.admit(now), Admission::Admitted { .. });
        self.due &= !begun;
        begun
    }

    /// Some time has passed. Returns whether nobody is to wait for the back end any longer: once for each absence.
    pub fn tick(&mut self, now: u64, standing: Standing) -> bool {
        if standing == Standing::Up {
            (self.away_since, self.said, self.ticks) = (None, false, 0);
            return false;
        }
        self.ticks = self.ticks.saturating_add(1);
        if standing == Standing::LettingGo || self.ticks >= TICKS {
            self.ticks = 0;
            self.due = true;
        }
        let since = *self.away_since.get_or_insert(now);
        let over = now.saturating_sub(since) >= self.patience && !self.said;
        self.said |= over;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_changes_without_end_is_looked_at_within_limits() {
        let mut attention = Attention::new(SECOND);
        let looks = |attention: &mut Attention, now: u64| {
            let mut count = 0;
            for _ in 0..1000 {
                attention.note();
                count += u32::from(attention.begin(now));
            }
            count
        };
        assert_eq!(looks(&mut attention, SECOND), LOOKS);
        assert!(attention.is_due(), "it is not forgotten");
        assert_eq!(looks(&mut attention, 2 * SECOND), LOOKS_PER_SECOND);
    }

    #[test]
    fn what_is_not_due_is_not_looked_at() {
        let mut attention = Attention::new(SECOND);
        assert!(attention.begin(0), "there is a first time");
        assert!(!attention.begin(1) && !attention.is_due());
        for now in 0..100 {
            assert!(!attention.tick(now * SECOND, Standing::Up));
            assert!(
                !attention.is_due(),
                "a disk that works needs no looking after"
            );
        }
    }

    #[test]
    fn patience_ends_once_for_each_absence() {
        let mut attention = Attention::new(10 * SECOND);
        for absence in 0..3_u64 {
            let start = absence * 100 * SECOND;
            let ends = (0..60).map(|n| attention.tick(start + n * SECOND / 2, Standing::Away));
            let ends: std::vec::Vec<_> = (0..60).zip(ends).filter(|(_, end)| *end).collect();
            assert_eq!(ends, [(20, true)], "after 10 s, and not again");
            assert!(!attention.tick(start + 50 * SECOND, Standing::Up));
        }
    }

    #[test]
    fn a_back_end_that_has_to_let_go_is_asked_at_every_tick() {
        let mut attention = Attention::new(SECOND);
        assert!(attention.begin(0));
        attention.tick(0, Standing::LettingGo);
        assert!(attention.is_due() && attention.begin(0));
        let due = (0..2 * TICKS).filter(|_| {
            attention.tick(0, Standing::Away);
            attention.begin(0)
        });
        assert_eq!(due.count(), 2);
    }
}
