//! The slots, and what the interrupt handler does with them.
//!
//! The engine (crate `vd-ioreq`) decides; this gives it the page, sends the events, and hands kicks to the main loop as
//! bits. Doorbells are answered here, before anything else happens; everything that touches a device waits for the main
//! loop.

use core::sync::atomic::Ordering;

use vd_config::SlotIndex as DeviceSlot;
use vd_ioreq::engine::{Outcome, Ticket};
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::State;
use vd_ioreq::{Access, Counters, Kick, SlotIndex};
use xen_hypercall::{EvtchnPort, event_channel};

use super::{Count, Lock, Platform, Server, SlotEngine, VCPUS};

/// Doorbells that the handler answers between two passes of the main loop. Beyond that they wait for the main loop like
/// register writes: vCPUs that kick without end must not keep it from running.
pub const DOORBELLS_PER_PASS: u32 = 1024;

/// Recipient's queue of a doorbell for all queues of its device: the value says which.
pub const ANY_QUEUE: u16 = u16::MAX;

/// Numbers of event sources: below it the slots, above it doorbells, device and queue in six bits each.
const DOORBELL: u16 = 0x4000;
/// The source that says that writes were posted.
pub const POSTED_SOURCE: u16 = 0x2000;
const QUEUE_BITS: u32 = 6;
/// The last bit of a word with a bit a queue.
const LAST_QUEUE: usize = 63;

/// The source that rings as an event for a queue of a device.
#[must_use]
pub fn doorbell_source(device: DeviceSlot, queue: u16) -> u16 {
    DOORBELL | u16::from(device.get()) << QUEUE_BITS | queue & 0x3f
}

impl<P: Platform> Server<P> {
    /// Tells Xen that a slot is answered. Never logs: it runs in the interrupt handler.
    #[inline]
    fn notify(&self, slot: SlotIndex) {
        if let Some(port) = self.port_of(slot.index()) {
            self.wake_vcpu(port);
        }
    }

    /// Sends the event that a vCPU waits for.
    #[inline]
    pub fn wake_vcpu(&self, port: EvtchnPort) {
        if event_channel::send(self.platform.xen(), port).is_err() {
            self.owe(port);
        }
    }

    /// Xen refused the event that a vCPU waits for: it is sent with the next tick.
    #[cold]
    pub(super) fn owe(&self, port: EvtchnPort) {
        self.platform.count(Count::EventsRefused, 1);
        let slot = self.ports().find(|(_, bound)| *bound == port);
        if let Some((slot, _)) = slot
            && let Some(word) = self.owed.get(slot / 64)
        {
            word.fetch_or(1 << (slot % 64), Ordering::Release);
        }
    }

