//! How much a driver may take in a time.

/// Bytes that may be taken; grows with time up to what comes in one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes per second.
    rate: u32,
    bytes: u32,
    /// What the last refill had over, in byte-nanoseconds per second.
    rest: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Allowance {
    /// So many bytes per second, one at least. The first second's are there.
    pub fn new(rate: u32) -> Self {
        let rate = rate.max(1);
        Self {
            rate,
            bytes: rate,
            rest: 0,
        }
    }

    /// Bytes per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Bytes that may be taken now.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Takes `bytes`, which are there.
    pub(crate) fn take(&mut self, bytes: u32) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// So many nanoseconds have passed.
    pub(crate) fn refill(&mut self, nanoseconds: u64) {
        let due = nanoseconds
            .min(SECOND)
            .saturating_mul(self.rate.into())
            .saturating_add(self.rest);
        let new = due.checked_div(SECOND).unwrap_or(0);
        self.rest = due.checked_rem(SECOND).unwrap_or(0);
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_add(new).min(self.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_second_is_saved_up() {
        let mut allowance = Allowance::new(1000);
        allowance.refill(10 * SECOND);
        assert_eq!(allowance.bytes(), 1000);
        allowance.take(1000);
        assert_eq!(allowance.bytes(), 0);
        allowance.refill(SECOND / 2);
        assert_eq!(allowance.bytes(), 500);
        allowance.refill(u64::MAX);
        assert_eq!(allowance.bytes(), 1000);
    }

    #[test]
    fn nothing_is_lost_in_small_steps() {
        let mut allowance = Allowance::new(3);
        allowance.take(3);
        for _ in 0..1000 {
            allowance.refill(SECOND / 1000);
        }
        assert_eq!(allowance.bytes(), 3);
        assert_eq!(Allowance::new(0).bytes(), 1);
    }
}
