//! A split ring (virtio 1.3, section 2.7).
//!
//! Indices run freely over 16 bits and wrap; an entry is at the index modulo the size. The set of heads in flight is the
//! caller's: it has a bit for every head of the largest queue that there may be.

use core::sync::atomic::{Ordering, compiler_fence};

use super::packed::Giving;
use super::{Interrupt, Place, Popped, is_passed};
use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::{Gpa, GuestMemory, MemError};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.6).
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY` (2.7.8).
const NO_NOTIFY: u16 = 1;
/// Where the index is in both rings.
const IDX: u64 = 2;
/// Where the entries start in both rings.
const RING: u64 = 4;

/// No head: the largest ring has fewer.
const NONE: u16 = u16::MAX;

/// A split ring in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) size: u16,
    pub(super) desc: Gpa,
    avail: Gpa,
    used: Gpa,
    pub(super) indirect: bool,
    event_idx: bool,
    /// Index of the next available entry to look at.
    next_avail: u16,
    /// avail.idx as last read.
    seen_avail: u16,
    /// Index of the next used entry to write.
    next_used: u16,
    /// used.idx as last published.
    published: u16,
    /// used.idx when it was last decided whether to interrupt.
    decided: u16,
    /// Heads from this one on that are marked as in flight are to be taken again; [`NONE`] if there are none.
    again: u16,
}

impl Split {
    pub(super) fn new(size: u16, [desc, avail, used]: [Gpa; 3], features: Features) -> Self {
        Self {
            size,
            desc,
            avail,
            used,
            indirect: features.contains(Features::INDIRECT_DESC),
            event_idx: features.contains(Features::EVENT_IDX),
            next_avail: 0,
            seen_avail: 0,
            next_used: 0,
            published: 0,
            decided: 0,
            again: NONE,
        }
    }

    /// Where it stands.
    pub(super) fn standing(&self) -> Place {
        Place {
            taken: self.next_avail,
            given: self.next_used,
            shown: self.published,
            flags: 0,
            giving: Giving::NONE,
            told: self.decided.into(),
        }
    }

    /// Goes on from there, with the available entry `next`. Returns false if that cannot be: no more than the ring has were
    /// not shown, and the driver's memory says as far as it was shown.
    pub(super) fn resume<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        place: &Place,
        next: u16,
    ) -> bool {
        let (Ok(decided), Ok(in_memory)) = (
            u16::try_from(place.told),
            mem.load_u16(ring(self.used, IDX)),
        ) else {
            return false;
        };
        let unshown = place.given.wrapping_sub(place.shown);
        // It may have been shown after this was written down.
        let ahead = place.given.wrapping_sub(in_memory);
        if unshown > self.size || ahead > unshown || next.wrapping_sub(place.given) > self.size {
            return false;
        }
        self.next_avail = next;
        self.seen_avail = next;
        self.next_used = place.given;
        self.published = in_memory;
        self.decided = decided;
        self.publish(mem).is_ok()
    }

    /// Marks a head as one that is to be taken again. Returns false if there is no such head, or it is marked already.
    pub(super) fn mark_again(&mut self, heads: &mut [u64], head: u16) -> bool {
        self.again = 0;
        head < self.size && mark(heads, head)
    }

    /// Finds out which of the marked heads are in flight: one that was given back in the last moment is not, nor is one
    /// that was about to be taken. Returns false if it does not add up.
    pub(super) fn reconcile<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        heads: &mut [u64],
        place: &Place,
    ) -> bool {
        let mut index = place.shown;
        while index != place.given {
            let Ok(head) = mem.load_u16(self.entry(self.used, index, 8)) else {
                return false;
            };
            unmark(heads, head);
            index = index.wrapping_add(1);
        }
        let next = self.next_avail;
        match mem.load_u16(ring(self.avail, IDX)) {
            Ok(idx) if idx != next => match mem.load_u16(self.entry(self.avail, next, 2)) {
                Ok(head) => unmark(heads, head),
                Err(_) => return false,
            },
            Ok(_) => {}
            Err(_) => return false,
        }
        let marked: u32 = heads.iter().map(|word| word.count_ones()).sum();
        marked == u32::from(next.wrapping_sub(place.given))
    }

    /// The next head that is to be taken again.
    #[cold]
    fn next_again(&mut self, heads: &[u64]) -> Option<u16> {
        let is_marked = |head: &u16| {
            let word = heads.get(usize::from(head >> 6)).copied().unwrap_or(0);
            word >> (head & 63) & 1 != 0
        };
        let head = (self.again..self.size).find(is_marked);
        self.again = head.map_or(NONE, |head| head.saturating_add(1));
        head
    }

    /// Takes the next request; its buffers go into `chain`.
    ///
    /// # Errors
    /// What the driver got wrong. The queue cannot go on.
    pub(super) fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        heads: &mut [u64],
        chain: &mut Chain,
    ) -> Result<Option<Popped>, FaultKind> {
        if self.again != NONE
            && let Some(head) = self.next_again(heads)
        {
            self.walk(mem, head, chain)?;
            return Ok(Some(Popped { id: head, slots: 1 }));
        }
        if self.next_avail == self.seen_avail && !self.look(mem)? {
            return Ok(None);
        }
        let head = mem.load_u16(self.entry(self.avail, self.next_avail, 2))?;
        if head >= self.size {
            return Err(FaultKind::DescriptorIndex(head));
        }
        if !mark(heads, head) {
            return Err(FaultKind::HeadInFlight(head));
        }
        self.walk(mem, head, chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Popped { id: head, slots: 1 }))
    }

    /// Reads avail.idx; returns whether there is something.
    fn look<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<bool, FaultKind> {
        let idx = mem.load_u16(ring(self.avail, IDX))?;
        let ahead = idx.wrapping_sub(self.next_avail);
        if ahead > self.size {
            return Err(FaultKind::AvailIndex {
                at: self.next_avail,
                idx,
            });
        }
        self.seen_avail = idx;
        Ok(ahead != 0)
    }

    /// Gives a request back: `written` bytes were written into its buffers. The driver sees it after
    /// [`Queue::publish`].
    ///
    /// # Errors
    /// [`MemError`] if the used ring is not RAM any more.
    pub(super) fn add_used<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        heads: &mut [u64],
        head: Popped,
        written: u32,
    ) -> Result<(), MemError> {
        let [a, b] = head.id.to_le_bytes();
        let [e, f, g, h] = written.to_le_bytes();
        let place = self.entry(self.used, self.next_used, 8);
        mem.write(place, &[a, b, 0, 0, e, f, g, h])?;
        // In this order, so that whoever stops here has not lost it: see `reconcile`.
        self.next_used = self.next_used.wrapping_add(1);
        compiler_fence(Ordering::Release);
        unmark(heads, head.id);
        Ok(())
    }

    /// Shows the driver everything that was given back.
    ///
    /// # Errors
    /// [`MemError`] if the used ring is not RAM any more.
    pub(super) fn publish<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<(), MemError> {
        if self.published != self.next_used {
            mem.store_u16(ring(self.used, IDX), self.next_used)?;
            self.published = self.next_used;
        }
        Ok(())
    }

    /// Whether something was published since the last call, and whether the driver wants an interrupt for it.
    ///
    /// # Errors
    /// [`MemError`] if the available ring is not RAM any more.
    pub(super) fn decide_interrupt<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<Interrupt, MemError> {
        let (old, new) = (self.decided, self.published);
        if old == new {
            return Ok(Interrupt::Nothing);
        }
        // The driver writes used_event (or the flag) and then looks at used.idx; here it is the other way round. With
        // a full barrier in between on both sides at least one of them sees the other's write.
        mem.fence();
        let wanted = if self.event_idx {
            let event = mem.load_u16(self.trailer(self.avail, 2))?;
            is_passed(event, old, new)
        } else {
            mem.load_u16(self.avail)? & NO_INTERRUPT == 0
        };
        self.decided = new;
        Ok(if wanted {
            Interrupt::Wanted
        } else {
            Interrupt::Unwanted
        })
    }

    /// Asks the driver to kick again. Returns whether there is something already: then it might not.
    ///
    /// # Errors
    /// What the driver got wrong.
    pub(super) fn enable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<bool, FaultKind> {
        if self.event_idx {
            mem.store_u16(self.avail_event(), self.next_avail)?;
        } else {
            mem.store_u16(self.used, 0)?;
        }
        // The same as in `decide_interrupt`, with the roles exchanged: the driver writes avail.idx and then looks
        // whether a kick is wanted.
        mem.fence();
        if self.next_avail != self.seen_avail || self.again != NONE {
            return Ok(true);
        }
        self.look(mem)
    }

    /// Asks the driver not to kick: the queue is being run anyway. Only a hint, which saves kicks.
    ///
    /// # Errors
    /// [`MemError`] if the used ring is not RAM any more.
    pub(super) fn disable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<(), MemError> {
        if self.event_idx {
            // An index that the driver passes 2^15 requests later at the soonest.
            mem.store_u16(self.avail_event(), self.next_avail.wrapping_sub(1))
        } else {
            mem.store_u16(self.used, NO_NOTIFY)
        }
    }

    /// What a kick says when the driver is where the device is (2.9): avail.idx.
    pub(super) fn place_word(&self) -> u16 {
        self.next_avail
    }

    fn avail_event(&self) -> Gpa {
        self.trailer(self.used, 8)
    }

    /// Where the entry with a free-running index is.
    fn entry(&self, base: Gpa, index: u16, bytes: u64) -> Gpa {
        let at = u64::from(index & self.size.saturating_sub(1));
        ring(base, RING.saturating_add(at.saturating_mul(bytes)))
    }

    /// Where the word behind the last entry is.
    fn trailer(&self, base: Gpa, bytes: u64) -> Gpa {
        ring(
            base,
            RING.saturating_add(u64::from(self.size).saturating_mul(bytes)),
        )
    }
}

/// Marks a head as in flight, unless it is.
fn mark(heads: &mut [u64], head: u16) -> bool {
    let bit = 1 << (head & 63);
    match heads.get_mut(usize::from(head >> 6)) {
        Some(word) if *word & bit == 0 => {
            *word |= bit;
            true
        }
        _ => false,
    }
}

fn unmark(heads: &mut [u64], head: u16) {
    if let Some(word) = heads.get_mut(usize::from(head >> 6)) {
        *word &= !(1 << (head & 63));
    }
}

/// A place in a ring. Activation saw to it that no ring wraps.
fn ring(base: Gpa, offset: u64) -> Gpa {
    Gpa(base.0.saturating_add(offset))
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
