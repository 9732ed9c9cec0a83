//! One pass over a queue: what a device may do with it.
//!
//! Invariants: no more is taken than the pass's budget pays for; the driver sees what was given back when the pass is
//! over, and is interrupted for all of it at most once.

use crate::chain::Chain;
use crate::counters::{Counters, bump};
use crate::device::Progress;
use crate::fault::FaultKind;
use crate::mem::GuestMemory;
use crate::queue::{Head, Queue};

/// A request costs one, one more for every so many bytes that it may move, as a power of two,
const BYTES_SHIFT: u32 = 16;
/// and one more for every so many segments, each of which may be a copy of its own.
const SEGMENTS_SHIFT: u32 = 4;

/// A pass over a queue.
pub struct Pass<'a, M: ?Sized> {
    mem: &'a M,
    number: u16,
    queue: &'a mut Queue,
    /// The queue's heads in flight.
    heads: &'a mut [u64],
    budget: &'a mut u32,
    counters: &'a mut Counters,
}

impl<'a, M: GuestMemory + ?Sized> Pass<'a, M> {
    pub(crate) fn new(
        mem: &'a M,
        number: u16,
        queue: &'a mut Queue,
        heads: &'a mut [u64],
        budget: &'a mut u32,
        counters: &'a mut Counters,
    ) -> Self {
        Self {
            mem,
            number,
            queue,
            heads,
            budget,
            counters,
        }
    }

    /// The queue's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Number of the queue's entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The guest's memory.
    pub fn mem(&self) -> &'a M {
        self.mem
    }

    /// Takes the next request; its buffers go into `chain`. None if there is none, or if others have their turn first.
    ///
    /// # Errors
    /// What the driver got wrong. The queue cannot go on.
    pub fn take(&mut self, chain: &mut Chain) -> Result<Option<Head>, FaultKind> {
        if *self.budget == 0 {
            return Ok(None);
        }
        let head = self.queue.pop(self.mem, self.heads, chain)?;
        if head.is_some() {
            bump(&mut self.counters.requests);
            let bytes = u32::try_from(chain.bytes() >> BYTES_SHIFT).unwrap_or(u32::MAX);
            let segments = u32::try_from(chain.len() >> SEGMENTS_SHIFT).unwrap_or(u32::MAX);
            let cost = bytes.saturating_add(segments).saturating_add(1);
            *self.budget = self.budget.saturating_sub(cost);
        }
        Ok(head)
    }

    /// Gives a request back: `written` bytes were written into its buffers. One from before a reset is forgotten.
    ///
    /// # Errors
    /// [`FaultKind::Memory`] if the ring is not RAM any more; [`FaultKind::NotInOrder`].
    pub fn give_back(&mut self, head: Head, written: u32) -> Result<(), FaultKind> {
        if !self.queue.add_used(self.mem, self.heads, head, written)? {
            bump(&mut self.counters.stale_requests);
        }
        Ok(())
    }

    /// Whether more may be taken: if not, that [`Pass::take`] has given nothing says nothing of the queue.
    pub fn has_budget(&self) -> bool {
        *self.budget > 0
    }

    /// Takes more of the budget than a request costs by itself, for one that means more work than moving its bytes once.
    pub fn charge(&mut self, cost: u32) {
        *self.budget = self.budget.saturating_sub(cost);
    }

    /// For devices that finish a request at once: takes all there is and gives each back. `serve` returns how many bytes
    /// it wrote.
    ///
    /// # Errors
    /// The first fault.
    pub fn serve_each(
        &mut self,
        chain: &mut Chain,
        mut serve: impl FnMut(&M, &Chain) -> Result<u32, FaultKind>,
    ) -> Result<Progress, FaultKind> {
        while let Some(head) = self.take(chain)? {
            let written = serve(self.mem, chain)?;
            self.give_back(head, written)?;
        }
        Ok(Progress::Drained)
    }
}
