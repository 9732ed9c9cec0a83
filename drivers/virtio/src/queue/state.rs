//! Where a queue stands, for another device model that goes on with it.
//!
//! As long as a device gives requests back in the order in which it took them, only what was given back counts: what was
//! taken and not given back is still where the driver has put it, and is taken again. Where it does not keep the order,
//! the heads in flight are written down too: a split ring's descriptors stay as they are as long as their head is in
//! flight, and so the request can be read again. A packed ring's are written over by whatever ends before.
//!
//! The one who has written it down may have been stopped between any two of its steps. What the driver has been shown is in
//! its own memory; each step is such that the rest can be told from what is there.

use super::packed::Giving;
use super::{Queue, Ring};
use crate::mem::GuestMemory;
use crate::state::{BadState, Reader, Writer};

/// In the place of the number of heads in flight: they are not known.
const UNKNOWN: u16 = u16::MAX;

/// Where a queue stands: for a split ring free-running indices, for a packed one offsets with the wrap counter in the
/// highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the next available entry is.
    pub(super) taken: u16,
    /// Where the next used entry goes.
    pub(super) given: u16,
    /// As far as the driver has been shown.
    pub(super) shown: u16,
    /// For a packed ring of which something was not shown: the flags that show it.
    pub(super) flags: u16,
    /// For a packed ring: what was given back last.
    pub(super) giving: Giving,
    /// Split: as far as it was decided whether to interrupt. Packed: entries for which it was not.
    pub(super) told: u32,
}

impl Place {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.taken);
        to.u16(self.given);
        to.u16(self.shown);
        to.u16(self.flags);
        to.u16(self.giving.at);
        to.u16(self.giving.id);
        to.u16(self.giving.slots);
        to.u32(self.giving.written);
        to.u32(self.told);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, BadState> {
        Ok(Self {
            taken: from.u16()?,
            given: from.u16()?,
            shown: from.u16()?,
            flags: from.u16()?,
            giving: Giving {
                at: from.u16()?,
                id: from.u16()?,
                slots: from.u16()?,
                written: from.u32()?,
            },
            told: from.u32()?,
        })
    }
}

/// What was written down of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    place: Place,
    /// Heads in flight, of two bytes each, if the order is not kept; nothing if they are not known.
    heads: Option<&'a [u8]>,
}

impl<'a> Standing<'a> {
    pub(crate) fn read(from: &mut Reader<'a>) -> Result<Self, BadState> {
        let place = Place::read(from)?;
        let count = from.u16()?;
        let heads = if count == UNKNOWN {
            None
        } else {
            Some(from.bytes(usize::from(count).saturating_mul(2))?)
        };
        Ok(Self { place, heads })
    }
}

/// The heads that are marked in a set.
fn marked(heads: &[u64], size: u16) -> impl Iterator<Item = u16> {
    (0..size).filter(|head| {
        let word = heads.get(usize::from(head >> 6)).copied().unwrap_or(0);
        word >> (head & 63) & 1 != 0
    })
}

impl Queue {
    /// Writes down where it stands. `heads` is the set of heads in flight.
    pub(crate) fn save(&self, heads: &[u64], keeps_order: bool, to: &mut Writer<'_>) {
        let mut place = match &self.ring {
            Ring::Split(ring) => ring.standing(),
            Ring::Packed(ring) => ring.standing(),
        };
        if keeps_order {
            // As if nothing more had been taken.
            place.taken = place.given;
        }
        place.write(to);
        match &self.ring {
            Ring::Split(ring) => {
                let count = if keeps_order {
                    0
                } else {
                    marked(heads, ring.size).count()
                };
                to.u16(u16::try_from(count).unwrap_or(UNKNOWN));
                marked(heads, ring.size)
                    .take(count)
                    .for_each(|head| to.u16(head));
            }
            Ring::Packed(_) => {
                let known = keeps_order || self.in_flight() == 0;
                to.u16(if known { 0 } else { UNKNOWN });
            }
        }
    }

    /// Goes on from there: for a queue that was just made, with no heads in flight. What was given back and not shown is
    /// shown. It is of no use after an error.
    pub(crate) fn resume<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        heads: &mut [u64],
        keeps_order: bool,
        from: &Standing<'_>,
        number: u16,
    ) -> Result<(), BadState> {
        let again = from.heads.ok_or(BadState::Lost(number))?;
        let place = &from.place;
        let resumed = match &mut self.ring {
            Ring::Split(ring) if keeps_order && again.is_empty() => {
                ring.resume(mem, place, place.given)
            }
            Ring::Split(ring) if !keeps_order => {
                let marked = again
                    .as_chunks()
                    .0
                    .iter()
                    .all(|id| ring.mark_again(heads, u16::from_le_bytes(*id)));
                marked && ring.resume(mem, place, place.taken) && ring.reconcile(mem, heads, place)
            }
            Ring::Packed(ring) if again.is_empty() => ring.resume(mem, place),
            _ => false,
        };
        if resumed {
            Ok(())
        } else {
            Err(BadState::Ring(number))
        }
    }
}
