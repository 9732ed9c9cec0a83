//! The pages of one device, and how its back end is let into them.
//!
//! Invariants: nobody holds a reference into a page that is granted, which the back end may change at any time: accesses
//! are atomic words or copies; a page that is granted is never given back to the allocator; while a part of a page is
//! lent, nothing else gets at any page.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use vd_netif::FramePages;
use vd_pv::{Access, PAGE_SIZE, Platform};
use xen_hypercall::{DomId, EvtchnPort, event_channel};

use super::{Served, grants, signals};
use crate::mem::copy;
use crate::mem::frames::{self, FRAME, OutOfMemory};
use crate::xen::{XEN, events};

/// Frames of this domain's RAM, one after the other.
pub struct Pages {
    start: u64,
    count: usize,
    device: Served,
    ports: Vec<EvtchnPort>,
    /// How often each page is granted.
    granted: Vec<u16>,
    /// Somebody refers to a page.
    lent: Cell<bool>,
    /// What the data of a page passes through, so that nothing refers to the page itself.
    passage: RefCell<Box<[u8; PAGE_SIZE]>>,
}

impl Pages {
    /// So many pages for a device.
    ///
    /// # Errors
    /// There is not so much RAM in one piece.
    pub fn new(device: Served, count: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            start: frames::allocate(count as u64, 1, false)?,
            count,
            device,
            ports: Vec::new(),
            granted: vec![0; count],
            lent: Cell::new(false),
            passage: RefCell::new(Box::new([0; PAGE_SIZE])),
        })
    }

    /// Lets the events of the back end through that were held back.
    pub fn listen_again(&self) {
        for &port in &self.ports {
            if let Err(error) = events::unmask(port) {
                log::debug!("{}: its back end's events: {error}", self.device);
            }
        }
    }

    /// Where `len` bytes of a page are.
    fn place(&self, page: usize, at: usize, len: usize) -> *mut u8 {
        assert!(page < self.count && at <= PAGE_SIZE && len <= PAGE_SIZE - at);
        assert!(!self.lent.get(), "somebody refers to a page");
        (self.start + page as u64 * FRAME + at as u64) as *mut u8
    }

    fn word(&self, page: usize, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4));
        let place = self.place(page, at, 4);
        // SAFETY: aligned, and inside of RAM that is this device's until it is dropped. Nobody refers to a page, which was
        // asserted, and nobody can before the word is done with: it is loaded or stored at once. Both ends take such words
        // as a whole.
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
        // SAFETY: the place is this device's RAM, and `into` is not in it: what refers to a page is lent, and nothing is,
        // which was asserted.
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

    fn grant(&mut self, domain: u16, page: usize, access: Access) -> Option<u32> {
        let frame = self.place(page, 0, 0) as u64 / FRAME;
        let gref = grants::give(domain, frame, access == Access::Read)?;
        self.granted[page] += 1;
        Some(gref)
    }

    fn end_grant(&mut self, gref: u32) -> bool {
        let Some(frame) = grants::end(gref) else {
            return false;
        };
        let page = frame - self.start / FRAME;
        self.granted[page as usize] -= 1;
        true
    }

    fn open_port(&mut self, domain: u16) -> Option<u32> {
        let opened = event_channel::alloc_unbound(&XEN, DomId::SELF, DomId(domain));
        let port = opened
            .inspect_err(|error| log::debug!("{}: event channel: {error}", self.device))
            .ok()?;
        if let Err(error) = events::listen(port, signals::source(self.device)) {
            log::debug!("{}: event channel: {error}", self.device);
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

/// A part of a page, to refer to; nothing else does until it is dropped.
struct Lent<'a>(&'a Pages, *mut u8, usize);

impl Pages {
    fn lend(&self, page: usize, at: usize, len: usize) -> Lent<'_> {
        let place = self.place(page, at, len);
        assert!(self.granted[page] == 0, "a granted page is not lent");
        self.lent.set(true);
        Lent(self, place, len)
    }
}

impl Lent<'_> {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the place is this device's RAM, no back end is let into the page, and nothing else accesses it: `place`
        // gives nothing out while a part is lent, which is one at a time, and whoever has it borrows `Pages`, so that no
        // page is granted meanwhile.
        unsafe { core::slice::from_raw_parts(self.1, self.2) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; and `self` is borrowed, so that there is no other slice.
        unsafe { core::slice::from_raw_parts_mut(self.1, self.2) }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.lent.set(false);
    }
}

impl FramePages for Pages {
    fn fill_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&mut [u8])) {
        with(self.lend(page, at, len).bytes_mut());
    }

    fn drain_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&[u8])) {
        with(self.lend(page, at, len).bytes());
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.ports.drain(..).for_each(events::close);
        let granted = self.granted.iter().filter(|times| **times != 0).count();
        if granted == 0 {
            frames::release(self.start, self.count as u64);
        } else {
            log::warn!(
                "{}: its back end has not let go of {granted} pages: they are not used again",
                self.device
            );
        }
    }
}
