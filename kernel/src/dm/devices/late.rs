//! Devices that come and go while the guest runs.
//!
//! A device whose driver does not let it go *departs*: what is behind it is gone, but its registers and queues stay until the driver
//! resets it, so that whatever the guest still asks for is answered, with errors. The slot is a placeholder again after that.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use core::ops::Range;

use vd_config::{Backend, DeviceDescription, SlotIndex, TargetType};
use vd_virtio::mmio::Status;

use super::{Device, DeviceTable, Network, Sources, does_not_fit, make};
use crate::dm::disk::Storage;
use crate::dm::slots::SERVER;
use crate::vbd::Vbds;
use crate::vif;

/// Bytes of a disk that are zeroed in one pass, between requests of other devices.
const PIECE: u64 = 1 << 20;

/// What a device needs that is being prepared.
pub struct Preparation {
    storage: Option<Storage>,
    /// Zeroed up to here; `None` if it is ready.
    zeroed: Option<u64>,
}

impl Preparation {
    /// Begins.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn begin(device: &DeviceDescription) -> Result<Self, String> {
        let Backend::Ram(size) = device.backend() else {
            return Ok(Self {
                storage: None,
                zeroed: None,
            });
        };
        let bytes = size.bytes();
        let storage = Storage::allocate_dirty(bytes).map_err(|_| does_not_fit(bytes))?;
        Ok(Self {
            storage: Some(storage),
            zeroed: Some(0),
        })
    }

    /// Goes on for a while. Returns whether it is ready.
    pub fn go_on(&mut self) -> bool {
        if let (Some(storage), Some(from)) = (&mut self.storage, self.zeroed) {
            self.zeroed = storage.zero(from, PIECE);
        }
        self.is_ready()
    }

    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.zeroed.is_none()
    }
}

impl DeviceTable {
    /// Makes a device, for [`DeviceTable::insert`].
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn make(
        &self,
        guest: TargetType,
        (slot, device): (SlotIndex, &DeviceDescription),
        module: Option<&Range<u64>>,
        vbds: &Vbds,
        preparation: Preparation,
    ) -> Result<Box<Device>, String> {
        let sources = Sources {
            module,
            vbds,
            networks: &self.networks,
            storage: preparation.storage,
        };
        make(guest, slot, device, sources, None)
    }

    /// A network interface has come.
    pub fn add_network(&mut self, uplink: &vif::Shared) {
        self.networks.push(Network {
            backend: Backend::Vif(uplink.vif()),
            switch: Rc::clone(uplink.switch()),
            uplink: Some(uplink.clone()),
        });
        self.look_at_all();
    }

    /// Puts a device into its slot, which is free.
    pub fn insert(&mut self, mut device: Box<Device>) {
        let network = device.network;
        let network = self.networks.iter().find(|it| Some(it.backend) == network);
        // Of an uplink only changes are told.
        if let Some(uplink) = network.and_then(|it| it.uplink.as_ref()) {
            device.transport.device_mut().set_link(uplink.is_up());
        }
        self.place(device);
    }

    /// The device in a slot.
    pub fn get(&self, slot: SlotIndex) -> Option<&Device> {
        self.slots.get(slot.index())?.as_deref()
    }

    /// Takes away what is behind a device; its driver still has it.
    pub fn depart(&mut self, slot: SlotIndex) {
        if let Some(Some(device)) = self.slots.get_mut(slot.index())
            && !device.departed
        {
            device.departed = true;
            let keep = device.rings.is_some();
            device.transport.reconfigure(|model| model.depart(keep));
            self.settle(slot.index());
            // Others may have waited for it.
            self.look_at_all();
        }
    }

    /// Takes a device out of its slot. Its driver has let it go.
    pub fn remove(&mut self, slot: SlotIndex) -> Option<Box<Device>> {
        let mut device = self.slots.get_mut(slot.index())?.take()?;
        self.ports &= !(1 << slot.index());
        self.look_at_all();
        // Its driver has let it go, so that it shows nothing; of what was refused, nothing else is tried again.
        if let Some(face) = &mut device.face
            && let Err((what, error)) = face.hide(&SERVER, slot)
        {
            log::error!("device {slot}: {what}: {error}");
        }
        // Nobody else lowers a line that is still up.
        if let Err((what, error)) = device.signal.end(self.guest, slot) {
            log::error!("device {slot}: {what}: {error}");
        }
        device.disconnect();
        let keep = device.rings.is_some();
        let model = device.transport.device_mut();
        model.depart(keep);
        device.leave();
        Some(device)
    }
}

impl Device {
    /// It is not used any more by anybody.
    pub fn leave(&mut self) {
        self.transport.device_mut().leave();
    }

    /// Whether a driver has begun to use it, and not let it go since. Linux says once more that there is a device when its
    /// driver has gone.
    pub fn is_held(&self) -> bool {
        let status = self.transport.status();
        !status.difference(Status::ACKNOWLEDGE).is_empty()
    }

    /// Whether a driver uses it.
    pub fn is_driven(&self) -> bool {
        self.transport.status().contains(Status::DRIVER_OK)
    }

    /// Whether there is nothing behind it any more.
    pub fn has_departed(&self) -> bool {
        self.departed
    }
}
