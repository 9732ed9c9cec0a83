//! Events of back ends: noted in the interrupt handler, served by the main loop.
//!
//! A back end that sends without end is not heard again before the main loop has had its turn.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vd_config::SLOTS;
use xen_hypercall::EvtchnPort;

use super::Served;
use crate::counters;
use crate::xen::events::{self, Happened, Source};

/// The number of an event source; that of the device follows in the lower bits.
const BACK_END: u16 = 0x1000;
/// Events that are taken between two turns of the main loop.
const EVENTS_PER_PASS: u32 = 64;

/// Devices that can be told apart.
const DEVICES: usize = 2 * SLOTS;

/// A bit for each device whose back end has sent an event.
static RUNG: AtomicU32 = AtomicU32::new(0);
/// The same for those with an event channel that is masked.
static MASKED: AtomicU32 = AtomicU32::new(0);
static EVENTS: AtomicU32 = AtomicU32::new(0);

/// Events by device, ever.
static COUNTS: [AtomicU64; DEVICES] = [const { AtomicU64::new(0) }; DEVICES];

/// What rings for a device.
pub fn source(device: Served) -> Source {
    Source::Image(BACK_END | device.index() as u16)
}

/// Takes note of an event, if it is of a back end. For the interrupt handler.
pub fn on_source(port: EvtchnPort, source: u16) -> bool {
    if source & !0xff != BACK_END {
        return false;
    }
    let device = source & 0xff;
    let bit = 1 << (device & 31);
    if let Some(count) = COUNTS.get(usize::from(device)) {
        counters::add(count, 1);
    }
    if EVENTS.fetch_add(1, Ordering::Relaxed) >= EVENTS_PER_PASS {
        events::mask(port);
        MASKED.fetch_or(bit, Ordering::Release);
    }
    RUNG.fetch_or(bit, Ordering::Release);
    events::mark(Happened::WORK);
    true
}

/// A pass of the main loop begins, which looks at all rings. Gives a bit for each device with masked event channels.
pub fn new_pass() -> u32 {
    if RUNG.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    RUNG.store(0, Ordering::Relaxed);
    EVENTS.store(0, Ordering::Relaxed);
    MASKED.swap(0, Ordering::Acquire)
}

/// Events of a device's back end, ever.
pub fn count(device: Served) -> u64 {
    COUNTS.get(device.index()).map_or(0, counters::get)
}
