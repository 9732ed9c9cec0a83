//! A packed ring (virtio 1.3, section 2.8).
//!
//! One ring of descriptors that both sides write. Each side goes round it with a wrap counter that flips at the end;
//! two flags of a descriptor, compared with the counter, say whose it is.
//!
//! Invariants: at most as many entries are in flight as the ring has; the flags of a used descriptor are written last;
//! of several that are given back together, the flags of the first one are written last, so that the driver, who looks at
//! them in their order, sees all or none.

use core::sync::atomic::{Ordering, compiler_fence};

use super::walk::Flags;
use super::{Interrupt, Place, Popped};
use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::{Gpa, GuestMemory, MemError};

/// Bytes of a descriptor.
const SIZE: u64 = 16;
/// Where the flags are in it.
const FLAGS: u64 = 14;
/// Where the flags are in an event suppression structure; its descriptor word is at 0 (2.8.10).
const EVENT_FLAGS: u64 = 2;
/// `RING_EVENT_FLAGS_ENABLE`
const ENABLE: u16 = 0;
/// `RING_EVENT_FLAGS_DISABLE`
const DISABLE: u16 = 1;
/// `RING_EVENT_FLAGS_DESC`
const AT_DESCRIPTOR: u16 = 2;
/// The wrap counter in a word that has an offset below it.
const WRAP: u16 = 1 << 15;

/// A place in the ring, with the wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    offset: u16,
    wrap: bool,
}

impl Cursor {
    const START: Cursor = Cursor {
        offset: 0,
        wrap: true,
    };

    /// The place `slots` entries further, in a ring of `size` entries; `slots` is at most `size`.
    fn after(self, slots: u16, size: u16) -> Self {
        let sum = u32::from(self.offset).saturating_add(u32::from(slots));
        match sum.checked_sub(size.into()) {
            None => Cursor {
                offset: u16::try_from(sum).unwrap_or(0),
                ..self
            },
            Some(rest) => Cursor {
                offset: u16::try_from(rest).unwrap_or(0),
                wrap: !self.wrap,
            },
        }
    }

    /// How many entries it is from `earlier` to here: less than two rounds.
    fn since(self, earlier: Cursor, size: u16) -> u32 {
        let round = u32::from(size);
        let position = |cursor: Cursor| {
            let lap = if cursor.wrap { 0 } else { round };
            lap.saturating_add(cursor.offset.into())
        };
        let two = round.saturating_mul(2);
        let ahead = position(self)
            .saturating_add(two)
            .saturating_sub(position(earlier));
        ahead.checked_rem(two).unwrap_or(0)
    }

    fn word(self) -> u16 {
        if self.wrap {
            self.offset | WRAP
        } else {
            self.offset
        }
    }

    fn from_word(word: u16) -> Self {
        Cursor {
            offset: word & !WRAP,
            wrap: word & WRAP != 0,
        }
    }
}

/// A packed ring in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) size: u16,
    ring: Gpa,
    /// Event suppression of the driver: about interrupts.
    driver: Gpa,
    /// Event suppression of the device: about kicks.
    device: Gpa,
    pub(super) indirect: bool,
    event_idx: bool,
    next_avail: Cursor,
    next_used: Cursor,
    /// The first entry that was given back and not published, and its flags.
    held: Option<(Gpa, Flags)>,
    /// Entries that were given back and not published.
    unpublished: u16,
    /// Where `next_used` was when entries were last published.
    published: Cursor,
    /// Entries published since it was last decided whether to interrupt. The driver may have made them available again,
    /// so that there can be more of them than the ring has.
    undecided: u32,
    /// Entries that were taken and not given back.
    in_flight: u16,
    /// What was given back last, and where: a used descriptor is written over what the driver has made available, so
    /// whoever stops in the middle of that has lost it otherwise. It is done if `next_used` is somewhere else.
    giving: Giving,
}

/// A request on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Giving {
    pub(super) at: u16,
    pub(super) id: u16,
    pub(super) slots: u16,
    pub(super) written: u32,
}

