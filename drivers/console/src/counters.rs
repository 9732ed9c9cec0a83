//! What a console device has counted.

/// What all ports of a device together did so far.
///
/// `out_bytes` = `out_read` + `out_lost` + what is in the rings; `in_bytes` = `in_given` + `in_dropped` + what is in the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes taken from the driver.
    pub out_bytes: u64,
    /// Those of them that a host has read.
    pub out_read: u64,
    /// Those of them that were pushed out by younger ones before a host has read them.
    pub out_lost: u64,
    /// Bytes taken from hosts.
    pub in_bytes: u64,
    /// Those of them that the driver got.
    pub in_given: u64,
    /// Those of them that were waiting when the driver started over.
    pub in_dropped: u64,
    /// Control messages given to the driver.
    pub control_sent: u64,
    /// Control messages from the driver that made sense.
    pub control_taken: u64,
    /// Control messages from the driver that did not, and buffers that were too small for one to it.
    pub control_bad: u64,
    /// Buffers without room for a byte, or without a byte.
    pub errors: u64,
    /// Characters written to the emergency register.
    pub emergency: u64,
    /// Hosts that attached to a port.
    pub attached: u64,
}

impl Counters {
    /// Each by its name.
    pub fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("out-bytes", self.out_bytes),
            ("out-read", self.out_read),
            ("out-lost", self.out_lost),
            ("in-bytes", self.in_bytes),
            ("in-given", self.in_given),
            ("in-dropped", self.in_dropped),
            ("control-sent", self.control_sent),
            ("control-taken", self.control_taken),
            ("control-bad", self.control_bad),
            ("errors", self.errors),
            ("emergency", self.emergency),
            ("attached", self.attached),
        ]
    }
}

/// Adds to a counter. 64 bits do not overflow.
pub(crate) fn add(counter: &mut u64, bytes: usize) {
    *counter = counter.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
}
