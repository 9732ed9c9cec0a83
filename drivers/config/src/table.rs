//! How each slot is declared in the ACPI table of an HVM guest.
//!
//! The guest reads that table once, when it starts. A device that comes later has to be what is declared for its slot then,
//! whoever was in it before and whichever driver domain serves it: so this is written beside the description, and stays.

use core::fmt;

use crate::device::DeviceDescription;
use crate::devices::Devices;
use crate::notify::{Doorbell, Interrupt};
use crate::slot::{OWN_LINES, SLOTS, SlotIndex};
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
    /// Not at all: the guest was started when there were fewer slots.
    Absent,
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
            Self::Absent => b'-',
        }
    }

    /// The same in the words of a device's description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Level => "interrupt=intx",
            Self::Edge => "interrupt=edge",
            Self::Posted => "interrupt=edge,doorbell=posted",
            Self::Absent => "nothing",
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

    /// What `text` says: a letter for each slot; or for each of the first ones, which were all that there were in former
    /// releases. `None` if it makes no sense.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if !matches!(text.len(), OWN_LINES | SLOTS) {
            return None;
        }
        let absent = Declared::Absent.letter();
        let letters = text.iter().chain(core::iter::repeat(&absent));
        let mut table = Self::default();
        for ((slot, place), letter) in SlotIndex::all().zip(&mut table.0).zip(letters) {
            let all: &[_] = if slot.has_own_line() {
                &[Declared::Level, Declared::Edge, Declared::Posted]
            } else {
                &[Declared::Level, Declared::Absent]
            };
            *place = all.iter().copied().find(|it| it.letter() == *letter)?;
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
        let posted = "le-------------s".replace('-', "l");
        assert_eq!(table.to_string(), posted + &"l".repeat(16));
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
        let lengths = [0, 1, 15, 17, 31, 33, 3000];
        let mut wrong: Vec<Vec<u8>> = lengths.map(|len| std::vec![b'l'; len]).to_vec();
        for at in 0..SLOTS {
            let not_here: &[u8] = if at < OWN_LINES { b"-p" } else { b"eps" };
            for &byte in [0, b'L', b'x', 0xff].iter().chain(not_here) {
                let mut text = good.clone();
                text[at] = byte;
                wrong.push(text);
            }
        }
        for text in wrong {
            assert_eq!(Table::parse(&text), None, "{text:?}");
        }
    }

    /// A guest that was started by a release with 16 slots has no others, whoever serves it.
    #[test]
    fn of_a_guest_with_fewer_slots_the_others_are_absent() {
        let text = "leslllllllllllll";
        let former = Table::parse(text.as_bytes()).unwrap();
        for slot in SlotIndex::all() {
            let expected = match slot.get() {
                1 => Declared::Edge,
                2 => Declared::Posted,
                0..16 => Declared::Level,
                _ => Declared::Absent,
            };
            assert_eq!(former.get(slot), expected, "{slot}");
        }
        assert_eq!(former.to_string(), std::format!("{text}{}", "-".repeat(16)));
        assert_eq!(Table::parse(former.to_string().as_bytes()), Some(former));
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
