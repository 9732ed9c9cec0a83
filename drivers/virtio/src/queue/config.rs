//! A queue before it is ready: what the driver has written about it, unchecked.

use super::packed::Packed;
use super::split::Split;
use super::{MAX_SIZE, Queue, Ring};
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::{Gpa, GuestMemory, RingArea};

/// The three areas of a ring, in the order of their registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Descriptor table; packed: the ring.
    Desc,
    /// Available ring; packed: event suppression of the driver.
    Driver,
    /// Used ring; packed: event suppression of the device.
    Device,
}

/// The driver's description of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    max: u16,
    size: u32,
    areas: [u64; 3],
}

impl QueueConfig {
    /// Nothing is set yet; no more than `max` entries may be.
    pub const fn new(max: u16) -> Self {
        let max = if max > MAX_SIZE { MAX_SIZE } else { max };
        Self {
            max,
            size: 0,
            areas: [0; 3],
        }
    }

    /// The same, with what a driver has written for another device model. Nothing of it is checked.
    pub(crate) const fn from_parts(max: u16, size: u32, areas: [u64; 3]) -> Self {
        Self {
            size,
            areas,
            ..Self::new(max)
        }
    }

    /// What the driver has written.
    pub(crate) const fn parts(&self) -> (u32, [u64; 3]) {
        (self.size, self.areas)
    }

    /// Most entries.
    pub const fn max(&self) -> u16 {
        self.max
    }

    /// Sets the number of entries; the whole register is kept, so that nothing is cut off unseen.
    pub fn set_size(&mut self, size: u32) {
        self.size = size;
    }

    /// Sets one half of an area's address.
    pub fn set_half(&mut self, area: Area, high: bool, value: u32) {
        let [desc, driver, device] = &mut self.areas;
        let address = match area {
            Area::Desc => desc,
            Area::Driver => driver,
            Area::Device => device,
        };
        *address = if high {
            (*address & 0xffff_ffff) | u64::from(value) << 32
        } else {
            (*address & !0xffff_ffff) | u64::from(value)
        };
    }

    /// Checks everything, opens the ring and makes the queue. `epoch` is another one for each queue that a device ever has;
    /// [`Queue::close`] closes the ring.
    ///
    /// # Errors
    /// What the driver got wrong.
    pub fn activate<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        features: Features,
        epoch: u32,
    ) -> Result<Queue, FaultKind> {
        let packed = features.contains(Features::RING_PACKED);
        let shown = u16::try_from(self.size).unwrap_or(u16::MAX);
        let size = u16::try_from(self.size)
            .ok()
            .filter(|&size| size != 0 && size <= self.max && (packed || size.is_power_of_two()))
            .ok_or(FaultKind::QueueSize(shown))?;
        let n = u64::from(size);
        let [desc, driver, device] = self.areas;
        // Alignments and sizes: of sections 2.8.10.1 and 2.8 for packed rings, of 2.7 for split ones, whose rings have a
        // word more than their entries need.
        let areas = if packed {
            [
                (desc, 16, n.saturating_mul(16)),
                (driver, 4, 4),
                (device, 4, 4),
            ]
        } else {
            [
                (desc, 16, n.saturating_mul(16)),
                (driver, 2, n.saturating_mul(2).saturating_add(6)),
                (device, 4, n.saturating_mul(8).saturating_add(6)),
            ]
        };
        for (address, align, len) in areas {
            if !address.is_multiple_of(align) || address.checked_add(len).is_none() {
                return Err(FaultKind::RingAddress(address));
            }
        }
        let [desc, driver, device] = areas.map(|(address, _, len)| RingArea {
            at: Gpa(address),
            len,
            writable: false,
        });
        let areas = [
            // The device marks the descriptors of a packed ring as used.
            RingArea {
                writable: packed,
                ..desc
            },
            driver,
            RingArea {
                writable: true,
                ..device
            },
        ];
        mem.open_ring(epoch, &areas)?;
        let areas = areas.map(|area| area.at);
        let ring = if packed {
            Ring::Packed(Packed::new(size, areas, features))
        } else {
            Ring::Split(Split::new(size, areas, features))
        };
        Ok(Queue::new(ring, features, epoch))
    }
}