impl Giving {
    /// None: an offset that no ring has.
    pub(super) const NONE: Giving = Giving {
        at: !WRAP,
        id: 0,
        slots: 0,
        written: 0,
    };
}

impl Packed {
    pub(super) fn new(size: u16, [ring, driver, device]: [Gpa; 3], features: Features) -> Self {
        Self {
            size,
            ring,
            driver,
            device,
            indirect: features.contains(Features::INDIRECT_DESC),
            event_idx: features.contains(Features::EVENT_IDX),
            next_avail: Cursor::START,
            next_used: Cursor::START,
            held: None,
            unpublished: 0,
            published: Cursor::START,
            undecided: 0,
            in_flight: 0,
            giving: Giving::NONE,
        }
    }

    /// Where it stands.
    pub(super) fn standing(&self) -> Place {
        let is_done = self.giving.at != self.next_used.word();
        Place {
            taken: self.next_avail.word(),
            given: self.next_used.word(),
            shown: self.published.word(),
            flags: self.held.map_or(0, |(_, flags)| flags.bits()),
            giving: if is_done { Giving::NONE } else { self.giving },
            told: self.undecided,
        }
    }

    /// Goes on from there. Returns false if that cannot be.
    pub(super) fn resume<M: GuestMemory + ?Sized>(&mut self, mem: &M, place: &Place) -> bool {
        let given = Cursor::from_word(place.given);
        let shown = Cursor::from_word(place.shown);
        let unshown = given.since(shown, self.size);
        let Giving {
            at,
            id,
            slots,
            written,
        } = place.giving;
        let fits = unshown.saturating_add(slots.into()) <= self.size.into();
        if given.offset >= self.size || shown.offset >= self.size || !fits {
            return false;
        }
        self.next_avail = given;
        self.next_used = given;
        self.published = shown;
        self.undecided = place.told;
        if at == place.given {
            return self.show(mem, place, unshown)
                && self.give_again(mem, Popped { id, slots }, written);
        }
        self.show(mem, place, unshown)
    }

    /// Gives back what somebody else has given back half.
    fn give_again<M: GuestMemory + ?Sized>(&mut self, mem: &M, head: Popped, written: u32) -> bool {
        if head.slots == 0 || head.slots > self.size {
            return false;
        }
        self.next_avail = self.next_avail.after(head.slots, self.size);
        self.in_flight = head.slots;
        let given = self.add_used(mem, &mut [], head, written);
        given.and_then(|()| self.publish(mem)).is_ok()
    }

    /// Shows what somebody else has given back.
    fn show<M: GuestMemory + ?Sized>(&mut self, mem: &M, place: &Place, unshown: u32) -> bool {
        let shown = self.published;
        if unshown == 0 {
            return true;
        }
        let mut flags = Flags::from_bits_truncate(place.flags) & Flags::WRITE;
        flags.set(Flags::AVAIL | Flags::USED, shown.wrap);
        self.held = Some((field(self.place(shown), FLAGS), flags));
        self.unpublished = u16::try_from(unshown).unwrap_or(self.size);
        self.publish(mem).is_ok()
    }

    /// Where the entry `ahead` of the next available one is; `ahead` is less than the size.
    pub(super) fn entry(&self, ahead: u16) -> Gpa {
        self.place(self.next_avail.after(ahead, self.size))
    }

    fn place(&self, cursor: Cursor) -> Gpa {
        field(self.ring, u64::from(cursor.offset).saturating_mul(SIZE))
    }

    /// The flags of the next entry, if the driver has made it available.
    fn look<M: GuestMemory + ?Sized>(&self, mem: &M) -> Result<Option<Flags>, FaultKind> {
        let flags = mem.load_u16(field(self.entry(0), FLAGS))?;
        let flags = Flags::from_bits_truncate(flags);
        let wrap = self.next_avail.wrap;
        let available = flags.contains(Flags::AVAIL) == wrap && flags.contains(Flags::USED) != wrap;
        Ok(available.then_some(flags))
    }

