//! Leaving a device to another device model, and going on with it there.
//!
//! What is written down is what the driver has negotiated and where its queues stand; the driver's own memory has the rest.
//! Requests that were taken and not given back are taken again. Of a packed ring they are found only if the device keeps
//! their order; one that does not has to be rid of them before: see [`MmioTransport::drain`].
//!
//! Invariants: what comes from outside is held to the same rules as what a driver writes into the registers; a device whose
//! state is not accepted is broken, which its driver is told, and reads nothing of its memory.

use super::status::Step;
use super::{
    INTERRUPT_CONFIG, INTERRUPT_VRING, MmioTransport, QueueInUse, QueueSlot, Status, heads_of,
    share,
};
use crate::chain::Chain;
use crate::counters::bump;
use crate::device::Device;
use crate::features::Features;
use crate::mem::GuestMemory;
use crate::queue::{QueueConfig, Standing};
use crate::state::{BadState, Reader, Writer};

/// Flags of a queue.
const READY: u8 = 1;
const RENEWABLE: u8 = 2;

/// What was read of a state before anything was done with it.
struct Saved<'a, const QUEUES: usize> {
    status: Status,
    driver_features: u64,
    beyond: bool,
    selectors: [u32; 3],
    interrupt: u32,
    generation: u32,
    queues: [Option<SavedQueue<'a>>; QUEUES],
}

#[derive(Clone, Copy)]
struct SavedQueue<'a> {
    size: u32,
    areas: [u64; 3],
    flags: u8,
    standing: Option<Standing<'a>>,
}

impl<D: Device, const QUEUES: usize, const WORDS: usize> MmioTransport<D, QUEUES, WORDS> {
    /// Goes on with what was taken and takes nothing new; returns how many requests still have to be given back before the
    /// device can be left to somebody else.
    pub fn drain<M: GuestMemory + ?Sized>(&mut self, mem: &M, scratch: &mut Chain) -> u32 {
        self.device_mut().quiesce();
        for index in 0..self.count {
            if !self.is_running() {
                break;
            }
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            // What waits to be given back waits for a pass.
            self.wake(number);
            let mut budget = 0;
            if let Err(kind) = self.run_queue(mem, index, &mut budget, scratch) {
                self.break_device(mem, index, kind);
            }
        }
        (0..self.count).fold(0, |sum, index| sum.saturating_add(self.left(index)))
    }

    fn is_broken(&self) -> bool {
        self.status.intersects(Status::NEEDS_RESET | Status::FAILED)
    }

    /// Requests of a queue that cannot be taken again.
    fn left(&self, index: usize) -> u32 {
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        match self.queue_state(index).and_then(|state| state.in_use) {
            Some(QueueInUse { in_flight, .. })
                if self.is_running() && !self.device.keeps_order(number) =>
            {
                in_flight.into()
            }
            _ => 0,
        }
    }

    /// Writes down what another device model needs to go on, for [`MmioTransport::import`]. Nothing changes here.
    pub fn export(&self, to: &mut Writer<'_>) {
        to.u32(self.device.id().0);
        to.u32(self.status.bits());
        to.u64(self.driver_features);
        to.bool(self.beyond);
        to.u32(self.device_features_sel);
        to.u32(self.driver_features_sel);
        to.u32(self.queue_sel);
        to.u32(self.interrupt);
        to.u32(self.generation);
        to.u16(u16::try_from(self.count).unwrap_or(u16::MAX));
        for (index, slot) in self.queues.iter().take(self.count).enumerate() {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            let (size, areas) = slot.config.parts();
            to.u32(size);
            areas.iter().for_each(|area| to.u64(*area));
            // Of a broken device nothing is gone on with.
            let queue = slot.queue.as_ref().filter(|_| !self.is_broken());
            let mut flags = 0;
            if queue.is_some() {
                flags |= READY;
            }
            if slot.renewable {
                flags |= RENEWABLE;
            }
            to.u8(flags);
            if let Some(queue) = queue {
                queue.save(self.heads(index), self.device.keeps_order(number), to);
            }
        }
        to.nested(|to| self.device.save(to));
    }

