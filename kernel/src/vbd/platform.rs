//! The pages of one disk, and how its back end is let into them.
//!
//! Invariants: nobody holds a reference into a page, which the back end may change at any time: accesses are atomic
//! words or copies; a page that is granted is never given back to the allocator.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use vd_blkif::{PAGE_SIZE, Platform};
use vd_config::SlotIndex;
use xen_hypercall::{DomId, EvtchnPort, event_channel};

use super::{grants, signals};
use crate::mem::copy;
use crate::mem::frames::{self, FRAME, OutOfMemory};
use crate::xen::{XEN, events};

/// Frames of this domain's RAM, one after the other.
pub struct Pages {
    start: u64,
    count: usize,
    slot: SlotIndex,
    ports: Vec<EvtchnPort>,
    /// How many pages are granted.
    granted: usize,
    /// What the data of a page passes through, so that nothing refers to the page itself.
    passage: RefCell<Box<[u8; PAGE_SIZE]>>,
}

impl Pages {
    /// So many pages for the disk in `slot`.
    ///
    /// # Errors
    /// There is not so much RAM in one piece.
    pub fn new(slot: SlotIndex, count: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            start: frames::allocate(count as u64, 1, false)?,
            count,
            slot,
            ports: Vec::new(),
            granted: 0,
            passage: RefCell::new(Box::new([0; PAGE_SIZE])),
        })
    }

    /// Lets the events of the back end through that were held back.
    pub fn listen_again(&self) {
        for &port in &self.ports {
            if let Err(error) = events::unmask(port) {
                log::debug!("device {}: its back end's events: {error}", self.slot);
            }
        }
    }

    /// Where `len` bytes of a page are.
    fn place(&self, page: usize, at: usize, len: usize) -> *mut u8 {
        assert!(page < self.count && at <= PAGE_SIZE && len <= PAGE_SIZE - at);
        (self.start + page as u64 * FRAME + at as u64) as *mut u8
    }

    fn word(&self, page: usize, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4));
        let place = self.place(page, at, 4);
        // SAFETY: aligned, and inside of RAM that is this disk's until it is dropped. Both ends take such words as a whole.
        unsafe { AtomicU32::from_ptr(place.cast()) }
    }
}

impl Platform for Pages {
    fn pages(&self) -> usize {
        self.count
    }

    fn load_u32(&self, page: usize, at: usize) -> u32 {
        self.word(page, at).load(Ordering::Acquire)
    }

    fn store_u32(&mut self, page: usize, at: usize, value: u32) {
        self.word(page, at).store(value, Ordering::Release);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read_bytes(&self, page: usize, at: usize, into: &mut [u8]) {
        let place = self.place(page, at, into.len());
        // SAFETY: the place is this disk's RAM, and `into` is not in it: nothing refers into the pages.
        unsafe { copy(place, into.as_mut_ptr(), into.len()) }
    }

    fn write_bytes(&mut self, page: usize, at: usize, from: &[u8]) {
        let place = self.place(page, at, from.len());
        // SAFETY: as above.
        unsafe { copy(from.as_ptr(), place, from.len()) }
    }

    fn fill<R>(&mut self, page: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
        let place = self.place(page, 0, len);
        let bytes = &mut self.passage.get_mut()[..len];
        let result = with(bytes);
        // SAFETY: as above.
        unsafe { copy(bytes.as_ptr(), place, len) };
        result
    }

    fn drain<R>(&self, page: usize, len: usize, with: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = &mut self.passage.borrow_mut()[..len];
        // SAFETY: as above.
        unsafe { copy(self.place(page, 0, len), bytes.as_mut_ptr(), len) };
        with(bytes)
    }

    fn grant(&mut self, domain: u16, page: usize) -> Option<u32> {
        let gref = grants::give(domain, self.place(page, 0, 0) as u64 / FRAME)?;
        self.granted += 1;
        Some(gref)
    }

    fn end_grant(&mut self, gref: u32) -> bool {
        let ended = grants::end(gref);
        self.granted -= usize::from(ended);
        ended
    }

    fn open_port(&mut self, domain: u16) -> Option<u32> {
        let opened = event_channel::alloc_unbound(&XEN, DomId::SELF, DomId(domain));
        let port = opened
            .inspect_err(|error| log::debug!("device {}: event channel: {error}", self.slot))
            .ok()?;
        if let Err(error) = events::listen(port, signals::source(self.slot)) {
            log::debug!("device {}: event channel: {error}", self.slot);
            events::close(port);
            return None;
        }
        self.ports.push(port);
        Some(port.0)
    }

    fn close_port(&mut self, port: u32) {
        self.ports.retain(|open| open.0 != port);
        events::close(EvtchnPort(port));
    }

    fn notify(&mut self, port: u32) {
        // Fails only when the back end is gone, which xenstore tells.
        let _ = event_channel::send(&XEN, EvtchnPort(port));
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.ports.drain(..).for_each(events::close);
        if self.granted == 0 {
            frames::release(self.start, self.count as u64);
        } else {
            log::warn!(
                "device {}: its back end has not let go of {} pages: they are not used again",
                self.slot,
                self.granted
            );
        }
    }
}
