//! A limit on how often something is logged (attack case 28: log flood).
//!
//! Invariant: in any span of time, at most `burst` plus `per_second` times the span is admitted; what is not is
//! counted and told with the next that is.

/// A token bucket over a clock that the caller reads.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    burst: u64,
    nanos_per_token: u64,
    /// Time that has been saved up, in nanoseconds; `burst` tokens' worth at most.
    credit: u64,
    last: Option<u64>,
    suppressed: u64,
}

/// Whether to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes; so many were held back since the last one.
    Admitted {
        /// How many were held back.
        suppressed: u64,
    },
    /// No; it is counted.
    Held,
}

impl RateLimiter {
    /// Admits `burst` at once and `per_second` from then on; at least one of each.
    pub const fn new(burst: u32, per_second: u32) -> Self {
        let nanos_per_token = match 1_000_000_000_u64.checked_div(per_second as u64) {
            Some(0) => 1,
            Some(nanos) => nanos,
            None => 1_000_000_000,
        };
        let burst = if burst == 0 { 1 } else { burst as u64 };
        RateLimiter {
            burst,
            nanos_per_token,
            credit: 0,
            last: None,
            suppressed: 0,
        }
    }

    /// Asks for one at time `now` in nanoseconds. A clock that steps back gives no credit.
    pub fn admit(&mut self, now: u64) -> Admission {
        let full = self.burst.saturating_mul(self.nanos_per_token);
        self.credit = match self.last {
            None => full,
            Some(last) => self
                .credit
                .saturating_add(now.saturating_sub(last))
                .min(full),
        };
        self.last = Some(now);
        match self.credit.checked_sub(self.nanos_per_token) {
            Some(rest) => {
                self.credit = rest;
                Admission::Admitted {
                    suppressed: core::mem::take(&mut self.suppressed),
                }
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                Admission::Held
            }
        }
    }
}