    /// Goes on where another device model has stopped: for a device that no driver has seen yet. Every queue is looked at
    /// with the next run, as its kick may have gone elsewhere. With `unsure` the driver is interrupted whether or not
    /// there is something new: an interrupt or its acknowledgement may have been lost.
    ///
    /// # Errors
    /// What is wrong; the device is broken then, and its driver is told so.
    pub fn import<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        from: &[u8],
        unsure: bool,
    ) -> Result<(), BadState> {
        let mut reader = Reader::new(from);
        let result = self
            .read_state(&mut reader)
            .and_then(|saved| self.resume(mem, &saved, &mut reader, unsure));
        if result.is_err() {
            self.refuse(mem);
        }
        result
    }

    fn read_state<'a>(&self, from: &mut Reader<'a>) -> Result<Saved<'a, QUEUES>, BadState> {
        let id = from.u32()?;
        if id != self.device.id().0 {
            return Err(BadState::Device(id));
        }
        let bits = from.u32()?;
        let status = Status::from_bits(bits).ok_or(BadState::Status(bits))?;
        let mut saved = Saved {
            status,
            driver_features: from.u64()?,
            beyond: from.bool()?,
            selectors: [from.u32()?, from.u32()?, from.u32()?],
            interrupt: from.u32()?,
            generation: from.u32()?,
            queues: [None; QUEUES],
        };
        let count = from.u16()?;
        if usize::from(count) != self.count {
            return Err(BadState::Queues(count));
        }
        for place in saved.queues.iter_mut().take(self.count) {
            let size = from.u32()?;
            let areas = [from.u64()?, from.u64()?, from.u64()?];
            let flags = from.u8()?;
            let ready = flags & READY != 0;
            *place = Some(SavedQueue {
                size,
                areas,
                flags,
                standing: ready.then(|| Standing::read(from)).transpose()?,
            });
        }
        Ok(saved)
    }

    fn resume<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        saved: &Saved<'_, QUEUES>,
        from: &mut Reader<'_>,
        unsure: bool,
    ) -> Result<(), BadState> {
        self.resume_status(saved)?;
        let running = self.is_running();
        if running {
            self.device.activate(self.features());
        }
        let own = from.block()?;
        from.end()?;
        if running {
            let mut own = Reader::new(own);
            self.device.restore(&mut own)?;
            own.end()?;
        }
        for (index, queue) in saved.queues.iter().flatten().enumerate() {
            self.resume_queue(mem, index, queue)?;
        }
        if unsure && running {
            // The driver may have read anything from registers that nobody had: it reads its configuration again.
            self.generation = self.generation.wrapping_add(1);
            self.interrupt |= INTERRUPT_VRING | INTERRUPT_CONFIG;
            bump(&mut self.counters.interrupts);
            bump(&mut self.counters.config_interrupts);
        }
        Ok(())
    }

    /// The registers that are not a queue's.
    fn resume_status(&mut self, saved: &Saved<'_, QUEUES>) -> Result<(), BadState> {
        let Saved {
            status, interrupt, ..
        } = *saved;
        let bad = Err(BadState::Status(status.bits()));
        let driver = status.difference(Status::NEEDS_RESET);
        let reachable = match Status::empty().step(driver.bits()) {
            Step::Reset => true,
            Step::Add(added) => added == driver,
            Step::Illegal => false,
        };
        if !reachable || interrupt & !(INTERRUPT_VRING | INTERRUPT_CONFIG) != 0 {
            return bad;
        }
        let [device_sel, driver_sel, queue_sel] = saved.selectors;
        self.device_features_sel = device_sel;
        self.driver_features_sel = driver_sel;
        self.queue_sel = queue_sel;
        self.driver_features = saved.driver_features;
        self.beyond = saved.beyond;
        if status.contains(Status::FEATURES_OK) && self.check_features().is_err() {
            return Err(BadState::Features(saved.driver_features));
        }
        self.status = status;
        self.interrupt = interrupt;
        self.generation = saved.generation;
        Ok(())
    }

    fn resume_queue<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        index: usize,
        saved: &SavedQueue<'_>,
    ) -> Result<(), BadState> {
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        let features = self.features();
        let running = self.is_running();
        let settled = self.status.contains(Status::FEATURES_OK) && !self.is_broken();
        let Some(QueueSlot {
            config,
            queue,
            kicked,
            renewable,
        }) = self.queues.get_mut(index)
        else {
            return Err(BadState::Queue(number));
        };
        let known = READY | RENEWABLE;
        let again = saved.flags & RENEWABLE != 0;
        if saved.flags & !known != 0 || again && !features.contains(Features::RING_RESET) {
            return Err(BadState::Queue(number));
        }
        *config = QueueConfig::from_parts(config.max(), saved.size, saved.areas);
        *renewable = again;
        let Some(standing) = &saved.standing else {
            return Ok(());
        };
        if !settled {
            return Err(BadState::Queue(number));
        }
        let epoch = self.epoch.wrapping_add(1);
        let mut made = config
            .activate(mem, features, epoch)
            .map_err(|_| BadState::Ring(number))?;
        self.epoch = epoch;
        let heads = heads_of(&mut self.heads, self.count, index);
        heads.fill(0);
        let keeps_order = self.device.keeps_order(number);
        made.resume(mem, heads, keeps_order, standing, number)
            .inspect_err(|_| made.close(mem))?;
        *queue = Some(made);
        *kicked = running;
        Ok(())
    }

    /// The heads in flight of a queue.
    fn heads(&self, index: usize) -> &[u64] {
        let share = share::<WORDS>(self.count);
        let first = share.saturating_mul(index);
        let words = self.heads.get(first..first.saturating_add(share));
        words.unwrap_or(&[])
    }

    /// The state that was to be gone on with makes no sense: the driver is told to start over, whatever it has done.
    fn refuse<M: GuestMemory + ?Sized>(&mut self, mem: &M) {
        self.close_rings(mem);
        for slot in &mut self.queues {
            *slot = QueueSlot {
                config: QueueConfig::new(slot.config.max()),
                ..QueueSlot::NONE
            };
        }
        self.device.reset();
        self.status = Status::ACKNOWLEDGE
            | Status::DRIVER
            | Status::FEATURES_OK
            | Status::DRIVER_OK
            | Status::NEEDS_RESET;
        self.interrupt = INTERRUPT_CONFIG;
        bump(&mut self.counters.failures);
        bump(&mut self.counters.config_interrupts);
    }
}
