//! When to look at a queue without having been kicked, and when to stop.
//!
//! A polled device keeps notifications off while it is busy: after each look the [`Poller`] says whether to look
//! again, and at the latest after [`WINDOW`] without a request it is armed again, which looks once more, so that no
//! request is overlooked in between.

/// Nanoseconds without a request after which notifications are armed again.
pub const WINDOW: u64 = 1_000_000;
/// Looks in vain after which others get a turn on the CPU: the guest may be waiting for this one.
pub const LOOKS: u32 = 8;

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: notifications are armed, and the next kick will tell.
    Wait,
    /// Look again.
    Look,
    /// Let others run, and look again.
    Yield,
    /// Arm notifications.
    Arm,
}

/// One device's polling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Poller {
    /// When there was a request last; `None` while notifications are armed.
    since: Option<u64>,
    looks: u32,
}

impl Poller {
    /// Armed: nothing is looked at before it is kicked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            since: None,
            looks: 0,
        }
    }

    /// Whether notifications are to be off.
    #[must_use]
    pub const fn is_polling(&self) -> bool {
        self.since.is_some()
    }

    /// A look is done, at `now` nanoseconds; `found` says whether there was a request.
    pub fn looked(&mut self, found: bool, now: u64) -> Next {
        if found {
            self.since = Some(now);
            self.looks = 0;
            return Next::Look;
        }
        let Some(since) = self.since else {
            return Next::Wait;
        };
        if now.saturating_sub(since) >= WINDOW {
            self.since = None;
            return Next::Arm;
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS) {
            Next::Yield
        } else {
            Next::Look
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_without_a_request_starts_nothing() {
        let mut poller = Poller::new();
        assert_eq!(poller.looked(false, 5), Next::Wait);
        assert!(!poller.is_polling());
    }

    #[test]
    fn polling_ends_after_the_window_and_begins_with_the_next_request() {
        let mut poller = Poller::new();
        assert_eq!(poller.looked(true, 100), Next::Look);
        assert!(poller.is_polling());
        assert_eq!(poller.looked(false, 100 + WINDOW - 1), Next::Look);
        assert_eq!(poller.looked(true, 100 + WINDOW), Next::Look);
        assert_eq!(poller.looked(false, 100 + WINDOW + 1), Next::Look);
        assert_eq!(poller.looked(false, 100 + 2 * WINDOW), Next::Arm);
        assert!(!poller.is_polling());
        // The look that arms finds what came meanwhile.
        assert_eq!(poller.looked(true, 101 + 2 * WINDOW), Next::Look);
        assert!(poller.is_polling());
    }

    #[test]
    fn others_get_their_turn() {
        let mut poller = Poller::new();
        poller.looked(true, 0);
        let looks: std::vec::Vec<Next> = (0..LOOKS * 3).map(|_| poller.looked(false, 1)).collect();
        let yields = looks.iter().filter(|next| **next == Next::Yield).count();
        assert_eq!(yields, 3);
        assert_eq!(looks.last(), Some(&Next::Yield));
    }

    /// However the clock behaves, polling ends: looks in vain cannot go on for longer than the window.
    #[test]
    fn a_clock_that_goes_back_does_not_end_it_early() {
        let mut poller = Poller::new();
        poller.looked(true, 1_000);
        assert_eq!(poller.looked(false, 0), Next::Look);
        assert_eq!(poller.looked(false, 1_000 + WINDOW), Next::Arm);
    }
}
