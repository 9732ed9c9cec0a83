//! Posted register writes: the ring in which Xen puts them, and what the interrupt handler leaves for the main loop.
//!
//! A guest's vCPU that posts a write goes on at once. Its next access that waits must not overtake the write: a slot is
//! looked at only when the ring was drained after the slot had become READY, and the main loop carries out all posted
//! writes before the accesses that it was given later (`vd_ioreq::buffered` says why that suffices).
//!
//! Invariant: the queue to the main loop keeps the ring's order, and nothing is taken from the ring that has no place in
//! it: what does not fit waits in the ring, and when that is full, Xen makes the guest wait.

use core::sync::atomic::Ordering;

use heapless::Deque;
use vd_ioreq::buffered::{self, PostedWrite};

use super::{Count, Frame, Lock, Platform, Server, SlotEngine};

impl<P: Platform> Server<P> {
    /// Whether there is a ring.
    #[inline]
    pub(super) fn has_ring(&self) -> bool {
        self.ring.load(Ordering::Relaxed) != 0
    }

    /// Takes what is in the ring: kicks are rung, register writes go to the main loop. Returns whether the ring is empty.
    pub(super) fn drain(&self, engine: &mut SlotEngine) -> bool {
        let frame = self.ring.load(Ordering::Acquire);
        if frame == 0 {
            return true;
        }
        let page = self.platform.ring(Frame(frame));
        self.platform.writes().with(|queue| {
            // A write takes one place at most.
            let room = queue.capacity().saturating_sub(queue.len());
            let mut writes = 0_u64;
            let drained = buffered::drain(
                &page,
                u32::try_from(room).unwrap_or(u32::MAX),
                |write| match engine.on_posted(&write) {
                    Some(kick) => self.ring(&kick),
                    None => {
                        writes = writes.saturating_add(queue.push_back(write).is_ok().into());
                    }
                },
            );
            if writes != 0 {
                self.platform.count(Count::PostedWrites, writes);
            }
            let more = match drained {
                Ok(drained) => drained.more,
                Err(_) => {
                    self.platform.count(Count::PostedCorrupt, 1);
                    false
                }
            };
            if writes != 0 || more {
                self.platform.wake();
            }
            !more
        })
    }

    /// Serves the event that says that writes were posted.
    pub(super) fn on_posted(&self) {
        self.platform.engine().with(|engine| self.drain(engine));
    }

    /// Takes what posted writes are left, and looks at the slots that had to wait for them.
    #[inline]
    pub fn take_posted(&self) {
        if self.has_ring() {
            self.on_posted();
            if self.postponed.load(Ordering::Relaxed)
                && self.postponed.swap(false, Ordering::Acquire)
            {
                self.scan();
            }
        }
    }

    /// The next posted write for the main loop, in the order in which the guest made them.
    #[inline]
    pub fn next_posted(&self) -> Option<PostedWrite> {
        self.platform.writes().with(Deque::pop_front)
    }

    /// Whether the main loop has carried out all posted writes that it was given.
    #[inline]
    pub fn is_drained(&self) -> bool {
        !self.has_ring() || self.platform.writes().with(|queue| queue.is_empty())
    }

    /// A slot has to wait for the ring.
    pub(super) fn postpone(&self) {
        self.postponed.store(true, Ordering::Release);
        self.platform.wake();
    }
}