    /// Sends what Xen has refused before. A vCPU that does not wait looks at its slot in vain, and sleeps on.
    fn settle_debts(&self) {
        for (index, word) in self.owed.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let owed = word.swap(0, Ordering::Acquire);
            for bit in (0..64).filter(|bit| owed >> bit & 1 != 0) {
                let slot = index.saturating_mul(64).saturating_add(bit);
                if let Some(port) = self.port_of(slot) {
                    self.wake_vcpu(port);
                }
            }
        }
    }

    /// Serves the event of one slot. For the interrupt handler.
    #[inline]
    fn on_event(&self, slot: u16) {
        let Some(page) = self.page() else { return };
        let slot = SlotIndex(slot);
        let outcome = self.platform.engine().with(|engine| {
            engine.count_upcall();
            engine.set_answering(self.answered.load(Ordering::Relaxed) < DOORBELLS_PER_PASS);
            if self.has_ring() {
                self.look_after_posted(engine, &page, slot)
            } else {
                engine.on_event(&page, slot)
            }
        });
        self.act(slot, outcome);
    }

    /// Looks at a slot whose vCPU may have posted writes before: they come first.
    fn look_after_posted(
        &self,
        engine: &mut SlotEngine,
        page: &P::Page,
        slot: SlotIndex,
    ) -> Outcome {
        if page.control(slot).state() != Some(State::Ready) {
            // Looked at now it could become READY meanwhile, with writes that have not been taken.
            return Outcome::Nothing;
        }
        if self.drain(engine) {
            engine.on_event(page, slot)
        } else {
            self.postpone();
            Outcome::Nothing
        }
    }

    /// Serves the event of a source: of a slot, or a doorbell. For the interrupt handler.
    #[inline]
    pub fn on_source(&self, port: EvtchnPort, source: u16) {
        if source == POSTED_SOURCE {
            if self.answered.fetch_add(1, Ordering::Relaxed) >= DOORBELLS_PER_PASS {
                self.platform.mask(port);
                self.ring_masked.store(port.0, Ordering::Release);
            }
            return self.on_posted();
        }
        if source & DOORBELL == 0 {
            return self.on_event(source);
        }
        let device = usize::from((source & !DOORBELL) >> QUEUE_BITS);
        let queue = usize::from(source & 0x3f);
        self.platform.count(Count::EventDoorbells, 1);
        if self.answered.fetch_add(1, Ordering::Relaxed) >= DOORBELLS_PER_PASS {
            // Whoever sends without end is not heard again before the main loop has had its turn.
            self.platform.mask(port);
            self.hold_back(device, 1 << queue.min(LAST_QUEUE));
        }
        self.kick_queue(device, queue, None);
    }

    pub(super) fn hold_back(&self, device: usize, queues: u64) {
        if let Some(masked) = self.masked.get(device) {
            masked.fetch_or(queues, Ordering::Release);
        }
        self.kicks.mark(device);
    }

    /// Lets event doorbells of a device through that were held back; `ports` are those of its queues.
    #[inline]
    pub fn let_through(&self, device: usize, ports: &[EvtchnPort]) {
        let Some(word) = self.masked.get(device) else {
            return;
        };
        if ports.is_empty() || word.load(Ordering::Relaxed) == 0 {
            return;
        }
        let masked = word.swap(0, Ordering::Acquire);
        for (queue, port) in ports.iter().enumerate() {
            let bit = 1 << queue.min(LAST_QUEUE);
            if masked & bit != 0 && event_channel::unmask(self.platform.xen(), *port).is_err() {
                // In the next pass.
                self.platform.count(Count::EventsRefused, 1);
                self.hold_back(device, bit);
            }
        }
    }

    /// The value written last to a device's port doorbell.
    #[must_use]
    pub fn payload(&self, device: usize) -> u64 {
        let payload = self.payloads.get(device);
        payload.map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// A pass of the main loop begins: the handler may answer doorbells again.
    #[inline]
    pub fn new_pass(&self) {
        if self.answered.load(Ordering::Relaxed) != 0 {
            self.answered.store(0, Ordering::Relaxed);
        }
        if self.ring_masked.load(Ordering::Relaxed) != 0 {
            let masked = self.ring_masked.swap(0, Ordering::AcqRel);
            if event_channel::unmask(self.platform.xen(), EvtchnPort(masked)).is_err() {
                // In the next pass.
                self.platform.count(Count::EventsRefused, 1);
                self.ring_masked.store(masked, Ordering::Release);
            }
        }
    }

    /// What no event tells of: slots whose event was lost, and events that Xen refused to send.
    pub fn tick(&self) {
        self.settle_debts();
        self.scan();
    }

    /// Looks at every slot, whether or not an event came.
    pub fn scan(&self) {
        let Some(page) = self.page() else { return };
        if !self.has_ring() {
            return self
                .platform
                .engine()
                .with(|engine| engine.scan(&page, |slot, outcome| self.act(slot, outcome)));
        }
        for slot in (0..).map(SlotIndex).take(page.slots().min(VCPUS)) {
            let outcome = self
                .platform
                .engine()
                .with(|engine| self.look_after_posted(engine, &page, slot));
            self.act(slot, outcome);
        }
    }

    #[inline]
    fn act(&self, slot: SlotIndex, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Answered { kick } => {
                self.notify(slot);
                if let Some(kick) = kick {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.ring(&kick);
                }
            }
            Outcome::Deferred => self.platform.wake(),
        }
    }

    #[inline]
    pub(super) fn ring(&self, kick: &Kick) {
        let Kick { recipient, value } = *kick;
        let device = usize::from(recipient.device);
        if recipient.queue == ANY_QUEUE {
            self.platform.count(Count::PortDoorbells, 1);
            if let Some(payload) = self.payloads.get(device) {
                payload.store(value, Ordering::Relaxed);
            }
            // The value says which queue, as in the register; what the rest of it means is the driver's business.
            self.kick_queue(device, (value & 0xffff) as usize, None);
        } else {
            // Doorbells of one queue are registers of 32 bits.
            let value = (value & 0xffff_ffff) as u32;
            self.kick_queue(device, recipient.queue.into(), Some(value));
        }
    }

    /// Marks a queue of a device for the main loop, with what the guest wrote if it wrote something.
    #[inline]
    fn kick_queue(&self, device: usize, queue: usize, value: Option<u32>) {
        self.kicks
            .ring(device, queue, value, || self.platform.wake());
    }

    /// The devices with kicks, or with event doorbells that were held back, since this was asked last: as bits.
    #[inline]
    pub fn take_due(&self) -> u64 {
        self.kicks.take_due()
    }

    /// Calls `kicked` for each queue of a device that was kicked, with what the guest wrote if that is certain.
    #[inline]
    pub fn take_kicks(&self, device: usize, kicked: impl FnMut(usize, Option<u32>)) {
        self.kicks.take(device, kicked);
    }

    /// The next request for the main loop; none while there are posted writes, which may be of the same vCPU and come
    /// first. Both are looked at under one lock: in between the handler could take a write and the access behind it.
    #[inline]
    pub fn next(&self) -> Option<(Ticket, Access)> {
        self.platform.engine().with(|engine| {
            if self.is_drained() {
                engine.next_pending()
            } else {
                None
            }
        })
    }

    /// Answers a request. The vCPU waits until an event is sent on the port that this returns; there is none when the
    /// request went away while it was served.
    #[inline]
    pub fn complete(&self, ticket: Ticket, data: u64) -> Option<EvtchnPort> {
        let page = self.page()?;
        let completed = self
            .platform
            .engine()
            .with(|engine| engine.complete(&page, ticket, data));
        completed
            .ok()
            .and_then(|()| self.port_of(ticket.slot().index()))
    }

    /// Whether a vCPU waits for an answer, or has posted what was not carried out.
    pub fn is_asked(&self) -> bool {
        !self.is_drained()
            || self.has_slot_in(|state| matches!(state, Some(State::Ready | State::InProcess)))
    }

    /// Whether every vCPU has taken what it was answered: then nobody needs the page any more.
    pub fn is_taken(&self) -> bool {
        !self.has_slot_in(|state| state != Some(State::None))
    }

    /// Whether there is a slot in such a state; without a page there is none.
    fn has_slot_in(&self, wanted: impl Fn(Option<State>) -> bool) -> bool {
        self.page().is_some_and(|page| {
            (0..)
                .map(SlotIndex)
                .take(page.slots().min(VCPUS))
                .any(|slot| wanted(page.control(slot).state()))
        })
    }

    /// What the engine counted.
    pub fn counters(&self) -> Counters {
        self.platform.engine().with(|engine| engine.counters())
    }
}
