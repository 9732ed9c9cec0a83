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
mod run;
mod setup;
mod state;
mod status;
pub mod still;

pub use placeholder::Placeholder;
pub use regs::{CONFIG, MAGIC, QUEUE_NOTIFY, Register, VENDOR, VERSION};
pub use status::{Status, Step};

use crate::counters::{Counters, bump};
use crate::device::Device;
use crate::fault::Fault;
use crate::features::{Features, Refusal};
use crate::mem::GuestMemory;
use crate::queue::{Area, MAX_SIZE, Queue, QueueConfig};

/// InterruptStatus: a queue was used.
pub const INTERRUPT_VRING: u32 = 1;
/// InterruptStatus: the configuration or the status has changed.
pub const INTERRUPT_CONFIG: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
struct QueueSlot {
    config: QueueConfig,
    queue: Option<Queue>,
    kicked: bool,
    /// It was reset by itself, so that it may be set up while the device runs.
    renewable: bool,
}

impl QueueSlot {
    const NONE: Self = Self {
        config: QueueConfig::new(0),
        queue: None,
        kicked: false,
        renewable: false,
    };
}

/// How a queue is, for people who look for what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Most entries that it may have.
    pub max: u16,
    /// What the driver has set up; `None` before it is ready.
    pub in_use: Option<QueueInUse>,
    /// Whether it waits to be looked at.
    pub is_kicked: bool,
}

/// How a queue is that the driver has made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInUse {
    /// Entries.
    pub size: u16,
    /// Whether the ring is packed.
    pub is_packed: bool,
    /// Requests that were taken and not given back.
    pub in_flight: u16,
}

/// Words with a bit for each head of the largest queue.
pub const MAX_WORDS: usize = MAX_SIZE as usize / 64;

/// A device with its registers and at most `QUEUES` queues, of at most 64 times `WORDS` entries together; each queue that the
/// device has may have the same share of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmioTransport<D, const QUEUES: usize, const WORDS: usize = MAX_WORDS> {
    device: D,
    /// Features that are not offered although they could be.
    withheld: Features,
    /// Features that are offered because the platform has them.
    added: Features,
    /// Features that a driver has to choose.
    required: Features,
    queues: [QueueSlot; QUEUES],
    /// The heads in flight of all queues: as many words for each.
    heads: [u64; WORDS],
    /// How many of the queues there are.
    count: usize,
    /// Counts the queues that were ever made ready, so that no two share an epoch.
    epoch: u32,
    status: Status,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    /// The driver chose one of the features from 64 up, of which there are none.
    beyond: bool,
    queue_sel: u32,
    interrupt: u32,
    generation: u32,
    fault: Option<Fault>,
    refusal: Option<Refusal>,
    /// Notifications stay off, and every queue counts as kicked.
    polling: bool,
    /// Bits of InterruptStatus that an acknowledgement does not clear.
    kept: u32,
    /// The queue that is served first in the next pass.
    turn: usize,
    counters: Counters,
}

