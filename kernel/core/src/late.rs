//! Devices that come or go while the guest runs: which of them can be had then, and which not.
//!
//! Some things are settled when the guest is taken over: its ACPI table says how each slot interrupts and where its registers
//! are, and ranges of ports and ways to its memory are made for the devices that there are. What a late device needs
//! of these has to be there already.

use alloc::format;
use alloc::string::String;

use vd_config::{
    Declared, DeviceDescription, Devices, Doorbell, Memory, SlotIndex, Table, TargetType,
};

use crate::description::Description;

/// What was settled when the guest was taken over, and the devices that it has now.
#[derive(Clone, Debug)]
pub struct Ground {
    guest: TargetType,
    table: Table,
    /// Doorbells at ports are possible.
    ports: bool,
    /// The guest's memory can be mapped.
    foreign: bool,
    devices: Devices,
}

impl Ground {
    /// What a description settles.
    #[must_use]
    pub fn of(description: &Description) -> Self {
        let Description {
            target_type: guest,
            devices,
            table,
            ..
        } = description;
        let mut each = devices.iter().map(|(_, device)| device);
        let ports = each.any(|device| device.doorbell() == Doorbell::Port);
        let mut each = devices.iter().map(|(_, device)| device);
        let foreign = each.any(|device| device.memory() == Memory::Foreign);
        Self {
            guest: *guest,
            table: *table,
            ports,
            foreign,
            devices: devices.clone(),
        }
    }

    /// What kind of guest it is.
    #[must_use]
    pub fn guest(&self) -> TargetType {
        self.guest
    }

    /// The devices that there are.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Takes a device in.
    ///
    /// # Errors
    /// Why it cannot be had, and what to do, for the operator.
    pub fn insert(&mut self, slot: SlotIndex, device: DeviceDescription) -> Result<(), String> {
        let refuse = |error: vd_config::ConfigError| format!("device {slot}: {error}");
        device.check_place(self.guest, slot).map_err(refuse)?;
        self.check_declared(slot, &device)?;
        if device.doorbell() == Doorbell::Port && !self.ports {
            return Err(format!(
                "device {slot}: doorbell=port needs ports that are taken over with the guest, and no device had it then: \
                 use another doorbell"
            ));
        }
        match device.memory() {
            Memory::Grants => Err(format!(
                "device {slot}: memory=grants needs rings that are made with the guest: describe the device before the guest \
                 is started"
            )),
            Memory::Foreign if !self.foreign => Err(format!(
                "device {slot}: all of the guest's devices had memory=grants when it was started, so that nothing else of its \
                 memory can be reached: no device can be attached"
            )),
            Memory::Foreign => Ok(()),
        }?;
        self.devices
            .insert(Some(slot), device)
            .map(|_| ())
            .map_err(refuse)
    }

    fn check_declared(&self, slot: SlotIndex, device: &DeviceDescription) -> Result<(), String> {
        if self.guest != TargetType::Hvm {
            return Ok(());
        }
        let declared = self.table.get(slot);
        let wanted = Declared::of(device);
        if wanted == declared {
            return Ok(());
        }
        if declared == Declared::Absent {
            return Err(format!(
                "device {slot}: the guest was started by a release without this slot, and has not heard of it: start the guest \
                 again, or use one of the first slots"
            ));
        }
        Err(format!(
            "device {slot}: {} is not what the ACPI table that the guest has read says of this slot: {}",
            wanted.as_str(),
            declared.as_str()
        ))
    }

