//! Virtqueues, the device's side: split and packed rings.
//!
//! Made by [`QueueConfig::activate`] only, so that a [`Queue`] is aligned, in RAM and of a legal size when it starts.
//! Its memory is the driver's all the same: every access can fail, and everything read is checked.

mod config;
mod packed;
mod split;
mod walk;

pub use config::{Area, QueueConfig};

use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::mem::{GuestMemory, MemError};
use packed::Packed;
use split::Split;

/// Most entries of a queue.
pub const MAX_SIZE: u16 = 256;

/// Names a request until it is given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that is not given back is lost to the driver"]
pub struct Head {
    /// What the driver knows it by.
    id: u16,
    /// How many entries of the ring it takes.
    slots: u16,
}

/// A queue in use.
#[derive(Clone, Debug)]
pub struct Queue(Ring);

#[derive(Clone, Debug)]
enum Ring {
    Split(Split),
    Packed(Packed),
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
        ring!(&self.0, ring => ring.size)
    }

    /// Takes the next request; its buffers go into `chain`.
    ///
    /// # Errors
    /// What the driver got wrong. The queue cannot go on.
    pub fn pop<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        chain: &mut Chain,
    ) -> Result<Option<Head>, FaultKind> {
        ring!(&mut self.0, ring => ring.pop(mem, chain))
    }

    /// Gives a request back: `written` bytes were written into its buffers. The driver need not see it before
    /// [`Queue::publish`].
    ///
    /// # Errors
    /// [`MemError`] if the ring is not RAM any more.
    pub fn add_used<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        head: Head,
        written: u32,
    ) -> Result<(), MemError> {
        ring!(&mut self.0, ring => ring.add_used(mem, head, written))
    }

    /// Shows the driver everything that was given back.
    ///
    /// # Errors
    /// [`MemError`] if the ring is not RAM any more.
    pub fn publish<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<(), MemError> {
        ring!(&mut self.0, ring => ring.publish(mem))
    }

    /// Whether something was published since the last call, and whether the driver wants an interrupt for it.
    ///
    /// # Errors
    /// [`MemError`] if the driver's area is not RAM any more.
    pub fn decide_interrupt<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<Interrupt, MemError> {
        ring!(&mut self.0, ring => ring.decide_interrupt(mem))
    }

    /// Asks the driver to kick again. Returns whether there is something already: then it might not.
    ///
    /// # Errors
    /// What the driver got wrong.
    pub fn enable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<bool, FaultKind> {
        ring!(&mut self.0, ring => ring.enable_notifications(mem))
    }

    /// Asks the driver not to kick: the queue is being run anyway. Only a hint, which saves kicks.
    ///
    /// # Errors
    /// [`MemError`] if the device's area is not RAM any more.
    pub fn disable_notifications<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
    ) -> Result<(), MemError> {
        ring!(&mut self.0, ring => ring.disable_notifications(mem))
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
