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
const _: () = assert!(DEVICES <= u64::BITS as usize);

/// A bit for each device whose back end has sent an event.
static RUNG: AtomicU64 = AtomicU64::new(0);
/// The same for those with an event channel that is masked.
static MASKED: AtomicU64 = AtomicU64::new(0);
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
    let bit = 1 << (device & 63);
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

/// What was heard between two passes of the main loop: a bit for each device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Those whose ring has to be looked at.
    pub rung: u64,
    /// Of these, those with event channels that are masked.
    pub masked: u64,
}

/// A pass of the main loop begins, which looks at the rings that this tells of.
pub fn new_pass() -> Heard {
    // It misses nothing that the main loop has been told of: the mark for that comes last.
    if RUNG.load(Ordering::Relaxed) == 0 {
        return Heard::default();
    }
    let rung = RUNG.swap(0, Ordering::Acquire);
    EVENTS.store(0, Ordering::Relaxed);
    let masked = MASKED.swap(0, Ordering::Acquire);
    Heard {
        // An event may have come in between.
        rung: rung | masked,
        masked,
    }
}

/// Events of a device's back end, ever.
pub fn count(device: Served) -> u64 {
    COUNTS.get(device.index()).map_or(0, counters::get)
}