    /// The device is gone. Returns what it was.
    pub fn remove(&mut self, slot: SlotIndex) -> Option<DeviceDescription> {
        self.devices.remove(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::prelude::v1::*;

    use vd_config::{Backend, Target};

    use super::*;

    fn ground(guest: &str, texts: &[&str]) -> Ground {
        let devices = Devices::parse(texts.iter().map(|text| text.as_bytes())).unwrap();
        Ground::of(&Description {
            target: Target::parse(b"7").unwrap(),
            target_type: TargetType::parse(guest.as_bytes()).unwrap(),
            table: Table::of(&devices),
            devices,
        })
    }

    fn insert(ground: &mut Ground, slot: u8, text: &str) -> Result<(), String> {
        let (_, device) = DeviceDescription::parse(text.as_bytes()).unwrap();
        ground.insert(SlotIndex::new(slot).unwrap(), device)
    }

    const RAM: &str = "type=blk,backend=ram:1M";

    #[test]
    fn a_slot_is_taken_until_its_device_is_gone() {
        let mut ground = ground("hvm", &[RAM]);
        assert_eq!(insert(&mut ground, 3, RAM), Ok(()));
        for slot in [0, 3] {
            let error = insert(&mut ground, slot, RAM).unwrap_err();
            assert!(
                error.starts_with(&format!("device {slot}: slot {slot}")),
                "{error}"
            );
            let removed = ground.remove(SlotIndex::new(slot).unwrap()).unwrap();
            assert!(matches!(removed.backend(), Backend::Ram(_)));
            assert_eq!(insert(&mut ground, slot, RAM), Ok(()));
        }
        assert_eq!(ground.remove(SlotIndex::new(9).unwrap()), None);
    }

    #[test]
    fn what_is_declared_outlives_the_device_and_the_driver_domain() {
        let posted = "type=blk,backend=ram:1M,doorbell=posted";
        let mut ground = ground("hvm", &[RAM]);
        // Another driver domain had a device in slot 3 that is gone.
        ground.table = Table::parse(b"lllsllllllllllll").unwrap();
        let error = insert(&mut ground, 3, RAM).unwrap_err();
        assert!(error.contains("ACPI table"), "{error}");
        // Nor had its release other slots.
        let error = insert(&mut ground, 16, RAM).unwrap_err();
        assert!(error.contains("start the guest again"), "{error}");
        assert_eq!(insert(&mut ground, 3, posted), Ok(()));
        assert!(insert(&mut ground, 4, posted).is_err());
        assert_eq!(insert(&mut ground, 4, RAM), Ok(()));
    }

    #[test]
    fn what_is_given_once_is_given_once_at_any_time() {
        let mut ground = ground(
            "hvm",
            &["type=blk,backend=vbd:xvda", "type=blk,backend=module"],
        );
        for text in ["type=blk,backend=vbd:51712", "type=blk,backend=module"] {
            assert!(insert(&mut ground, 5, text).is_err(), "{text}");
        }
        ground.remove(SlotIndex::new(0).unwrap());
        assert_eq!(insert(&mut ground, 5, "type=blk,backend=vbd:51712"), Ok(()));
    }

    /// The guest has read its table, and reads it once.
    #[test]
    fn a_slot_interrupts_as_the_table_says() {
        let edge = "type=blk,backend=ram:1M,interrupt=edge";
        let posted = "type=blk,backend=ram:1M,doorbell=posted";
        let mut ground = ground("hvm", &[RAM, edge, posted]);
        for slot in 0..3 {
            ground.remove(SlotIndex::new(slot).unwrap());
        }
        for (slot, fits) in [(0, RAM), (1, edge), (2, posted), (3, RAM)] {
            for text in [RAM, edge, posted] {
                let result = insert(&mut ground, slot, text);
                if text == fits {
                    assert_eq!(result, Ok(()));
                    ground.remove(SlotIndex::new(slot).unwrap());
                } else {
                    let error = result.unwrap_err();
                    assert!(error.contains("ACPI table"), "{slot} {text}: {error}");
                }
            }
        }
        assert_eq!(
            insert(&mut ground, 0, "type=blk,backend=ram:1M,doorbell=polled"),
            Ok(())
        );
    }

    #[test]
    fn ports_and_grants_are_there_from_the_start_or_not_at_all() {
        let port = "type=blk,backend=ram:1M,doorbell=port";
        let grants = "type=blk,backend=ram:1M,memory=grants";
        let mut plain = ground("pvh", &[RAM]);
        assert!(
            insert(&mut plain, 1, port)
                .unwrap_err()
                .contains("doorbell=port")
        );
        assert!(
            insert(&mut plain, 1, grants)
                .unwrap_err()
                .contains("memory=grants")
        );
        assert_eq!(
            insert(&mut plain, 1, "type=blk,backend=ram:1M,interrupt=msi"),
            Ok(())
        );
        let mut with_port = ground("pvh", &[port]);
        assert_eq!(insert(&mut with_port, 1, port), Ok(()));
        let mut granted = ground("pvh", &[grants]);
        for text in [RAM, grants] {
            assert!(insert(&mut granted, 1, text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_this_kind_of_guest_cannot_have_it_cannot_have_late() {
        let mut hvm = ground("hvm", &[RAM]);
        assert!(insert(&mut hvm, 1, "type=blk,backend=ram:1M,interrupt=msi").is_err());
        let mut pvh = ground("pvh", &[RAM]);
        assert!(insert(&mut pvh, 1, "type=blk,backend=ram:1M,interrupt=edge").is_err());
        let error = insert(&mut hvm, 31, "type=blk,backend=ram:1M,interrupt=edge").unwrap_err();
        assert!(error.contains("slots 0 to 15"), "{error}");
        assert_eq!(insert(&mut hvm, 31, RAM), Ok(()));
    }
}
