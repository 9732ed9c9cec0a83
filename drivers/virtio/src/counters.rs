//! Counts of what a device's queues and registers did.

/// Counters of one device; they only grow, also over resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kicks that reached a queue.
    pub kicks: u64,
    /// Kicks for what had been taken before they arrived, of drivers that say how far they are.
    pub stale_kicks: u64,
    /// Passes over a queue.
    pub passes: u64,
    /// Requests taken from a queue.
    pub requests: u64,
    /// Requests that were finished after their queue had been reset: nobody was told.
    pub stale_requests: u64,
    /// Interrupts asked for.
    pub interrupts: u64,
    /// Interrupts for changes of the configuration, and for faults.
    pub config_interrupts: u64,
    /// Batches of completions for which the driver wanted no interrupt.
    pub suppressed: u64,
    /// Register accesses that mean nothing: wrong width, read-only, out of order.
    pub bad_accesses: u64,
    /// Faults of the driver that broke the device until its next reset.
    pub faults: u64,
    /// Times that it broke although the driver had done nothing wrong.
    pub failures: u64,
    /// Choices of features that were refused.
    pub refusals: u64,
    /// Resets by the driver.
    pub resets: u64,
}

/// Adds one. 64 bits do not overflow.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}
