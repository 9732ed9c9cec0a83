//! What a running device does: kicks, passes over its queues, interrupts, and what breaks it.

use super::{INTERRUPT_CONFIG, INTERRUPT_VRING, MmioTransport, QueueSlot, Status, heads_of};
use crate::chain::Chain;
use crate::counters::bump;
use crate::device::{Device, Progress};
use crate::fault::{Fault, FaultKind};
use crate::features::Features;
use crate::mem::GuestMemory;
use crate::pass::Pass;
use crate::queue::Interrupt;

impl<D: Device, const QUEUES: usize, const WORDS: usize> MmioTransport<D, QUEUES, WORDS> {
    /// The driver writes `value` to QueueNotify: it kicks a queue. Returns whether there is such a queue; it is run by
    /// [`MmioTransport::run`].
    pub fn notify(&mut self, value: u32) -> bool {
        if self.features().contains(Features::NOTIFICATION_DATA) {
            self.kick(value & 0xffff, u16::try_from(value >> 16).ok())
        } else {
            self.kick(value, None)
        }
    }

    /// The driver kicks a queue, and may have said how far it is. Returns whether there is such a queue.
    pub fn kick(&mut self, number: u32, place: Option<u16>) -> bool {
        let running = self.is_running();
        let slot = self.place(number).and_then(|n| self.queues.get_mut(n));
        let Some(QueueSlot {
            queue: Some(queue),
            kicked,
            ..
        }) = slot.filter(|_| running)
        else {
            return false;
        };
        bump(&mut self.counters.kicks);
        if place.is_some_and(|place| queue.is_taken(place)) {
            bump(&mut self.counters.stale_kicks);
        } else {
            *kicked = true;
        }
        true
    }

    /// The device has something to do for a queue, without a kick.
    pub fn wake(&mut self, queue: u16) {
        if let Some(slot) = self
            .place(queue.into())
            .and_then(|n| self.queues.get_mut(n))
        {
            slot.kicked = slot.queue.is_some();
        }
    }

    /// Says whether to poll: then [`MmioTransport::run`] asks the driver not to kick, and there is always something to
    /// do, so that every pass looks at every queue. When it ends, the next pass asks for kicks again and looks once
    /// more, so that no request is overlooked.
    pub fn set_polling(&mut self, polling: bool) {
        self.polling = polling;
        if polling && self.is_running() {
            for slot in &mut self.queues {
                slot.kicked = slot.queue.is_some();
            }
        }
    }

    /// Whether [`MmioTransport::run`] has something to do.
    pub fn has_work(&self) -> bool {
        self.is_running() && self.queues.iter().any(|slot| slot.kicked)
    }

    /// Serves the kicked queues in turns, at most `budget` requests in all, fewer if they are
    /// large. `scratch` is used for the chains.
    pub fn run<M: GuestMemory + ?Sized>(&mut self, mem: &M, mut budget: u32, scratch: &mut Chain) {
        let first = self.turn;
        self.turn = first.wrapping_add(1);
        for step in 0..self.count {
            if !self.is_running() || budget == 0 {
                return;
            }
            let Some(index) = first.wrapping_add(step).checked_rem(self.count) else {
                return;
            };
            if let Err(kind) = self.run_queue(mem, index, &mut budget, scratch) {
                // What was served before the fault is the driver's all the same.
                if let Some(QueueSlot {
                    queue: Some(queue), ..
                }) = self.queues.get_mut(index)
                {
                    let _ = queue.publish(mem);
                }
                self.break_device(mem, index, kind);
            }
        }
    }

    pub(super) fn run_queue<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        index: usize,
        budget: &mut u32,
        scratch: &mut Chain,
    ) -> Result<(), FaultKind> {
        let Self {
            queues,
            device,
            counters,
            interrupt,
            polling,
            heads,
            count,
            ..
        } = self;
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let Some(QueueSlot {
            queue: Some(queue),
            kicked,
            ..
        }) = queues.get_mut(index)
        else {
            return Ok(());
        };
        let heads = heads_of(heads, *count, index);
        if !*kicked {
            return Ok(());
        }
        bump(&mut counters.passes);
        queue.disable_notifications(mem)?;
        loop {
            let mut pass = Pass::new(mem, number, queue, heads, budget, counters);
            let progress = device.run(&mut pass, scratch)?;
            queue.publish(mem)?;
            // Out of budget: the queue stays kicked, and the driver need not kick it again.
            *kicked = *budget == 0 || *polling;
            if *kicked || progress == Progress::Waiting || !queue.enable_notifications(mem)? {
                break;
            }
            // A driver that shows something and takes it back has its price too.
            *budget = budget.saturating_sub(1);
        }
        match queue.decide_interrupt(mem)? {
            Interrupt::Nothing => {}
            Interrupt::Unwanted => bump(&mut counters.suppressed),
            Interrupt::Wanted => {
                *interrupt |= INTERRUPT_VRING;
                bump(&mut counters.interrupts);
            }
        }
        Ok(())
    }

    /// Nothing is read from a ring any more, or written to one, until the driver has reset the device.
    pub(super) fn break_device<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        queue: usize,
        kind: FaultKind,
    ) {
        let queue = u16::try_from(queue).unwrap_or(u16::MAX);
        self.fault = Some(Fault { queue, kind });
        let counter = if kind.is_drivers() {
            &mut self.counters.faults
        } else {
            &mut self.counters.failures
        };
        bump(counter);
        self.close_rings(mem);
        self.status |= Status::NEEDS_RESET;
        // Only a driver that has said DRIVER_OK expects a notification (2.1.2).
        if self.status.contains(Status::DRIVER_OK) {
            self.interrupt |= INTERRUPT_CONFIG;
            bump(&mut self.counters.config_interrupts);
        }
    }
}
