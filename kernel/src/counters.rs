//! Counts of what the driver domain's kernel does itself; the runtime, the ioreq core and the devices keep theirs.

use core::sync::atomic::AtomicU64;

pub use vd_rt::counters::{
    ALLOCATIONS, ENTRY_CYCLES, HYPERCALLS, SLEEPS, STRAY_EVENTS, UPCALLS, add, get,
};

/// Frames of the guest mapped, ever.
pub static FRAMES_MAPPED: AtomicU64 = AtomicU64::new(0);
/// Frames of the guest unmapped, ever.
pub static FRAMES_UNMAPPED: AtomicU64 = AtomicU64::new(0);
/// Bytes copied from the guest's memory.
pub static BYTES_FROM_GUEST: AtomicU64 = AtomicU64::new(0);
/// Bytes copied to the guest's memory.
pub static BYTES_TO_GUEST: AtomicU64 = AtomicU64::new(0);
/// Bytes copied inside of the guest's memory: from one device's buffers to another one's.
pub static BYTES_IN_GUEST: AtomicU64 = AtomicU64::new(0);
/// Times that the interrupt line of a device was raised.
pub static LINES_RAISED: AtomicU64 = AtomicU64::new(0);
/// Times that the interrupt line of a device was lowered.
pub static LINES_LOWERED: AtomicU64 = AtomicU64::new(0);
/// Message-signalled interrupts sent.
pub static MESSAGES_SENT: AtomicU64 = AtomicU64::new(0);
/// Interrupts sent as events.
pub static EVENTS_SENT: AtomicU64 = AtomicU64::new(0);
/// Doorbells rung as events.
pub static EVENT_DOORBELLS: AtomicU64 = AtomicU64::new(0);
/// Doorbells rung at I/O ports.
pub static PORT_DOORBELLS: AtomicU64 = AtomicU64::new(0);
/// Register writes that were posted, doorbells not counted.
pub static POSTED_WRITES: AtomicU64 = AtomicU64::new(0);
/// Drains that found the ring of posted writes broken, and emptied it.
pub static POSTED_CORRUPT: AtomicU64 = AtomicU64::new(0);
/// Times that registers of a device became memory.
pub static REGISTERS_SHOWN: AtomicU64 = AtomicU64::new(0);
/// Times that they were no memory any more.
pub static REGISTERS_HIDDEN: AtomicU64 = AtomicU64::new(0);
/// Events, and leave for events to come, that Xen refused: they are tried again.
pub static EVENTS_REFUSED: AtomicU64 = AtomicU64::new(0);
/// Looks at polled queues in vain after which others got a turn on the CPU.
pub static YIELDS: AtomicU64 = AtomicU64::new(0);
/// Blocks of the heap that were asked for while devices had their turn: none, once a device has seen each kind of work.
pub static PASS_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Cycles of the time stamp counter from the image's entry until it waits for a description.
pub static BOOT_CYCLES: AtomicU64 = AtomicU64::new(0);
/// The same from a description until its guest can run.
pub static ATTACH_CYCLES: AtomicU64 = AtomicU64::new(0);

/// Devices attached while the guest ran.
pub static ATTACHED: AtomicU64 = AtomicU64::new(0);
/// Devices that were to come and could not.
pub static ATTACH_REFUSED: AtomicU64 = AtomicU64::new(0);
/// Devices that have gone, as the toolstack asked for it.
pub static DETACHED: AtomicU64 = AtomicU64::new(0);
/// Those of them whose drivers had not let them go.
pub static DETACHED_IN_USE: AtomicU64 = AtomicU64::new(0);
/// Times that the nodes of a guest's driver made no sense.
pub static BAD_FRONT_ENDS: AtomicU64 = AtomicU64::new(0);

/// The counters above, and the runtime's, with their names in status reports.
pub static NAMED: &[(&str, &AtomicU64)] = &[
    ("cycles-at-entry", &ENTRY_CYCLES),
    ("cycles-to-boot", &BOOT_CYCLES),
    ("cycles-to-attach", &ATTACH_CYCLES),
    ("interrupts-taken", &UPCALLS),
    ("stray-events", &STRAY_EVENTS),
    ("sleeps", &SLEEPS),
    ("frames-mapped", &FRAMES_MAPPED),
    ("frames-unmapped", &FRAMES_UNMAPPED),
    ("bytes-from-guest", &BYTES_FROM_GUEST),
    ("bytes-to-guest", &BYTES_TO_GUEST),
    ("bytes-in-guest", &BYTES_IN_GUEST),
    ("lines-raised", &LINES_RAISED),
    ("lines-lowered", &LINES_LOWERED),
    ("messages-sent", &MESSAGES_SENT),
    ("events-sent", &EVENTS_SENT),
    ("event-doorbells", &EVENT_DOORBELLS),
    ("port-doorbells", &PORT_DOORBELLS),
    ("posted-writes", &POSTED_WRITES),
    ("posted-corrupt", &POSTED_CORRUPT),
    ("registers-shown", &REGISTERS_SHOWN),
    ("registers-hidden", &REGISTERS_HIDDEN),
    ("events-refused", &EVENTS_REFUSED),
    ("yields", &YIELDS),
    ("allocations", &ALLOCATIONS),
    ("allocations-in-passes", &PASS_ALLOCATIONS),
    ("attached", &ATTACHED),
    ("attach-refused", &ATTACH_REFUSED),
    ("detached", &DETACHED),
    ("detached-in-use", &DETACHED_IN_USE),
    ("bad-front-ends", &BAD_FRONT_ENDS),
];
