//! Where a queue stands, for another device model that goes on with it.
//!
//! Only what was given back counts: what was taken and not given back is still where the driver has put it, as long as the
//! device gives things back in the order in which it took them, and is taken again. So the available side needs no record.

use super::{Queue, Ring};
use crate::mem::GuestMemory;
use crate::state::{BadState, Reader, Writer};

/// Where a queue stands: for a split ring free-running indices, for a packed one offsets with the wrap counter in the
/// highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the next used entry goes.
    pub given: u16,
    /// As far as the driver has been shown.
    pub shown: u16,
    /// For a packed ring of which something was not shown: the flags that show it.
    pub flags: u16,
    /// Split: as far as it was decided whether to interrupt. Packed: entries for which it was not.
    pub told: u32,
}

impl Place {
    pub(crate) fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.given);
        to.u16(self.shown);
        to.u16(self.flags);
        to.u32(self.told);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, BadState> {
        Ok(Self {
            given: from.u16()?,
            shown: from.u16()?,
            flags: from.u16()?,
            told: from.u32()?,
        })
    }
}

impl Queue {
    /// Where it stands.
    pub fn place(&self) -> Place {
        match &self.ring {
            Ring::Split(ring) => ring.standing(),
            Ring::Packed(ring) => ring.standing(),
        }
    }

    /// Goes on from there: for a queue that was just made. What was given back and not shown is shown. Returns false, and is
    /// of no use, if no queue of this size can be there or the driver's memory says otherwise.
    #[must_use]
    pub fn resume<M: GuestMemory + ?Sized>(&mut self, mem: &M, place: &Place) -> bool {
        let resumed = match &mut self.ring {
            Ring::Split(ring) => ring.resume(mem, place),
            Ring::Packed(ring) => ring.resume(mem, place),
        };
        matches!(resumed, Ok(true))
    }
}
