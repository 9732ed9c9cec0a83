//! The slot state machine: what happens between a slot's READY and its IORESP_READY.
//!
//! Two callers share an engine: the interrupt handler ([`Engine::on_event`], [`Engine::scan`]) and the main loop
//! ([`Engine::next_pending`], [`Engine::complete`]). Each call is short and bounded, so the kernel may hold a lock
//! with interrupts off over each; what lies between `next_pending` and `complete` runs without it.
//!
//! Invariants:
//! - a slot's state is written here only: READY → INPROCESS when the main loop gets the request, READY or INPROCESS →
//!   IORESP_READY as the answer; a slot that is in another state than expected is left alone and counted;
//! - each request that is taken is answered once: a [`Ticket`] is good for one [`Engine::complete`], and none is when
//!   the slot has been given another request meanwhile;
//! - slots take turns: both the scan and the main loop go on behind the slot that was served last.

use crate::buffered::PostedWrite;
use crate::counters::{Counters, bump};
use crate::decode::Access;
use crate::doorbell::{Kick, Registry};
use crate::page::SlotPage;
use crate::ranges::Ranges;
use crate::slot::{Control, Ioreq, SLOTS_PER_PAGE, State};
use crate::types::{Direction, DomId, SlotIndex, There};

/// What looking at a slot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no request. Send nothing.
    Nothing,
    /// The slot is answered. Send an event on its port, then deliver the kick if there is one.
    Answered {
        /// The doorbell that rang.
        kick: Option<Kick>,
    },
    /// The slot is INPROCESS and its request waits for [`Engine::next_pending`]. Send nothing yet.
    Deferred,
}

/// The right to complete one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: SlotIndex,
    serial: u32,
}

impl Ticket {
    /// The slot the request came in.
    pub fn slot(&self) -> SlotIndex {
        self.slot
    }
}

/// Why a request was not completed. Send no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteError {
    /// The ticket's request is gone: completed, forgotten, or replaced by a newer one.
    Stale,
    /// The slot is not INPROCESS any more, and not by us: Xen's or the guest's doing. It is left as it is.
    NotInProcess,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    _there: There,
    access: Access,
    control: Control,
    serial: u32,
}

/// The ioreq engine for one server: `SLOTS` vCPUs at most, 128 or fewer, `CELLS` cells for doorbells (half can be used).
#[derive(Clone, Debug)]
pub struct Engine<const SLOTS: usize, const CELLS: usize> {
    /// The doorbells.
    pub doorbells: Registry<CELLS>,
    /// Where device registers are; accesses elsewhere never reach the main loop.
    pub registers: Ranges,
    /// Whether doorbells wait for the main loop.
    holding: bool,
    counters: Counters,
    pending: [Option<Pending>; SLOTS],
    /// A bit for each slot whose request waits for [`Engine::next_pending`].
    waiting: u128,
    serial: u32,
    scan_from: usize,
    serve_from: u32,
}

