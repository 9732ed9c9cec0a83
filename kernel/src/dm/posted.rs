//! Posted register writes: the ring in which Xen puts them, and what the interrupt handler leaves for the main loop.
//!
//! A guest's vCPU that posts a write goes on at once. Its next access that waits must not overtake the write: a slot is
//! looked at only when the ring was drained after the slot had become READY, and the main loop carries out all posted
//! writes before the accesses that it was given later (`vd_ioreq::buffered` says why that suffices).
//!
//! Invariant: the queue to the main loop keeps the ring's order, and nothing is taken from the ring that has no place in
//! it: what does not fit waits in the ring, and when that is full, Xen makes the guest wait.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use heapless::Deque;
use vd_ioreq::Kick;
use vd_ioreq::buffered::{self, BufferedPage, PostedWrite};
use volatile::VolatilePtr;

use super::slots::SlotEngine;
use crate::arch::IrqLock;
use crate::counters;
use crate::xen::events::{self, Happened};

/// Writes that the main loop has not carried out: more than the ring holds.
const WRITES: usize = 512;
/// Where the entries start in the page.
const ENTRIES: usize = 8;

/// Address of the mapped ring; 0 = there is none.
static RING: AtomicUsize = AtomicUsize::new(0);
static QUEUE: IrqLock<Deque<PostedWrite, WRITES>> = IrqLock::new(Deque::new());
/// A slot is READY and has to wait until the ring is drained.
static POSTPONED: AtomicBool = AtomicBool::new(false);

struct Ring(NonNull<u8>);

impl Ring {
    fn get() -> Option<Self> {
        NonNull::new(RING.load(Ordering::Acquire) as *mut u8).map(Self)
    }
}

impl BufferedPage for Ring {
    fn pointers(&self) -> u64 {
        // SAFETY: the first word of the mapped page, which Xen changes atomically too.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) }.load(Ordering::Acquire)
    }

    fn entry(&self, index: u32) -> u64 {
        let index = index.min(buffered::ENTRIES - 1) as usize;
        // SAFETY: 8 aligned bytes of the page, by the index.
        let place = unsafe { self.0.add(ENTRIES + index * 8) };
        // SAFETY: as above; Xen's writes are what volatile is for.
        unsafe { VolatilePtr::new(place.cast::<u64>()) }.read()
    }

    fn advance(&self, entries: u32) {
        // SAFETY: the read pointer, which Xen changes atomically too.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast()) }.fetch_add(entries, Ordering::AcqRel);
    }
}

/// Publishes the ring to the handler; `None` when it is about to go.
///
/// # Safety
/// The page must be the server's buffered ring, mapped writable until this is called with `None`.
pub unsafe fn set_ring(page: Option<NonNull<u8>>) {
    RING.store(
        page.map_or(0, |page| page.as_ptr() as usize),
        Ordering::Release,
    );
    if page.is_none() {
        QUEUE.with(Deque::clear);
    }
}

/// Whether there is a ring.
pub fn is_used() -> bool {
    RING.load(Ordering::Relaxed) != 0
}

/// Takes what is in the ring: kicks go to `ring`, register writes to the main loop. Returns whether the ring is empty.
pub fn drain(engine: &mut SlotEngine, mut ring: impl FnMut(&Kick)) -> bool {
    let Some(page) = Ring::get() else { return true };
    QUEUE.with(|queue| {
        // A write takes one place at most.
        let room = (queue.capacity() - queue.len()) as u32;
        let mut writes = 0;
        let drained = buffered::drain(&page, room, |write| match engine.on_posted(&write) {
            Some(kick) => ring(&kick),
            None => writes += u64::from(queue.push_back(write).is_ok()),
        });
        if writes != 0 {
            counters::add(&counters::POSTED_WRITES, writes);
        }
        let more = match drained {
            Ok(drained) => drained.more,
            Err(_) => {
                counters::add(&counters::POSTED_CORRUPT, 1);
                false
            }
        };
        if writes != 0 || more {
            events::mark(Happened::WORK);
        }
        !more
    })
}

/// The next write for the main loop, in the order in which the guest made them.
pub fn next() -> Option<PostedWrite> {
    QUEUE.with(Deque::pop_front)
}

/// Whether the main loop has carried out all that it was given.
pub fn is_empty() -> bool {
    !is_used() || QUEUE.with(|queue| queue.is_empty())
}

/// A slot has to wait for the ring.
pub fn postpone() {
    POSTPONED.store(true, Ordering::Release);
    events::mark(Happened::WORK);
}

/// Whether slots have to be looked at again.
pub fn take_postponed() -> bool {
    POSTPONED.load(Ordering::Relaxed) && POSTPONED.swap(false, Ordering::Acquire)
}
