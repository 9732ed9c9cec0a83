//! virtio-mmio, version 2 (virtio 1.3, section 4.2).
//!
//! Register accesses arrive one at a time with their offset and size; [`MmioTransport::run`] serves the queues that
//! were kicked. The platform raises the interrupt line while [`MmioTransport::interrupt`] says so.
//!
//! Invariants:
//! - a queue exists only between its QueueReady and the next reset, and is run only after DRIVER_OK;
//! - a driver that breaks the rules breaks its device: NEEDS_RESET, a configuration interrupt, and nothing more until
//!   it is reset.

mod placeholder;
mod regs;
mod status;

pub use placeholder::Placeholder;
pub use regs::{CONFIG, MAGIC, QUEUE_NOTIFY, Register, VENDOR, VERSION};
pub use status::{Status, Step};

use crate::chain::Chain;
use crate::counters::{Counters, bump};
use crate::device::Device;
use crate::fault::{Fault, FaultKind};
use crate::features::Features;
use crate::mem::GuestMemory;
use crate::queue::{Area, Interrupt, Queue, QueueConfig};

/// InterruptStatus: a queue was used.
pub const INTERRUPT_VRING: u32 = 1;
/// InterruptStatus: the configuration or the status has changed.
pub const INTERRUPT_CONFIG: u32 = 2;

#[derive(Clone, Debug)]
struct QueueSlot {
    config: QueueConfig,
    queue: Option<Queue>,
    kicked: bool,
    /// It was reset by itself, so that it may be set up while the device runs.
    renewable: bool,
}

/// A device with its registers and `QUEUES` queues, 32 at most.
#[derive(Clone, Debug)]
pub struct MmioTransport<D, const QUEUES: usize> {
    device: D,
    /// Features that are not offered although they could be.
    withheld: Features,
    queues: [QueueSlot; QUEUES],
    status: Status,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt: u32,
    generation: u32,
    fault: Option<Fault>,
    /// Notifications stay off, and every queue counts as kicked.
    polling: bool,
    /// The queue that is served first in the next pass.
    turn: usize,
    counters: Counters,
}

impl<D: Device, const QUEUES: usize> MmioTransport<D, QUEUES> {
    /// A device after reset, with queues of at most `max_size` entries each.
    pub fn new(device: D, max_size: u16) -> Self {
        Self {
            device,
            withheld: Features::empty(),
            queues: [const {
                QueueSlot {
                    config: QueueConfig::new(0),
                    queue: None,
                    kicked: false,
                    renewable: false,
                }
            }; QUEUES]
                .map(|slot| QueueSlot {
                    config: QueueConfig::new(max_size),
                    ..slot
                }),
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            interrupt: 0,
            generation: 0,
            fault: None,
            polling: false,
            turn: 0,
            counters: Counters::default(),
        }
    }