impl<D: Device, const QUEUES: usize, const WORDS: usize> MmioTransport<D, QUEUES, WORDS> {
    /// A device after reset, with queues of at most `max_size` entries each.
    pub fn new(device: D, max_size: u16) -> Self {
        let count = QUEUES.min(device.queues().into());
        let entries = share::<WORDS>(count).saturating_mul(64);
        let largest = entries
            .checked_ilog2()
            .map_or(0, |bits| 1u16.checked_shl(bits).unwrap_or(MAX_SIZE));
        let mut queues = [const { QueueSlot::NONE }; QUEUES];
        for slot in &mut queues {
            slot.config = QueueConfig::new(max_size.min(largest));
        }
        Self {
            withheld: Features::empty(),
            added: Features::empty(),
            required: Features::VERSION_1,
            count,
            heads: [0; WORDS],
            epoch: 0,
            device,
            queues,
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            beyond: false,
            queue_sel: 0,
            interrupt: 0,
            generation: 0,
            fault: None,
            refusal: None,
            polling: false,
            kept: 0,
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

    /// The same with features that the platform adds: [`Features::ACCESS_PLATFORM`], say.
    #[must_use]
    pub fn with(mut self, features: Features) -> Self {
        self.added = features;
        self
    }

    /// The same for drivers only that choose these features, which have to be offered.
    #[must_use]
    pub fn requiring(mut self, features: Features) -> Self {
        self.required |= features;
        self
    }

    /// The same for a driver whose acknowledgements come late, so that one could clear the bit of a buffer that was used
    /// after the interrupt which it is for: the bit for used buffers stays. Interrupts must be edges then, and there is
    /// one for each count of [`Counters::interrupts`].
    #[must_use]
    pub fn with_late_acks(mut self) -> Self {
        self.kept = INTERRUPT_VRING;
        self
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device itself, for whatever is behind it. What changes its configuration space goes through
    /// [`MmioTransport::reconfigure`]; what gives it something to do ends with [`MmioTransport::wake`].
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// How many queues it has.
    pub fn queues(&self) -> usize {
        self.count
    }

    /// How a queue is; `None` for one that the device does not have.
    pub fn queue_state(&self, number: usize) -> Option<QueueState> {
        let slot = self.queues.get(number).filter(|_| number < self.count)?;
        Some(QueueState {
            max: slot.config.max(),
            in_use: slot.queue.as_ref().map(|queue| QueueInUse {
                size: queue.size(),
                is_packed: queue.is_packed(),
                in_flight: queue.in_flight(),
            }),
            is_kicked: slot.kicked,
        })
    }

    /// The features that the driver has chosen, once they are settled.
    pub fn features(&self) -> Features {
        if self.status.contains(Status::FEATURES_OK) {
            Features::from_bits_retain(self.driver_features)
        } else {
            Features::empty()
        }
    }

    /// Device status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the interrupt line is up.
    pub fn interrupt(&self) -> bool {
        self.interrupt != 0
    }

    /// The same with nothing counted: for tests that compare what is left.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn uncounted(mut self) -> Self {
        self.counters = Counters::default();
        self
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What broke the device, once.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Why the driver's choice of features was refused, once.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Changes the device from outside, and tells the driver that its configuration is another one.
    pub fn reconfigure<R>(&mut self, change: impl FnOnce(&mut D) -> R) -> R {
        let result = change(&mut self.device);
        self.generation = self.generation.wrapping_add(1);
        if self.is_running() {
            self.interrupt |= INTERRUPT_CONFIG;
            bump(&mut self.counters.config_interrupts);
        }
        result
    }

    /// Whether queues are run.
    fn is_running(&self) -> bool {
        self.status.contains(Status::DRIVER_OK)
            && !self.status.intersects(Status::NEEDS_RESET | Status::FAILED)
    }

    /// Where the queue of that number is, if there is one.
    fn place(&self, number: u32) -> Option<usize> {
        usize::try_from(number).ok().filter(|&n| n < self.count)
    }

    fn offered(&self) -> Features {
        (self.device.features() | Features::CORE | self.added).difference(self.withheld)
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
        let slot = self.place(self.queue_sel).and_then(|n| self.queues.get(n));
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
            Register::QueueReset => return self.reset_queue(mem, value),
            Register::QueueNotify => return self.notify(value),
            Register::InterruptAck => self.interrupt &= !(value & !self.kept),
            Register::Status => return self.set_status(mem, value),
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
}

/// Words for the heads of each of `count` queues.
const fn share<const WORDS: usize>(count: usize) -> usize {
    match WORDS.checked_div(count) {
        Some(share) => share,
        None => 0,
    }
}

/// The words of a queue.
fn heads_of<const WORDS: usize>(
    heads: &mut [u64; WORDS],
    count: usize,
    index: usize,
) -> &mut [u64] {
    let share = share::<WORDS>(count);
    let first = share.saturating_mul(index);
    heads
        .get_mut(first..first.saturating_add(share))
        .unwrap_or(&mut [])
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
