//! When the main loop looks at what no event tells of.
//!
//! Invariant: a tick is not put off by whatever else sets the timer, however often: the guest, a back end or a disk that is
//! zeroed can keep the main loop busy for longer than the time between two.

/// Nanoseconds between two looks.
pub const TICK: u64 = 500_000_000;

/// When the next tick is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextTick {
    next: u64,
}

impl NextTick {
    /// A tick is over; the next one comes a while after `now`.
    pub fn done(&mut self, now: u64) {
        self.next = now.saturating_add(TICK);
    }

    /// What to set the timer to: the next tick, or `earlier`, if there is something to do before.
    #[must_use]
    pub fn deadline(&self, earlier: Option<u64>) -> u64 {
        earlier.map_or(self.next, |earlier| earlier.min(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_comes_however_often_the_timer_is_set() {
        let mut ticks = NextTick::default();
        ticks.done(1_000);
        let mut timer = ticks.deadline(None);
        let mut now = 1_000;
        while now < timer {
            // Something else has used the timer, and it is set again.
            now += TICK / 3;
            timer = ticks.deadline(None);
        }
        assert_eq!(timer, 1_000 + TICK);
        assert!(now < 1_000 + 2 * TICK, "{now}");
        ticks.done(now);
        assert_eq!(ticks.deadline(None), now + TICK);
    }

    #[test]
    fn what_comes_earlier_comes_first() {
        let mut ticks = NextTick::default();
        ticks.done(0);
        assert_eq!(ticks.deadline(Some(7)), 7);
        assert_eq!(ticks.deadline(Some(2 * TICK)), TICK);
        ticks.done(u64::MAX);
        assert_eq!(ticks.deadline(None), u64::MAX);
    }
}
