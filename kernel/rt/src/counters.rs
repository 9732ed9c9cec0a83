//! Counts of what the runtime does itself; an image keeps its own beside them.
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
/// The time stamp counter when the image was entered: Xen begins at about 0 when it makes the domain.
pub static ENTRY_CYCLES: AtomicU64 = AtomicU64::new(0);
/// Blocks of the heap that were asked for.
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Hypercalls by number.
pub static HYPERCALLS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// Adds `n` to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Reads a counter.
#[must_use]
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
