//! What a driver sets up: features, device status, queues, and the resets of both.

use super::status::{Status, Step};
use super::{MmioTransport, QueueSlot, heads_of};
use crate::counters::bump;
use crate::device::Device;
use crate::features::{Features, Refusal};
use crate::mem::GuestMemory;
use crate::queue::{Area, QueueConfig};

impl<D: Device, const QUEUES: usize, const WORDS: usize> MmioTransport<D, QUEUES, WORDS> {
    /// Features can be changed until they are settled.
    pub(super) fn set_driver_features(&mut self, value: u32) -> bool {
        let shift = match self.driver_features_sel {
            0 => 0,
            1 => 32,
            // Features 64 and up: none is offered, so 0 is the only right value.
            _ => 64,
        };
        if !self.status.contains(Status::DRIVER) || self.status.contains(Status::FEATURES_OK) {
            return false;
        }
        if shift == 64 {
            self.beyond |= value != 0;
            return value == 0;
        }
        let keep = !(0xffff_ffff << shift);
        self.driver_features = (self.driver_features & keep) | u64::from(value) << shift;
        true
    }

    pub(super) fn set_half(&mut self, area: Area, high: bool, value: u32) -> bool {
        self.configure(|config| config.set_half(area, high, value))
    }

    /// The selected queue, while it may be set up: before the device runs, or after it was reset by itself.
    fn setting_up(&mut self) -> Option<&mut QueueSlot> {
        let settled = self.status.contains(Status::FEATURES_OK);
        let running = self.status.contains(Status::DRIVER_OK);
        let broken = self.status.intersects(Status::NEEDS_RESET | Status::FAILED);
        if !settled || broken {
            return None;
        }
        let place = self.place(self.queue_sel)?;
        self.queues
            .get_mut(place)
            .filter(|slot| !running || slot.renewable)
    }

    pub(super) fn configure(&mut self, change: impl FnOnce(&mut QueueConfig)) -> bool {
        match self.setting_up() {
            Some(QueueSlot {
                config,
                queue: None,
                ..
            }) => {
                change(config);
                true
            }
            _ => false,
        }
    }

    pub(super) fn set_queue_ready<M: GuestMemory + ?Sized>(&mut self, mem: &M, value: u32) -> bool {
        let Some(index) = self.place(self.queue_sel) else {
            return false;
        };
        if value == 0 {
            self.stop_queue(mem, index);
            return true;
        }
        let features = self.features();
        let running = self.status.contains(Status::DRIVER_OK);
        let epoch = self.epoch.wrapping_add(1);
        let Some(slot) = self.setting_up() else {
            return false;
        };
        if value != 1 || slot.queue.is_some() {
            return false;
        }
        match slot.config.activate(mem, features, epoch) {
            Ok(queue) => {
                slot.queue = Some(queue);
                slot.renewable = false;
                // It may have been filled already.
                slot.kicked = running;
                self.epoch = epoch;
                heads_of(&mut self.heads, self.count, index).fill(0);
            }
            Err(kind) => self.break_device(mem, index, kind),
        }
        true
    }

    /// A driver may stop a queue at any time (4.2.2.2), and waits until QueueReady says so. While the device runs, the
    /// queue comes back with a reset only.
    fn stop_queue<M: GuestMemory + ?Sized>(&mut self, mem: &M, index: usize) {
        if let Some(slot) = self.queues.get_mut(index) {
            if let Some(queue) = slot.queue.take() {
                queue.close(mem);
            }
            slot.kicked = false;
            if let Ok(number) = u16::try_from(index) {
                self.device.reset_queue(number);
            }
        }
    }

    /// Resets one queue (2.6.1), if that was negotiated.
    pub(super) fn reset_queue<M: GuestMemory + ?Sized>(&mut self, mem: &M, value: u32) -> bool {
        let Some(index) = self.place(self.queue_sel) else {
            return false;
        };
        if value != 1 || !self.features().contains(Features::RING_RESET) {
            return false;
        }
        self.stop_queue(mem, index);
        if let Some(slot) = self.queues.get_mut(index) {
            slot.config = QueueConfig::new(slot.config.max());
            slot.renewable = true;
        }
        true
    }

    /// Closes the rings of all queues.
    pub(super) fn close_rings<M: GuestMemory + ?Sized>(&self, mem: &M) {
        let queues = self.queues.iter().filter_map(|slot| slot.queue.as_ref());
        queues.for_each(|queue| queue.close(mem));
    }

    pub(super) fn set_status<M: GuestMemory + ?Sized>(&mut self, mem: &M, value: u32) -> bool {
        match self.status.step(value) {
            Step::Illegal => false,
            Step::Reset => {
                self.reset(mem);
                true
            }
            Step::Add(mut added) => {
                if added.contains(Status::FEATURES_OK)
                    && let Err(refusal) = self.check_features()
                {
                    // The driver reads the status back and finds out (3.1.1, step 6).
                    added.remove(Status::FEATURES_OK | Status::DRIVER_OK);
                    self.refusal = Some(refusal);
                    bump(&mut self.counters.refusals);
                }
                self.status |= added;
                if added.contains(Status::DRIVER_OK) {
                    self.start();
                }
                if added.contains(Status::FAILED) {
                    self.close_rings(mem);
                }
                true
            }
        }
    }

    pub(super) fn check_features(&self) -> Result<(), Refusal> {
        let chosen = Features::from_bits_retain(self.driver_features);
        let excess = chosen.difference(self.offered());
        let missing = self.required.difference(chosen);
        if missing.contains(Features::VERSION_1) {
            Err(Refusal::Legacy)
        } else if self.beyond || !excess.is_empty() {
            Err(Refusal::NotOffered(excess))
        } else if !missing.is_empty() {
            Err(Refusal::Missing(missing))
        } else {
            Ok(())
        }
    }

    /// DRIVER_OK: a driver may have kicked before, so that every queue is looked at.
    fn start(&mut self) {
        self.device.activate(self.features());
        for slot in &mut self.queues {
            slot.kicked = slot.queue.is_some();
        }
    }

    fn reset<M: GuestMemory + ?Sized>(&mut self, mem: &M) {
        self.close_rings(mem);
        for slot in &mut self.queues {
            slot.queue = None;
            slot.kicked = false;
            slot.renewable = false;
            slot.config = QueueConfig::new(slot.config.max());
        }
        self.status = Status::empty();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.beyond = false;
        self.queue_sel = 0;
        self.interrupt = 0;
        self.fault = None;
        self.refusal = None;
        self.device.reset();
        bump(&mut self.counters.resets);
    }
}