impl<const SLOTS: usize, const CELLS: usize> Engine<SLOTS, CELLS> {
    /// An engine without doorbells and registers, for doorbells of one domain or of any.
    pub const fn new(restricted_to: Option<DomId>) -> Self {
        const { assert!(SLOTS <= SLOTS_PER_PAGE) };
        Engine {
            doorbells: Registry::new(restricted_to),
            registers: Ranges::new(),
            holding: false,
            counters: ZERO,
            pending: [None; SLOTS],
            waiting: 0,
            serial: 0,
            scan_from: 0,
            serve_from: 0,
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether doorbells are answered at once, or wait for the main loop like register writes, which holds back vCPUs
    /// that ring more often than the main loop can serve.
    pub fn set_answering(&mut self, answering: bool) {
        self.holding = !answering;
    }

    /// Counts an interrupt: one may stand for several slots.
    pub fn count_upcall(&mut self) {
        bump(&mut self.counters.upcalls);
    }

    /// Looks at one slot because its event has come. For the interrupt handler.
    pub fn on_event<P: SlotPage + ?Sized>(&mut self, page: &P, slot: SlotIndex) -> Outcome {
        let outcome = self.look(page, slot);
        if outcome == Outcome::Nothing {
            bump(&mut self.counters.spurious);
        }
        outcome
    }

    /// Looks at every slot, whether or not its event has come, and reports those that had a request.
    pub fn scan<P: SlotPage + ?Sized>(
        &mut self,
        page: &P,
        mut report: impl FnMut(SlotIndex, Outcome),
    ) {
        let slots = SLOTS.min(page.slots());
        let start = self.scan_from;
        for step in 0..slots {
            let Some(slot) = turn(start, step, slots) else {
                return;
            };
            let outcome = self.look(page, slot);
            if outcome != Outcome::Nothing {
                self.scan_from = slot.index().wrapping_add(1);
                report(slot, outcome);
            }
        }
    }

    /// Whether a posted write (see [`crate::buffered`]) rings a doorbell. If not, it is a register write for the caller
    /// to carry out, in the order of the ring.
    pub fn on_posted(&mut self, write: &PostedWrite) -> Option<Kick> {
        let kick = self
            .doorbells
            .lookup(write.space, write.addr, write.width, write.value)
            .kick;
        if kick.is_some() {
            bump(&mut self.counters.posted_doorbells);
        }
        kick
    }

    /// How many requests wait for [`Engine::next_pending`].
    pub fn waiting(&self) -> u32 {
        self.waiting.count_ones()
    }

    /// The next request for the main loop, each once.
    pub fn next_pending(&mut self) -> Option<(Ticket, Access)> {
        if self.waiting == 0 {
            return None;
        }
        let ahead = self.waiting.rotate_right(self.serve_from).trailing_zeros();
        let at = self.serve_from.wrapping_add(ahead) & LAST_SLOT;
        self.waiting &= !(1 << at);
        self.serve_from = at.wrapping_add(1);
        let slot = SlotIndex(u16::try_from(at).ok()?);
        let pending = self.pending.get(slot.index())?.as_ref()?;
        let ticket = Ticket {
            slot,
            serial: pending.serial,
        };
        Some((ticket, pending.access))
    }

    /// Answers a request with `data` (which only a direct read takes). On success send an event on the slot's port.
    pub fn complete<P: SlotPage + ?Sized>(
        &mut self,
        page: &P,
        ticket: Ticket,
        data: u64,
    ) -> Result<(), CompleteError> {
        let entry = self
            .pending
            .get_mut(ticket.slot.index())
            .ok_or(CompleteError::Stale)?;
        let pending = entry
            .take_if(|pending| pending.serial == ticket.serial)
            .ok_or(CompleteError::Stale)?;
        self.waiting &= !bit(ticket.slot);
        if page.control(ticket.slot).state() != Some(State::InProcess) {
            bump(&mut self.counters.abandoned);
            return Err(CompleteError::NotInProcess);
        }
        self.answer(page, ticket.slot, pending.control, data);
        Ok(())
    }

    /// Drops every request that waits, without answering: the guest is gone.
    pub fn forget(&mut self) {
        for pending in &mut self.pending {
            if pending.take().is_some() {
                bump(&mut self.counters.abandoned);
            }
        }
        self.waiting = 0;
    }

    fn look<P: SlotPage + ?Sized>(&mut self, page: &P, slot: SlotIndex) -> Outcome {
        if slot.index() >= SLOTS.min(page.slots())
            || page.control(slot).state() != Some(State::Ready)
        {
            return Outcome::Nothing;
        }
        let request = Ioreq::decode(page.load(slot));
        // The copy decides, so it has to say READY too.
        if request.control.state() != Some(State::Ready) {
            return Outcome::Nothing;
        }
        match Access::decode(&request) {
            Ok(access) if self.is_ours(&access) => {
                self.dispatch(page, slot, request.control, access)
            }
            _ => {
                bump(&mut self.counters.strays);
                self.answer(page, slot, request.control, u64::MAX);
                Outcome::Answered { kick: None }
            }
        }
    }

    fn dispatch<P: SlotPage + ?Sized>(
        &mut self,
        page: &P,
        slot: SlotIndex,
        control: Control,
        access: Access,
    ) -> Outcome {
        if let Access::Write {
            space,
            addr,
            width,
            value,
        } = access
            && !self.holding
            && let Some(kick) = self.doorbells.lookup(space, addr, width, value).kick
        {
            bump(&mut self.counters.doorbells);
            self.answer(page, slot, control, 0);
            return Outcome::Answered { kick: Some(kick) };
        }
        bump(match access {
            Access::Read { .. } => &mut self.counters.register_reads,
            Access::Write { .. } => &mut self.counters.register_writes,
            Access::Rep(_) => &mut self.counters.reps,
            Access::Invalidate => &mut self.counters.invalidates,
        });
        self.defer(page, slot, control, access);
        Outcome::Deferred
    }

    /// Whether a request is for a device here (or, for INVALIDATE, for everybody). A read from nowhere *into guest
    /// memory* counts as well: the guest's memory has to be filled with all-ones, which the main loop can do.
    fn is_ours(&self, access: &Access) -> bool {
        let Some((space, first, last)) = access.span() else {
            return true;
        };
        if self.registers.overlaps(space, first, last) {
            return true;
        }
        match *access {
            Access::Write {
                space,
                addr,
                width,
                value,
            } => self
                .doorbells
                .lookup(space, addr, width, value)
                .kick
                .is_some(),
            Access::Rep(rep) => rep.fills_guest_memory(),
            Access::Read { .. } | Access::Invalidate => false,
        }
    }

    fn defer<P: SlotPage + ?Sized>(
        &mut self,
        page: &P,
        slot: SlotIndex,
        control: Control,
        access: Access,
    ) {
        let Some(entry) = self.pending.get_mut(slot.index()) else {
            return;
        };
        self.serial = self.serial.wrapping_add(1);
        let pending = Pending {
            _there: There::Yes,
            access,
            control,
            serial: self.serial,
        };
        // A new request while the old one is pending: Xen has given up on the old one.
        if entry.replace(pending).is_some() {
            bump(&mut self.counters.abandoned);
        }
        self.waiting |= bit(slot);
        page.store_control(slot, control.with_state(State::InProcess));
    }

    fn answer<P: SlotPage + ?Sized>(
        &mut self,
        page: &P,
        slot: SlotIndex,
        control: Control,
        data: u64,
    ) {
        if control.dir() == Direction::Read && !control.data_is_ptr() {
            page.store_data(slot, data);
        }
        page.store_control(slot, control.with_state(State::RespReady));
        bump(&mut self.counters.answered);
    }
}

/// The number of the last slot of a page.
const LAST_SLOT: u32 = 127;

/// The bit of a slot that is below [`LAST_SLOT`].
fn bit(slot: SlotIndex) -> u128 {
    1 << (u32::from(slot.0) & LAST_SLOT)
}

/// The `step`-th slot of `slots` in a round that starts at `start`.
fn turn(start: usize, step: usize, slots: usize) -> Option<SlotIndex> {
    let at = start.wrapping_add(step).checked_rem(slots)?;
    u16::try_from(at).ok().map(SlotIndex)
}

const ZERO: Counters = Counters {
    upcalls: 0,
    doorbells: 0,
    register_reads: 0,
    register_writes: 0,
    reps: 0,
    invalidates: 0,
    strays: 0,
    spurious: 0,
    answered: 0,
    abandoned: 0,
    posted_doorbells: 0,
};