    /// The same without some features.
    #[must_use]
    pub fn without(mut self, features: Features) -> Self {
        self.withheld = features;
        self
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Device status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the interrupt line is up.
    pub fn interrupt(&self) -> bool {
        self.interrupt != 0
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What broke the device, once.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Changes the device from outside, and tells the driver that its configuration is another one.
    pub fn reconfigure<R>(&mut self, change: impl FnOnce(&mut D) -> R) -> R {
        let result = change(&mut self.device);
        self.generation = self.generation.wrapping_add(1);
        if self.is_running() {
            self.interrupt |= INTERRUPT_CONFIG;
        }
        result
    }

    /// Whether queues are run.
    fn is_running(&self) -> bool {
        self.status.contains(Status::DRIVER_OK)
            && !self.status.intersects(Status::NEEDS_RESET | Status::FAILED)
    }

    fn offered(&self) -> Features {
        (self.device.features() | Features::CORE).difference(self.withheld)
    }

    /// The driver reads `size` bytes at `offset` of the register window. What is no register reads as 0.
    pub fn read(&mut self, offset: u64, size: u64) -> u64 {
        match offset.checked_sub(CONFIG) {
            Some(at) => self.read_config(at, size),
            None => {
                let register = if size == 4 {
                    Register::at(offset)
                } else {
                    None
                };
                match register.and_then(|register| self.read_register(register)) {
                    Some(value) => value.into(),
                    None => {
                        bump(&mut self.counters.bad_accesses);
                        0
                    }
                }
            }
        }
    }

    /// The driver writes. What is no register is dropped.
    pub fn write<M: GuestMemory + ?Sized>(&mut self, mem: &M, offset: u64, size: u64, value: u64) {
        let done = match (offset.checked_sub(CONFIG), u32::try_from(value)) {
            (Some(at), _) => self.write_config(at, size, value),
            (None, Ok(value)) if size == 4 => match Register::at(offset) {
                Some(register) => self.write_register(mem, register, value),
                None => false,
            },
            (None, _) => false,
        };
        if !done {
            bump(&mut self.counters.bad_accesses);
        }
    }

    fn read_config(&mut self, at: u64, size: u64) -> u64 {
        let mut bytes = [0; 8];
        match (
            usize::try_from(at),
            usize::try_from(size).ok().and_then(|n| bytes.get_mut(..n)),
        ) {
            (Ok(at), Some(into)) => self.device.read_config(at, into),
            _ => bump(&mut self.counters.bad_accesses),
        }
        u64::from_le_bytes(bytes)
    }

    fn write_config(&mut self, at: u64, size: u64, value: u64) -> bool {
        let bytes = value.to_le_bytes();
        let from = usize::try_from(size)
            .ok()
            .and_then(|size| bytes.get(..size));
        match (usize::try_from(at), from) {
            (Ok(at), Some(from)) if self.status.contains(Status::DRIVER) => {
                self.device.write_config(at, from)
            }
            _ => false,
        }
    }

    fn read_register(&self, register: Register) -> Option<u32> {
        let slot = usize::try_from(self.queue_sel)
            .ok()
            .and_then(|n| self.queues.get(n));
        Some(match register {
            Register::MagicValue => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => self.device.id().0,
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => half(self.offered().bits(), self.device_features_sel),
            Register::QueueSizeMax => slot.map_or(0, |slot| slot.config.max().into()),
            Register::QueueReady => slot.is_some_and(|slot| slot.queue.is_some()).into(),
            Register::InterruptStatus => self.interrupt,
            Register::Status => self.status.bits(),
            // No shared memory region: a length of -1 (4.2.2.1).
            Register::Shm => u32::MAX,
            Register::ConfigGeneration => self.generation,
            // A reset is done before anything else is.
            Register::QueueReset => 0,
            _ => return None,
        })
    }

    /// Returns whether the write means something.
    fn write_register<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        register: Register,
        value: u32,
    ) -> bool {
        match register {
            Register::DeviceFeaturesSel => self.device_features_sel = value,
            Register::DriverFeaturesSel => self.driver_features_sel = value,
            Register::DriverFeatures => return self.set_driver_features(value),
            Register::QueueSel => self.queue_sel = value,
            Register::QueueReady => return self.set_queue_ready(mem, value),
            Register::QueueReset => return self.reset_queue(value),
            Register::QueueNotify => return self.notify(value),
            Register::InterruptAck => self.interrupt &= !value,
            Register::Status => return self.set_status(value),
            Register::ShmSel => {}
            Register::QueueSize => return self.configure(|config| config.set_size(value)),
            Register::QueueDescLow => return self.set_half(Area::Desc, false, value),
            Register::QueueDescHigh => return self.set_half(Area::Desc, true, value),
            Register::QueueDriverLow => return self.set_half(Area::Driver, false, value),
            Register::QueueDriverHigh => return self.set_half(Area::Driver, true, value),
            Register::QueueDeviceLow => return self.set_half(Area::Device, false, value),
            Register::QueueDeviceHigh => return self.set_half(Area::Device, true, value),
            _ => return false,
        }
        true
    }

    /// Features can be changed until they are settled.
    fn set_driver_features(&mut self, value: u32) -> bool {
        let shift = match self.driver_features_sel {
            0 => 0,
            1 => 32,
            // Features 64 and up: none is offered, so 0 is the only right value.
            _ => return value == 0,
        };
        if !self.status.contains(Status::DRIVER) || self.status.contains(Status::FEATURES_OK) {
            return false;
        }
        let keep = !(0xffff_ffff << shift);
        self.driver_features = (self.driver_features & keep) | u64::from(value) << shift;
        true
    }

    fn set_half(&mut self, area: Area, high: bool, value: u32) -> bool {
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
        self.queues
            .get_mut(usize::try_from(self.queue_sel).ok()?)
            .filter(|slot| !running || slot.renewable)
    }

    fn configure(&mut self, change: impl FnOnce(&mut QueueConfig)) -> bool {
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

    fn set_queue_ready<M: GuestMemory + ?Sized>(&mut self, mem: &M, value: u32) -> bool {
        let features = Features::from_bits_retain(self.driver_features);
        let Ok(index) = usize::try_from(self.queue_sel) else {
            return false;
        };
        if value == 0 {
            return self.stop_queue(index);
        }
        let running = self.status.contains(Status::DRIVER_OK);
        let Some(slot) = self.setting_up() else {
            return false;
        };
        if value != 1 || slot.queue.is_some() {
            return false;
        }
        match slot.config.activate(mem, features) {
            Ok(queue) => {
                slot.queue = Some(queue);
                slot.renewable = false;
                // It may have been filled already.
                slot.kicked = running;
            }
            Err(kind) => self.break_device(index, kind),
        }
        true
    }

    /// A driver may stop a queue at any time (4.2.2.2), and waits until QueueReady says so. While the device runs, the
    /// queue comes back with a reset only.
    fn stop_queue(&mut self, index: usize) -> bool {
        match self.queues.get_mut(index) {
            Some(slot) => {
                slot.queue = None;
                slot.kicked = false;
                true
            }
            None => false,
        }
    }

    /// Resets one queue (2.6.1), if that was negotiated.
    fn reset_queue(&mut self, value: u32) -> bool {
        let features = Features::from_bits_retain(self.driver_features);
        let settled = self.status.contains(Status::FEATURES_OK);
        let slot = usize::try_from(self.queue_sel)
            .ok()
            .and_then(|n| self.queues.get_mut(n));
        match slot {
            Some(slot) if value == 1 && settled && features.contains(Features::RING_RESET) => {
                slot.queue = None;
                slot.kicked = false;
                slot.config = QueueConfig::new(slot.config.max());
                slot.renewable = true;
                true
            }
            _ => false,
        }
    }

    fn set_status(&mut self, value: u32) -> bool {
        match self.status.step(value) {
            Step::Illegal => false,
            Step::Reset => {
                self.reset();
                true
            }
            Step::Add(mut added) => {
                if added.contains(Status::FEATURES_OK) && !self.are_features_good() {
                    // The driver reads the status back and finds out (3.1.1, step 6).
                    added.remove(Status::FEATURES_OK | Status::DRIVER_OK);
                }
                self.status |= added;
                if added.contains(Status::DRIVER_OK) {
                    self.start();
                }
                true
            }
        }
    }

    fn are_features_good(&self) -> bool {
        let chosen = Features::from_bits_retain(self.driver_features);
        self.offered().contains(chosen) && chosen.contains(Features::VERSION_1)
    }

    /// DRIVER_OK: a driver may have kicked before, so that every queue is looked at.
    fn start(&mut self) {
        self.device
            .activate(Features::from_bits_retain(self.driver_features));
        for slot in &mut self.queues {
            slot.kicked = slot.queue.is_some();
        }
    }

    fn reset(&mut self) {
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
        self.queue_sel = 0;
        self.interrupt = 0;
        self.fault = None;
        self.device.reset();
        bump(&mut self.counters.resets);
    }

    /// The driver kicks a queue. Returns whether there is such a queue; it is run by [`MmioTransport::run`].
    pub fn notify(&mut self, queue: u32) -> bool {
        let running = self.is_running();
        let slot = usize::try_from(queue)
            .ok()
            .and_then(|n| self.queues.get_mut(n));
        match slot {
            Some(slot) if running && slot.queue.is_some() => {
                slot.kicked = true;
                bump(&mut self.counters.kicks);
                true
            }
            _ => false,
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
        for step in 0..QUEUES {
            if !self.is_running() || budget == 0 {
                return;
            }
            let Some(index) = first.wrapping_add(step).checked_rem(QUEUES) else {
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
                self.break_device(index, kind);
            }
        }
    }

    fn run_queue<M: GuestMemory + ?Sized>(
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
        if !*kicked {
            return Ok(());
        }
        bump(&mut counters.passes);
        queue.disable_notifications(mem)?;
        let mut more = true;
        while more {
            while let Some(head) = if *budget == 0 {
                None
            } else {
                queue.pop(mem, scratch)?
            } {
                // A request costs one, and one more for every 64 KiB that it may move.
                let cost = u32::try_from(scratch.bytes() >> 16).unwrap_or(u32::MAX);
                *budget = budget.saturating_sub(cost.saturating_add(1));
                bump(&mut counters.requests);
                let written = device.serve(mem, number, scratch)?;
                queue.add_used(mem, head, written)?;
            }
            queue.publish(mem)?;
            // Out of budget: the queue stays kicked, and the driver need not kick it again.
            more = *budget != 0 && !*polling && queue.enable_notifications(mem)?;
            *kicked = *budget == 0 || *polling;
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

    fn break_device(&mut self, queue: usize, kind: FaultKind) {
        let queue = u16::try_from(queue).unwrap_or(u16::MAX);
        self.fault = Some(Fault { queue, kind });
        bump(&mut self.counters.faults);
        self.status |= Status::NEEDS_RESET;
        // Only a driver that has said DRIVER_OK expects a notification (2.1.2).
        if self.status.contains(Status::DRIVER_OK) {
            self.interrupt |= INTERRUPT_CONFIG;
        }
    }
}

/// 32 of the feature bits; there are none beyond the first 64.
fn half(bits: u64, select: u32) -> u32 {
    let [low, high] = [bits & 0xffff_ffff, bits >> 32];
    let half = match select {
        0 => low,
        1 => high,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}
