//! Counts of what a disk did.

/// Counters of one disk; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// IN requests.
    pub reads: u64,
    /// Bytes given to the driver by them.
    pub bytes_read: u64,
    /// OUT requests.
    pub writes: u64,
    /// Bytes taken from the driver by them.
    pub bytes_written: u64,
    /// FLUSH requests.
    pub flushes: u64,
    /// DISCARD and WRITE_ZEROES requests.
    pub zeroings: u64,
    /// Requests of other types.
    pub others: u64,
    /// Requests that ended in an error.
    pub errors: u64,
}

/// Adds `n`. 64 bits do not overflow.
pub(crate) fn add(counter: &mut u64, n: u64) {
    *counter = counter.wrapping_add(n);
}
