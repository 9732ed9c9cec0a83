//! Counts of what the kernel does itself; the ioreq core and the devices keep theirs.
//!
//! Written from the main loop and the interrupt handler of one CPU, read by the
//! status writer and the console: relaxed atomics are enough.

use core::sync::atomic::{AtomicU64, Ordering};

/// Upcalls taken by the interrupt handler.
pub static UPCALLS: AtomicU64 = AtomicU64::new(0);
/// Events on ports that nobody listens to.
pub static STRAY_EVENTS: AtomicU64 = AtomicU64::new(0);
/// Times that the domain went to sleep.
pub static SLEEPS: AtomicU64 = AtomicU64::new(0);
/// Frames of the guest mapped, ever.
pub static FRAMES_MAPPED: AtomicU64 = AtomicU64::new(0);
/// Frames of the guest unmapped, ever.
pub static FRAMES_UNMAPPED: AtomicU64 = AtomicU64::new(0);
/// Bytes copied from the guest's memory.
pub static BYTES_FROM_GUEST: AtomicU64 = AtomicU64::new(0);
/// Bytes copied to the guest's memory.
pub static BYTES_TO_GUEST: AtomicU64 = AtomicU64::new(0);
/// Times that the interrupt line of a device was raised.
pub static LINES_RAISED: AtomicU64 = AtomicU64::new(0);
/// Times that the interrupt line of a device was lowered.
pub static LINES_LOWERED: AtomicU64 = AtomicU64::new(0);

/// Hypercalls by number.
pub static HYPERCALLS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// The counters above but the last, with their names in status reports.
pub static NAMED: [(&str, &AtomicU64); 9] = [
    ("interrupts-taken", &UPCALLS),
    ("stray-events", &STRAY_EVENTS),
    ("sleeps", &SLEEPS),
    ("frames-mapped", &FRAMES_MAPPED),
    ("frames-unmapped", &FRAMES_UNMAPPED),
    ("bytes-from-guest", &BYTES_FROM_GUEST),
    ("bytes-to-guest", &BYTES_TO_GUEST),
    ("lines-raised", &LINES_RAISED),
    ("lines-lowered", &LINES_LOWERED),
];

/// Adds `n` to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
