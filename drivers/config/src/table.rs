//! How each slot is declared in the ACPI table of an HVM guest.
//!
//! The guest reads that table once, when it starts. A device that comes later has to be what is declared for its slot then,
//! whoever was in it before and whichever driver domain serves it: so this is written beside the description, and stays.

use core::fmt;

use crate::device::DeviceDescription;
use crate::devices::Devices;
use crate::notify::{Doorbell, Interrupt};
use crate::slot::{SLOTS, SlotIndex};
use crate::target::TargetType;

/// How one slot is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Declared {
    /// Its interrupt is level-triggered. So is that of a slot without a device.
    #[default]
    Level,
    /// Its interrupt is edge-triggered.
    Edge,
    /// The same, and its registers are where writes are posted.
    Posted,
}

impl Declared {
    /// What a device needs.
    #[must_use]
    pub fn of(device: &DeviceDescription) -> Self {
        if device.doorbell() == Doorbell::Posted {
            Self::Posted
        } else if device.interrupt(TargetType::Hvm) == Interrupt::Edge {
            Self::Edge
        } else {
            Self::Level
        }
    }

    const fn letter(self) -> u8 {
        match self {
            Self::Level => b'l',
            Self::Edge => b'e',
            // Not "p", which was for windows at other addresses: a guest that knows those cannot be taken over.
            Self::Posted => b's',
        }
    }

    /// The same in the words of a device's description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Level => "interrupt=intx",
            Self::Edge => "interrupt=edge",
            Self::Posted => "interrupt=edge,doorbell=posted",
        }
    }
}

/// All slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Table([Declared; SLOTS]);

impl Table {
    /// For a guest that is started with these devices.
    #[must_use]
    pub fn of(devices: &Devices) -> Self {
        let mut table = Self::default();
        for (slot, device) in devices.iter() {
            if let Some(place) = table.0.get_mut(slot.index()) {
                *place = Declared::of(device);
            }
        }
        table
    }

    /// Whether a slot is declared for posted writes.
    #[must_use]
    pub fn posts(&self) -> bool {
        self.0.contains(&Declared::Posted)
    }

    /// How a slot is declared.
    #[must_use]
    pub fn get(&self, slot: SlotIndex) -> Declared {
        self.0.get(slot.index()).copied().unwrap_or_default()
    }

    /// What `text` says: a letter for each slot. `None` if it makes no sense.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let letters: &[u8; SLOTS] = text.try_into().ok()?;
        let mut table = Self::default();
        for (place, letter) in table.0.iter_mut().zip(letters) {
            let all = [Declared::Level, Declared::Edge, Declared::Posted];
            *place = all.into_iter().find(|it| it.letter() == *letter)?;
        }
        Some(table)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.iter().map(|declared| declared.letter().into());
        letters.try_for_each(|letter: char| fmt::Write::write_char(f, letter))
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    fn device(text: &str) -> DeviceDescription {
        DeviceDescription::parse(text.as_bytes()).unwrap().1
    }

    const RAM: &str = "type=blk,backend=ram:1M";

    #[test]
    fn what_is_written_is_read() {
        let texts = [
            RAM,
            "type=rng,backend=cpu,interrupt=edge",
            "slot=15,type=blk,backend=module,doorbell=posted",
        ];
        let devices = Devices::parse(texts.map(str::as_bytes)).unwrap();
        let table = Table::of(&devices);
        assert_eq!(table.to_string(), "le-------------s".replace('-', "l"));
        assert_eq!(Table::parse(table.to_string().as_bytes()), Some(table));
        assert!(table.posts() && !Table::default().posts());
        for (slot, device) in devices.iter() {
            assert_eq!(table.get(slot), Declared::of(device));
        }
    }

    #[test]
    fn row37_text_that_makes_no_sense() {
        let good = Table::default().to_string().into_bytes();
        assert!(Table::parse(&good).is_some());
        let mut wrong: Vec<Vec<u8>> = [&b""[..], b"l", &[b'l'; 15], &[b'l'; 17], &[b'l'; 3000]]
            .map(Vec::from)
            .to_vec();
        for at in 0..SLOTS {
            for byte in [0, b'L', b'x', 0xff] {
                let mut text = good.clone();
                text[at] = byte;
                wrong.push(text);
            }
        }
        for text in wrong {
            assert_eq!(Table::parse(&text), None, "{text:?}");
        }
    }

    #[test]
    fn a_device_fits_as_far_as_its_description_leaves_that_open() {
        for declared in [Declared::Level, Declared::Edge, Declared::Posted] {
            for text in [RAM, "type=net,backend=switch,mac=00:16:3e:00:00:01"] {
                let mut device = device(text);
                device.fit(declared);
                assert_eq!(Declared::of(&device), declared, "{text}");
                assert_eq!(device.check_guest(TargetType::Hvm), Ok(()));
            }
            for (said, is) in [
                ("interrupt=intx", Declared::Level),
                ("interrupt=edge,doorbell=mmio", Declared::Edge),
                ("doorbell=posted", Declared::Posted),
            ] {
                let mut device = device(&std::format!("{RAM},{said}"));
                let before = device.clone();
                device.fit(declared);
                assert_eq!(Declared::of(&device), is, "{said}");
                assert_eq!(device, before, "nothing was open");
            }
        }
    }
}
