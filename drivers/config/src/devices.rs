//! Which device is in which slot.
//!
//! Invariant: a slot has at most one device, at most one device is backed by the module, of which there is one, no two by
//! the same disk of another domain, and no two have one address.

use crate::device::{Backend, DeviceDescription, DeviceType};
use crate::error::ConfigError;
use crate::slot::{OWN_LINES, SLOTS, SlotIndex};
use crate::target::TargetType;
use crate::vbd::VirtualDisk;
use crate::vif::VirtualInterface;

/// Most ports of all console devices: each has rings in the driver domain's memory.
const MAX_PORTS: usize = 16;

/// The ports of a console device.
fn ports(device: &DeviceDescription) -> usize {
    match device.kind() {
        DeviceType::Console => device.ports().len().saturating_add(1),
        _ => 0,
    }
}

/// The devices of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    slots: [Option<DeviceDescription>; SLOTS],
}

impl Devices {
    /// No devices.
    pub const fn new() -> Self {
        Self {
            slots: [const { None }; SLOTS],
        }
    }

    /// Puts a device into a slot: that one, or the first that is free.
    pub fn insert(
        &mut self,
        slot: Option<SlotIndex>,
        device: DeviceDescription,
    ) -> Result<SlotIndex, ConfigError> {
        if device.backend() == Backend::Module
            && let Some(holder) = self.module()
        {
            return Err(ConfigError::ModuleTaken(holder));
        }
        if let Some(mac) = device.mac()
            && let Some((holder, _)) = self.iter().find(|(_, other)| other.mac() == Some(mac))
        {
            return Err(ConfigError::MacTaken(holder));
        }
        if let Backend::Vbd(disk) = device.backend()
            && let Some((holder, _)) = self.vbds().find(|(_, held)| *held == disk)
        {
            return Err(ConfigError::DiskTaken(holder, disk));
        }
        if device.kind() == DeviceType::Console {
            let others = self.iter().map(|(_, other)| other);
            let ports = others
                .chain([&device])
                .map(ports)
                .fold(0, usize::saturating_add);
            if ports > MAX_PORTS {
                return Err(ConfigError::TooManyPorts);
            }
        }
        let slot = match slot {
            Some(slot) if self.get(slot).is_some() => return Err(ConfigError::SlotTaken(slot)),
            Some(slot) => slot,
            None => SlotIndex::all()
                .find(|slot| self.get(*slot).is_none())
                .ok_or(ConfigError::NoFreeSlot)?,
        };
        if let Some(place) = self.slots.get_mut(slot.index()) {
            *place = Some(device);
        }
        Ok(slot)
    }

    /// Takes the device out of a slot.
    pub fn remove(&mut self, slot: SlotIndex) -> Option<DeviceDescription> {
        self.slots.get_mut(slot.index())?.take()
    }

