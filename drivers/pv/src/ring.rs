//! This side of a shared ring (public/io/ring.h): requests go out, responses come back, in the same slots.
//!
//! The header holds four free-running indices: of the request producer, the request after which the back end wants an
//! event, the response producer, the response after which this side wants one. The slots follow, and run over the ring's
//! pages as if they were one.
//!
//! Invariants: the indices that this side moves live here and are never read back; the back end's index is read once,
//! and refused when it claims more responses than there are requests.

use crate::platform::{PAGE_SIZE, Platform};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
/// Bytes of the header.
pub const HEADER: usize = 64;

/// The back end's index is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// How many responses there could be at most.
    pub most: u32,
    /// How many it claims.
    pub claimed: u32,
}

/// How many slots of so many bytes a ring of so many pages has: as many as fit, rounded down to a power of two.
pub const fn slots(pages: usize, slot: usize) -> u32 {
    let bytes = pages.saturating_mul(PAGE_SIZE).saturating_sub(HEADER);
    let mut slots = 1u32;
    // Rings are at most a few dozen pages, so none of this comes near its limits.
    while (slots as usize).saturating_mul(2).saturating_mul(slot) <= bytes {
        slots = slots.saturating_mul(2);
    }
    slots
}

/// This side of a ring whose requests have `SLOT` bytes, and whose responses `RESPONSE`, which are not more.
#[derive(Clone, Debug)]
pub struct Ring<const SLOT: usize, const RESPONSE: usize> {
    /// Its first page.
    first: usize,
    mask: u32,
    /// Requests put into slots, and those of them that the back end was shown.
    put: u32,
    shown: u32,
    /// Responses taken.
    taken: u32,
    /// The response that an event was asked for.
    armed: u32,
}

impl<const SLOT: usize, const RESPONSE: usize> Ring<SLOT, RESPONSE> {
    /// A ring on `pages` pages from `first` on, made empty. No back end may have it yet.
    pub fn new<P: Platform>(platform: &mut P, first: usize, pages: usize) -> Self {
        for page in first..first.saturating_add(pages) {
            platform.write_bytes(page, 0, &[0; PAGE_SIZE]);
        }
        platform.store_u32(first, REQ_EVENT, 1);
        platform.store_u32(first, RSP_EVENT, 1);
        Self {
            first,
            mask: slots(pages, SLOT).wrapping_sub(1),
            put: 0,
            shown: 0,
            taken: 0,
            armed: 1,
        }
    }

    /// The number of the next request: counts from 0 on, and wraps.
    pub fn next_request(&self) -> u32 {
        self.put
    }

    /// The number of the next response.
    pub fn next_response(&self) -> u32 {
        self.taken
    }

    /// Requests that were not answered.
    pub fn outstanding(&self) -> u32 {
        self.put.wrapping_sub(self.taken)
    }

    /// Whether there is no slot for another request.
    pub fn is_full(&self) -> bool {
        self.outstanding() > self.mask
    }

    /// Puts a request into the next slot. There has to be one.
    pub fn put<P: Platform>(&mut self, platform: &mut P, request: &[u8; SLOT]) {
        for (page, at, range) in self.pieces(self.put, SLOT) {
            if let Some(bytes) = request.get(range) {
                platform.write_bytes(page, at, bytes);
            }
        }
        self.put = self.put.wrapping_add(1);
    }

    /// Whether something was put that the back end was not shown.
    pub fn has_news(&self) -> bool {
        self.put != self.shown
    }

    /// Shows the back end all that was put. Returns whether it wants an event for that.
    pub fn show<P: Platform>(&mut self, platform: &mut P) -> bool {
        let (old, new) = (self.shown, self.put);
        if old == new {
            return false;
        }
        platform.store_u32(self.first, REQ_PROD, new);
        self.shown = new;
        platform.fence();
        let event = platform.load_u32(self.first, REQ_EVENT);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Takes the next response, if there is one.
    ///
    /// # Errors
    /// [`Garbage`]: nothing that the ring says can be believed.
    pub fn take<P: Platform>(&mut self, platform: &P) -> Result<Option<[u8; RESPONSE]>, Garbage> {
        if self.available(platform)? == 0 {
            return Ok(None);
        }
        let mut response = [0; RESPONSE];
        for (page, at, range) in self.pieces(self.taken, RESPONSE) {
            if let Some(into) = response.get_mut(range) {
                platform.read_bytes(page, at, into);
            }
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for an event with the next response, when [`Ring::take`] has found none. Returns whether there is one already: then none may come.
    ///
    /// # Errors
    /// [`Garbage`].
    pub fn rearm<P: Platform>(&mut self, platform: &mut P) -> Result<bool, Garbage> {
        let next = self.taken.wrapping_add(1);
        if self.armed == next {
            // It was asked for before the ring was last looked at.
            return Ok(false);
        }
        self.armed = next;
        platform.store_u32(self.first, RSP_EVENT, next);
        platform.fence();
        Ok(self.available(platform)? != 0)
    }

    fn available<P: Platform>(&self, platform: &P) -> Result<u32, Garbage> {
        let claimed = platform
            .load_u32(self.first, RSP_PROD)
            .wrapping_sub(self.taken);
        let most = self.shown.wrapping_sub(self.taken);
        if claimed > most {
            Err(Garbage { most, claimed })
        } else {
            Ok(claimed)
        }
    }

    /// Where the first `len` bytes of a slot are: page, offset, and which of the bytes. A slot is on two pages at most.
    fn pieces(
        &self,
        index: u32,
        len: usize,
    ) -> impl Iterator<Item = (usize, usize, core::ops::Range<usize>)> + use<SLOT, RESPONSE> {
        let slot = usize::try_from(index & self.mask).unwrap_or(0);
        let start = slot.saturating_mul(SLOT).saturating_add(HEADER);
        let (page, at) = (start / PAGE_SIZE, start % PAGE_SIZE);
        let here = len.min(PAGE_SIZE.saturating_sub(at));
        let page = self.first.saturating_add(page);
        [(page, at, 0..here), (page.saturating_add(1), 0, here..len)]
            .into_iter()
            .filter(|(_, _, range)| !range.is_empty())
    }
}
