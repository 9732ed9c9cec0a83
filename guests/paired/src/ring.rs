//! The transport that the driver uses: virtio-mmio of `virtio-drivers`, with whatever doorbell the device has.

use core::ops::BitAnd;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use vd_config::{Doorbell, SLOTS, SlotIndex};
use vd_rt::xen::XEN;
use virtio_drivers::transport::mmio::{MmioError, MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use x86_64::instructions::port::PortWriteOnly;
use xen_hypercall::{EvtchnPort, event_channel};

use crate::connect::Connected;
use crate::grants;

/// VIRTIO_F_EVENT_IDX.
const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_ACCESS_PLATFORM.
const ACCESS_PLATFORM: u64 = 1 << 33;

static KICKS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

/// Kicks of a device so far.
pub fn kicks(slot: SlotIndex) -> u64 {
    KICKS[slot.index()].load(Ordering::Relaxed)
}

/// How a queue is kicked.
#[derive(Clone, Copy, Debug)]
pub enum Bell {
    /// By its register.
    Register,
    /// By an I/O port.
    Port(u16),
    /// By an event channel.
    Event(EvtchnPort),
}

impl Bell {
    /// Rings for a queue of a device whose registers are at `base`.
    pub fn ring(self, slot: SlotIndex, base: u64, queue: u16) {
        let before = KICKS[slot.index()].fetch_add(1, Ordering::Relaxed);
        match self {
            // SAFETY: the register QueueNotify of a device, mapped.
            Bell::Register => unsafe {
                ((base + 0x50) as *mut u32).write_volatile(queue.into());
            },
            // The upper half is for whoever wants to see that all of the value gets there.
            // SAFETY: a doorbell of a device: it has no other effect.
            Bell::Port(port) => unsafe {
                PortWriteOnly::<u32>::new(port).write(payload(before + 1, queue));
            },
            Bell::Event(port) => {
                // Fails only when the port is closed: nobody answers then either.
                let _ = event_channel::send(&XEN, port);
            }
        }
    }
}

/// What is written to a port as kick number `kick` of a device.
pub fn payload(kick: u64, queue: u16) -> u32 {
    (kick as u32) << 16 | u32::from(queue)
}

/// The transport.
#[derive(Debug)]
pub struct Ring {
    registers: MmioTransport<'static>,
    slot: SlotIndex,
    base: u64,
    bell: Bell,
    event_idx: bool,
}

impl Ring {
    /// The transport of a device, which is in use nowhere else.
    pub fn new(device: &Connected) -> core::result::Result<Self, MmioError> {
        let base = device.device.base;
        let header =
            NonNull::new(base as *mut VirtIOHeader).ok_or(MmioError::MmioRegionTooSmall)?;
        // SAFETY: the registers are mapped for good, and whoever calls this has the device for itself.
        let registers = unsafe { MmioTransport::new(header, device.device.size as usize) }?;
        Ok(Self {
            registers,
            slot: device.device.slot,
            base,
            bell: device.bell,
            // With event indices version 0.13 of virtio-drivers kicks although it was asked not to, and after 2^16
            // requests not although it was asked to. Where that would matter, it goes without.
            event_idx: device.device.doorbell != Doorbell::Polled,
        })
    }

    /// Does not use event indices.
    #[must_use]
    pub fn without_event_idx(mut self) -> Self {
        self.event_idx = false;
        self
    }
}

impl Transport for Ring {
    fn device_type(&self) -> DeviceType {
        self.registers.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        let withheld = if self.event_idx { 0 } else { EVENT_IDX };
        self.registers.read_device_features().bitand(!withheld)
    }

    fn write_driver_features(&mut self, features: u64) {
        // The driver knows nothing of this one: it is its platform's.
        let platform = if grants::are_used() {
            ACCESS_PLATFORM
        } else {
            0
        };
        self.registers.write_driver_features(features | platform);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.registers.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.bell.ring(self.slot, self.base, queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.registers.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.registers.set_status(status);
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.registers.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.registers.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.registers
            .queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.registers.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.registers.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.registers.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.registers.read_config_generation()
    }

    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T> {
        self.registers.read_config_space(offset)
    }

    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        self.registers.write_config_space(offset, value)
    }
}