    /// Parses configuration strings, one a device. Those that name a slot get it, the others the free ones in order.
    /// The error comes with the index of the string.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> Result<Self, (usize, ConfigError)> {
        let mut devices = Self::new();
        for named in [true, false] {
            for (index, text) in texts.clone().into_iter().enumerate() {
                let blame = |error| (index, error);
                let (slot, device) = DeviceDescription::parse(text).map_err(blame)?;
                if slot.is_some() == named {
                    devices.insert(slot, device).map_err(blame)?;
                }
            }
        }
        Ok(devices)
    }

    /// The device in that slot.
    pub fn get(&self, slot: SlotIndex) -> Option<&DeviceDescription> {
        self.slots.get(slot.index())?.as_ref()
    }

    /// All devices, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (SlotIndex, &DeviceDescription)> {
        SlotIndex::all().filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// Has the writes of registers posted wherever the descriptions leave that open and a posted reset does no harm, as far
    /// as there is room: for an HVM guest without a VGA card.
    pub fn prefer_posted(&mut self) {
        self.slots
            .iter_mut()
            .take(OWN_LINES)
            .flatten()
            .filter(|device| device.kind().waits_for_reset())
            .for_each(DeviceDescription::prefer_posted);
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of the device that is backed by the module.
    pub fn module(&self) -> Option<SlotIndex> {
        self.iter()
            .find(|(_, device)| device.backend() == Backend::Module)
            .map(|(slot, _)| slot)
    }

    /// The disks that other domains serve, with the slots of their devices.
    pub fn vbds(&self) -> impl Iterator<Item = (SlotIndex, VirtualDisk)> {
        self.iter()
            .filter_map(|(slot, device)| match device.backend() {
                Backend::Vbd(disk) => Some((slot, disk)),
                _ => None,
            })
    }

    /// The network interfaces that other domains serve, with the slots of the devices behind them: several devices may
    /// share one.
    pub fn vifs(&self) -> impl Iterator<Item = (SlotIndex, VirtualInterface)> {
        self.iter()
            .filter_map(|(slot, device)| match device.backend() {
                Backend::Vif(vif) => Some((slot, vif)),
                _ => None,
            })
    }

    /// The same, each once, with the first of its slots.
    pub fn uplinks(&self) -> impl Iterator<Item = (SlotIndex, VirtualInterface)> {
        let is_first = |slot: SlotIndex, vif| {
            let first = self.vifs().find(|(_, other)| *other == vif);
            first.is_some_and(|(other, _)| other == slot)
        };
        self.vifs().filter(move |(slot, vif)| is_first(*slot, *vif))
    }

    /// Checks that a guest of this type and each device can notify one another, in the slots that they are in. The error comes with the device's slot.
    pub fn check_guest(&self, guest: TargetType) -> Result<(), (SlotIndex, ConfigError)> {
        self.iter().try_for_each(|(slot, device)| {
            let checked = device.check_place(guest, slot);
            checked.map_err(|error| (slot, error))
        })
    }

    /// Bytes of memory that RAM disks need, or `None` when 64 bits do not hold the sum.
    pub fn ram_bytes(&self) -> Option<u64> {
        self.iter()
            .try_fold(0_u64, |sum, (_, device)| match device.backend() {
                Backend::Module
                | Backend::Switch
                | Backend::Cpu
                | Backend::Console
                | Backend::Vbd(_)
                | Backend::Vif(_) => Some(sum),
                Backend::Ram(size) => sum.checked_add(size.bytes()),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Doorbell, Interrupt};

    fn parse(texts: &[&str]) -> Result<Devices, (usize, ConfigError)> {
        Devices::parse(texts.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn devices_may_share_an_uplink() {
        let devices = parse(&[
            "type=net,backend=vif:1,mac=00:16:3e:00:00:01",
            "type=net,backend=vif:0,mac=00:16:3e:00:00:02",
            "type=net,backend=switch,mac=00:16:3e:00:00:03",
            "type=net,backend=vif:1,mac=00:16:3e:00:00:04",
        ])
        .unwrap();
        let numbers = |list: Vec<(SlotIndex, VirtualInterface)>| -> Vec<(u8, u16)> {
            list.iter()
                .map(|(slot, vif)| (slot.get(), vif.number()))
                .collect()
        };
        assert_eq!(numbers(devices.vifs().collect()), [(0, 1), (1, 0), (3, 1)]);
        assert_eq!(numbers(devices.uplinks().collect()), [(0, 1), (1, 0)]);
    }

    #[test]
    fn devices_without_a_slot_get_the_free_ones() {
        let devices = parse(&[
            "type=blk,backend=ram:1M",
            "slot=0,type=blk,backend=module",
            "type=blk,backend=ram:2M,slot=1",
        ])
        .unwrap();
        let slots: Vec<u8> = devices.iter().map(|(slot, _)| slot.get()).collect();
        assert_eq!(slots, [0, 1, 2]);
        assert_eq!(devices.module(), SlotIndex::new(0));
        assert_eq!(devices.ram_bytes(), Some(3 << 20));
        assert_eq!((devices.len(), devices.is_empty()), (3, false));
        assert!(parse(&[]).unwrap().is_empty());
    }

    #[test]
    fn two_devices_in_one_slot_are_refused() {
        let error = parse(&[
            "slot=3,type=blk,backend=ram:1M",
            "slot=3,type=blk,backend=ram:1M",
        ])
        .unwrap_err();
        let slot = SlotIndex::new(3).unwrap();
        assert_eq!(error, (1, ConfigError::SlotTaken(slot)));
    }

    #[test]
    fn the_module_is_given_once() {
        let error = parse(&["type=blk,backend=module", "type=blk,backend=module"]).unwrap_err();
        let slot = SlotIndex::new(0).unwrap();
        assert_eq!(error, (1, ConfigError::ModuleTaken(slot)));
    }

    #[test]
    fn an_address_is_given_once() {
        let net = "type=net,backend=switch,mac=00:16:3e:00:00:01";
        let error = parse(&["type=blk,backend=module", net, net]).unwrap_err();
        let slot = SlotIndex::new(1).unwrap();
        assert_eq!(error, (2, ConfigError::MacTaken(slot)));
        let other = "type=net,backend=switch,mac=00:16:3e:00:00:02";
        let devices = parse(&[net, other]).unwrap();
        assert_eq!((devices.len(), devices.ram_bytes()), (2, Some(0)));
    }

    #[test]
    fn console_devices_have_so_many_ports() {
        let four = "type=console,backend=console,ports=a/b/c";
        assert_eq!(parse(&[four; 4]).unwrap().len(), 4);
        let mut five = vec![four; 4];
        five.push("type=console,backend=console");
        assert_eq!(parse(&five).unwrap_err(), (4, ConfigError::TooManyPorts));
        assert_eq!(
            parse(&["type=console,backend=console"; 16]).unwrap().len(),
            16
        );
    }

    #[test]
    fn a_disk_is_given_once_whatever_it_is_called() {
        let error =
            parse(&["type=blk,backend=vbd:xvdb", "type=blk,backend=vbd:51728"]).unwrap_err();
        let disk = VirtualDisk::parse(b"xvdb").unwrap();
        let slot = SlotIndex::new(0).unwrap();
        assert_eq!(error, (1, ConfigError::DiskTaken(slot, disk)));
        let devices = parse(&[
            "type=blk,backend=vbd:xvdb",
            "type=blk,backend=ram:1M",
            "type=blk,backend=vbd:xvdc",
        ]);
        let numbers: Vec<u32> = devices
            .unwrap()
            .vbds()
            .map(|(_, disk)| disk.number())
            .collect();
        assert_eq!(numbers, [51728, 51744]);
    }

    #[test]
    fn what_a_guest_cannot_take_is_named_with_its_slot() {
        let devices = parse(&[
            "type=blk,backend=ram:1M",
            "type=blk,backend=ram:1M,interrupt=edge,doorbell=polled",
            "type=blk,backend=ram:1M,doorbell=port",
        ])
        .unwrap();
        let at = |number| SlotIndex::new(number).unwrap();
        let (slot, error) = devices.check_guest(TargetType::Hvm).unwrap_err();
        assert_eq!(slot, at(2));
        assert!(error.to_string().contains("doorbell=port"), "{error}");
        let (slot, error) = devices.check_guest(TargetType::Pvh).unwrap_err();
        assert_eq!(slot, at(1));
        assert!(error.to_string().contains("I/O APIC"), "{error}");
        let fits = parse(&["type=blk,backend=ram:1M,interrupt=msi,doorbell=event-channel"]);
        assert_eq!(fits.unwrap().check_guest(TargetType::Pvh), Ok(()));
    }

    #[test]
    fn a_thirty_third_device_is_refused() {
        assert_eq!(parse(&["type=blk,backend=ram:1M"; 32]).unwrap().len(), 32);
        let error = parse(&["type=blk,backend=ram:1M"; 33]).unwrap_err();
        assert_eq!(error, (32, ConfigError::NoFreeSlot));
    }

    /// Sixteen slots have lines of their own, and places for posted writes.
    #[test]
    fn what_needs_a_line_of_its_own_is_named_with_its_slot() {
        let hvm = TargetType::Hvm;
        for (text, error) in [
            ("interrupt=edge", "interrupt=edge is for slots 0 to 15"),
            ("doorbell=posted", "registers=memory are for slots 0 to 15"),
            ("registers=memory", "registers=memory are for slots 0 to 15"),
        ] {
            for (number, fits) in [(15, true), (16, false), (31, false)] {
                let text = std::format!("slot={number},type=blk,backend=ram:1M,{text}");
                let checked = parse(&[&text]).unwrap().check_guest(hvm);
                match checked {
                    Ok(()) => assert!(fits, "{text}"),
                    Err((slot, refused)) => {
                        assert!(!fits && slot.get() == number, "{text}");
                        let refused = refused.to_string();
                        assert!(refused.contains(error), "{refused}");
                        assert!(refused.contains("slot="), "what to do: {refused}");
                    }
                }
            }
        }
        // In a guest without an I/O APIC they are like the others.
        let message = "slot=31,type=blk,backend=ram:1M,interrupt=msi,doorbell=port";
        assert_eq!(
            parse(&[message]).unwrap().check_guest(TargetType::Pvh),
            Ok(())
        );
    }

    #[test]
    fn writes_are_posted_as_far_as_there_is_room() {
        let mut devices = parse(&["type=blk,backend=ram:1M"; 32]).unwrap();
        devices.prefer_posted();
        for (slot, device) in devices.iter() {
            let expected = if slot.get() < 16 {
                (Doorbell::Posted, Interrupt::Edge)
            } else {
                (Doorbell::Mmio, Interrupt::Intx)
            };
            let chosen = (device.doorbell(), device.interrupt(TargetType::Hvm));
            assert_eq!(chosen, expected, "{slot}");
        }
        assert_eq!(devices.check_guest(TargetType::Hvm), Ok(()));
    }

    #[test]
    fn a_sum_beyond_64_bits_is_no_sum() {
        let huge = "type=blk,backend=ram:17179869183G";
        assert_eq!(parse(&[huge, huge]).unwrap().ram_bytes(), None);
    }
}