    pub(super) fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        _: &mut [u64],
        chain: &mut Chain,
    ) -> Result<Option<Popped>, FaultKind> {
        let Some(flags) = self.look(mem)? else {
            return Ok(None);
        };
        let (id, slots) = self.walk(mem, flags, chain)?;
        let in_flight = self.in_flight.saturating_add(slots);
        if in_flight > self.size {
            // The driver has taken back entries that it had given away.
            return Err(FaultKind::HeadInFlight(id));
        }
        self.in_flight = in_flight;
        self.next_avail = self.next_avail.after(slots, self.size);
        Ok(Some(Popped { id, slots }))
    }

    pub(super) fn add_used<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        _: &mut [u64],
        head: Popped,
        written: u32,
    ) -> Result<(), MemError> {
        let place = self.place(self.next_used);
        self.giving = Giving {
            at: self.next_used.word(),
            id: head.id,
            slots: head.slots,
            written,
        };
        compiler_fence(Ordering::Release);
        let [a, b, c, d] = written.to_le_bytes();
        let [e, f] = head.id.to_le_bytes();
        mem.write(field(place, 8), &[a, b, c, d, e, f])?;
        let mut flags = Flags::empty();
        flags.set(Flags::AVAIL | Flags::USED, self.next_used.wrap);
        // The length counts only with this flag (2.8.4).
        flags.set(Flags::WRITE, written != 0);
        let at = field(place, FLAGS);
        if self.held.is_none() {
            self.held = Some((at, flags));
        } else {
            mem.store_u16(at, flags.bits())?;
        }
        self.in_flight = self.in_flight.saturating_sub(head.slots);
        self.next_used = self.next_used.after(head.slots, self.size);
        self.unpublished = self.unpublished.saturating_add(head.slots);
        Ok(())
    }

    pub(super) fn publish<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<(), MemError> {
        if let Some((at, flags)) = self.held.take() {
            mem.store_u16(at, flags.bits())?;
            self.undecided = self.undecided.saturating_add(self.unpublished.into());
            self.unpublished = 0;
            self.published = self.next_used;
        }
        Ok(())
    }

    /// What a kick says when the driver is where the device is (2.9): offset and wrap counter.
    pub(super) fn place_word(&self) -> u16 {
        self.next_avail.word()
    }

    pub(super) fn decide_interrupt<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<Interrupt, MemError> {
        let new = self.undecided;
        if new == 0 {
            return Ok(Interrupt::Nothing);
        }
        // The driver writes its event structure and then looks at the ring; here it is the other way round. With a
        // full barrier in between on both sides at least one of them sees the other's write.
        mem.fence();
        let wanted = match mem.load_u16(field(self.driver, EVENT_FLAGS))? & 3 {
            DISABLE => false,
            AT_DESCRIPTOR if self.event_idx => {
                let event = Cursor::from_word(mem.load_u16(self.driver)?);
                // An offset that is in no ring is never passed.
                let behind = self.published.since(event, self.size);
                // After a whole round the event has been passed, wherever it is.
                let round = new >= self.size.into();
                round || (event.offset < self.size && behind != 0 && behind <= new)
            }
            _ => true,
        };
        self.undecided = 0;
        Ok(if wanted {
            Interrupt::Wanted
        } else {
            Interrupt::Unwanted
        })
    }

    pub(super) fn enable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<bool, FaultKind> {
        if self.event_idx {
            mem.store_u16(self.device, self.next_avail.word())?;
            mem.store_u16(field(self.device, EVENT_FLAGS), AT_DESCRIPTOR)?;
        } else {
            mem.store_u16(field(self.device, EVENT_FLAGS), ENABLE)?;
        }
        // As in `decide_interrupt`, with the roles exchanged.
        mem.fence();
        Ok(self.look(mem)?.is_some())
    }

    pub(super) fn disable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<(), MemError> {
        mem.store_u16(field(self.device, EVENT_FLAGS), DISABLE)
    }
}

/// A place in the ring's memory. Activation saw to it that nothing wraps.
fn field(base: Gpa, offset: u64) -> Gpa {
    Gpa(base.0.saturating_add(offset))
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
