//! Virtqueues, the device's side: split and packed rings.
//!
//! Made by [`QueueConfig::activate`] only, so that a [`Queue`] is aligned, in RAM and of a legal size when it starts.
//! Its memory is the driver's all the same: every access can fail, and everything read is checked.

mod config;
mod packed;
mod split;
mod state;
mod walk;

pub use config::{Area, QueueConfig};
use state::Place;
pub(crate) use state::Standing;

use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::{GuestMemory, MemError};
use packed::Packed;
use split::Split;

/// Most entries of a queue (2.7 and 2.8).
pub const MAX_SIZE: u16 = 32768;

/// Names a request until it is given back, also over a reset of its queue.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is not given back is lost to the driver"]
pub struct Head {
    /// What the driver knows it by.
    id: u16,
    /// How many entries of the ring it takes.
    slots: u16,
    /// The how-manyth it is.
    number: u16,
    /// Of its queue.
    epoch: u32,
}

/// A queue in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    ring: Ring,
    epoch: u32,
    in_order: bool,
    /// Requests taken so far.
    taken: u16,
    /// Requests given back so far.
    given: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ring {
    Split(Split),
    Packed(Packed),
}

/// What a ring's `pop` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Popped {
    id: u16,
    slots: u16,
}

/// Calls a method of whichever ring it is.
macro_rules! ring {
    ($queue:expr, $ring:ident => $call:expr) => {
        match $queue {
            Ring::Split($ring) => $call,
            Ring::Packed($ring) => $call,
        }
    };
}

impl Queue {
    /// Number of entries.
    pub fn size(&self) -> u16 {
        ring!(&self.ring, ring => ring.size)
    }

    /// Requests that were taken and not given back.
    pub fn in_flight(&self) -> u16 {
        self.taken.wrapping_sub(self.given)
    }

    /// Whether it is a packed ring.
    pub fn is_packed(&self) -> bool {
        matches!(self.ring, Ring::Packed(_))
    }

    fn new(ring: Ring, features: Features, epoch: u32) -> Self {
        Self {
            ring,
            epoch,
            in_order: features.contains(Features::IN_ORDER),
            taken: 0,
            given: 0,
        }
    }

    /// The queue is not used any more.
    pub fn close<M: GuestMemory + ?Sized>(&self, mem: &M) {
        mem.close_ring(self.epoch);
    }

    /// Takes the next request; its buffers go into `chain`. `heads` is the set of heads in flight: a bit for each entry,
    /// none of them set at the start, and for nobody else to change.
    ///
    /// # Errors
    /// What the driver got wrong. The queue cannot go on.
    pub fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        heads: &mut [u64],
        chain: &mut Chain,
    ) -> Result<Option<Head>, FaultKind> {
        let Some(Popped { id, slots }) =
            ring!(&mut self.ring, ring => ring.pop(mem, heads, chain))?
        else {
            return Ok(None);
        };
        let number = self.taken;
        self.taken = number.wrapping_add(1);
        Ok(Some(Head {
            id,
            slots,
            number,
            epoch: self.epoch,
        }))
    }

    /// Gives a request back: `written` bytes were written into its buffers. The driver sees it, and all that were given
    /// back since, with [`Queue::publish`]. Returns false, and does nothing, if the request is of an earlier epoch: it
    /// was finished after a reset, and the driver does not wait for it any more.
    ///
    /// # Errors
    /// [`FaultKind::Memory`] if the ring is not RAM any more; [`FaultKind::NotInOrder`].
    pub fn add_used<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        heads: &mut [u64],
        head: Head,
        written: u32,
    ) -> Result<bool, FaultKind> {
        if head.epoch != self.epoch {
            return Ok(false);
        }
        if self.in_order && head.number != self.given {
            return Err(FaultKind::NotInOrder(head.id));
        }
        self.given = self.given.wrapping_add(1);
        let Head { id, slots, .. } = head;
        ring!(&mut self.ring, ring => ring.add_used(mem, heads, Popped { id, slots }, written))?;
        Ok(true)
    }

    /// Whether the place that a kick names (the upper half of its value, with NOTIFICATION_DATA) has been reached
    /// already: then the kick was for nothing that is not taken yet.
    ///
    /// The other way round it says nothing: a vCPU may have stood still between writing that number and kicking, and
    /// the queue may have gone round meanwhile. Only avail.idx says what is available.
    pub fn is_taken(&self, place: u16) -> bool {
        ring!(&self.ring, ring => ring.place_word() == place)
    }

    /// Shows the driver everything that was given back, when all that was written for it is in the guest's memory.
    ///
    /// # Errors
    /// [`MemError`] if something could not be written, or the ring is not RAM any more.
    pub fn publish<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<(), MemError> {
        mem.flush()?;
        ring!(&mut self.ring, ring => ring.publish(mem))
    }

    /// Whether something was published since the last call, and whether the driver wants an interrupt for it.
    ///
    /// # Errors
    /// [`MemError`] if the driver's area is not RAM any more.
    pub fn decide_interrupt<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<Interrupt, MemError> {
        ring!(&mut self.ring, ring => ring.decide_interrupt(mem))
    }

    /// Asks the driver to kick again. Returns whether there is something already: then it might not.
    ///
    /// # Errors
    /// What the driver got wrong.
    pub fn enable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<bool, FaultKind> {
        ring!(&mut self.ring, ring => ring.enable_notifications(mem))
    }

    /// Asks the driver not to kick: the queue is being run anyway. Only a hint, which saves kicks.
    ///
    /// # Errors
    /// [`MemError`] if the device's area is not RAM any more.
    pub fn disable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<(), MemError> {
        ring!(&mut self.ring, ring => ring.disable_notifications(mem))
    }
}

/// What the driver wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// There is nothing new.
    Nothing,
    /// There is something new, and it wants to be interrupted for it.
    Wanted,
    /// There is something new, and it will find out by itself.
    Unwanted,
}

/// Whether a free-running index that went from `old` to `new` has passed `event` (2.7.10): `event` is the index after whose
/// entry the other side wants to be told.
pub(crate) fn is_passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
