//! The fixed places for devices: register window, interrupt, PCI device that stands for the interrupt.
//!
//! Every guest gets the same 32 slots; those without a device are placeholders (DeviceID 0), which drivers skip.
//!
//! Each slot has an input of the I/O APIC for itself among the 32 that Xen has for PCI. The first 16 slots have those of which
//! QEMU's devices, which have the numbers 0 to 15, use none with INTA. The others have the inputs of QEMU's devices, from the
//! highest number on, as QEMU gives the lowest first. Where there is such a device, it and the slot share the input: as
//! level-triggered lines of PCI do, and in no other way.
//!
//! Invariant: a [`SlotIndex`] is below [`SLOTS`], so the arithmetic on it cannot leave the range or the I/O APIC.

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::number::canonical;

const COUNT: u8 = 32;
/// How many slots there are.
pub const SLOTS: usize = COUNT as usize;

/// How many of them have a line that is theirs alone, and a place for posted writes: there is no room for more.
const OWN: u8 = 16;
/// How many such slots there are: the first ones.
pub const OWN_LINES: usize = OWN as usize;

/// First byte of the range that holds all windows: free in every HVM guest, below the I/O APIC at 0xFEC00000.
pub const RANGE_BASE: u64 = 0xFEA0_0000;
/// From one window's first byte to the next one's.
pub const WINDOW_STRIDE: u64 = 0x1000;
/// Bytes of a window: registers below 0x100, configuration space from there.
pub const WINDOW_SIZE: u64 = 0x200;
/// Last byte of the range, as an ioreq range wants it (inclusive).
pub const RANGE_LAST: u64 = RANGE_BASE + COUNT as u64 * WINDOW_STRIDE - 1;

/// First byte of the range that holds the windows of devices whose register writes are posted: where a VGA card's memory
/// would be, the only one whose writes Xen posts.
pub const POSTED_BASE: u64 = 0xA_0000;
/// From one such window's page to the next one's: each straddles two pages.
pub const POSTED_STRIDE: u64 = 0x2000;
/// Registers of such a window that are in its first page, to its end: all that a driver reads to wait for what it has
/// posted, and QueueNotify. InterruptStatus, Status and the configuration begin the second page, which can be memory.
pub const POSTED_HEAD: u64 = 0x60;
/// Last byte of that range, inclusive: of all that Xen posts.
pub const POSTED_LAST: u64 = POSTED_BASE + OWN as u64 * POSTED_STRIDE - 1;
/// Where the first such window is in that range.
const POSTED_FIRST: u64 = WINDOW_STRIDE - POSTED_HEAD;

/// The PCI devices on bus 0 whose lines are the slots' interrupts have this number or a higher one. QEMU's own have lower
/// ones.
pub const FIRST_PCI_DEVICE: u8 = 16;

/// A line of a PCI device (domain 0, bus 0), as `XEN_DMOP_set_pci_intx_level` wants it. It is up or down whatever others
/// do, and an input of the I/O APIC is up while any of its lines is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciLine {
    /// The device, below 32.
    pub device: u8,
    /// 0 for INTA to 3 for INTD.
    pub intx: u8,
}

impl PciLine {
    /// The global system interrupt that Xen wires the line to (`hvm_pci_intx_gsi`).
    pub const fn gsi(self) -> u32 {
        let device = self.device as u32;
        let line = (device << 2)
            .saturating_add(device >> 3)
            .saturating_add(self.intx as u32);
        (line & 31).saturating_add(16)
    }
}

/// The I/O port that is the doorbell of slot 0, where a guest has such doorbells: free in every PVH guest.
pub const DOORBELL_PORT_BASE: u16 = 0xE000;
/// From one slot's port to the next one's: wide enough for any access.
pub const DOORBELL_PORT_STRIDE: u16 = 8;
/// Last port of the range that holds all doorbells, inclusive.
pub const DOORBELL_PORT_LAST: u16 = DOORBELL_PORT_BASE + COUNT as u16 * DOORBELL_PORT_STRIDE - 1;

/// One of the 32 slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(u8);

impl SlotIndex {
    /// The slot with that number, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if number < COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// All slots, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..COUNT).map(Self)
    }

    /// The slot that `text` names: a decimal number as xenstore and configuration files have it.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(|number| Self::new(u8::try_from(number).ok()?))
            .ok_or_else(|| ConfigError::BadSlot(Excerpt::new(text)))
    }

    /// The slot whose window holds the guest-physical address, and the offset in that window. `None` also for the
    /// gaps between windows.
    pub fn at_address(address: u64) -> Option<(Self, u64)> {
        Self::at_offset(address.checked_sub(RANGE_BASE)?, WINDOW_STRIDE)
    }

    /// The same for windows whose writes are posted.
    pub fn at_posted_address(address: u64) -> Option<(Self, u64)> {
        let first = POSTED_BASE.checked_add(POSTED_FIRST)?;
        Self::at_offset(address.checked_sub(first)?, POSTED_STRIDE)
            .filter(|(slot, _)| slot.has_own_line())
    }

    fn at_offset(offset: u64, stride: u64) -> Option<(Self, u64)> {
        let number = offset.checked_div(stride)?;
        let within = offset.checked_rem(stride)?;
        let slot = Self::new(u8::try_from(number).ok()?)?;
        (within < WINDOW_SIZE).then_some((slot, within))
    }

    /// The number, 0 to 31.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Guest-physical address of the window's first byte.
    pub const fn base(self) -> u64 {
        RANGE_BASE.saturating_add((self.0 as u64).saturating_mul(WINDOW_STRIDE))
    }

    /// Whether its interrupt can be edge-triggered and its register writes posted, in an HVM guest. If not, its line is to
    /// be level-triggered, active low and shared, as those of PCI devices are.
    pub const fn has_own_line(self) -> bool {
        self.0 < OWN
    }

    /// The same where register writes are posted; of a slot with a line of its own.
    pub const fn posted_base(self) -> u64 {
        POSTED_BASE
            .saturating_add(POSTED_FIRST)
            .saturating_add((self.0 as u64).saturating_mul(POSTED_STRIDE))
    }

    /// Number of the guest's frame that the second part of that window begins: registers from [`POSTED_HEAD`] on, and
    /// nothing of another slot.
    pub const fn tail_frame(self) -> u64 {
        self.posted_base().saturating_add(POSTED_HEAD) >> 12
    }

    /// Number of the frame with this slot's window of writes that wait: no driver looks there while the slot is declared
    /// as posted.
    pub const fn spare_frame(self) -> u64 {
        self.base() >> 12
    }

    /// The I/O port that is this slot's doorbell, where it has one.
    pub const fn doorbell_port(self) -> u16 {
        DOORBELL_PORT_BASE.saturating_add((self.0 as u16).saturating_mul(DOORBELL_PORT_STRIDE))
    }

    /// The line that is this slot's interrupt. No other slot has the same, and no other slot's is wired to the same input.
    pub const fn line(self) -> PciLine {
        if self.has_own_line() {
            return PciLine {
                device: FIRST_PCI_DEVICE.saturating_add(self.0),
                intx: 0,
            };
        }
        // INTA of that device of QEMU's is wired to the same input as the line of ours that is found here: the devices
        // after ours begin with the next four inputs, and go around.
        let qemu = COUNT.saturating_sub(1).saturating_sub(self.0);
        PciLine {
            device: (qemu.saturating_add(7) & 7).saturating_add(24),
            intx: (qemu >> 3).saturating_add(1),
        }
    }

    /// The global system interrupt that Xen wires that line to.
    pub const fn gsi(self) -> u32 {
        self.line().gsi()
    }
}

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn windows_and_interrupts_are_the_documented_ones() {
        let gsis: Vec<u32> = SlotIndex::all().map(SlotIndex::gsi).collect();
        assert_eq!(
            gsis,
            [
                18, 22, 26, 30, 34, 38, 42, 46, 19, 23, 27, 31, 35, 39, 43, 47, // alone
                45, 41, 37, 33, 29, 25, 21, 17, 44, 40, 36, 32, 28, 24, 20, 16,
            ]
        );
        let last = SlotIndex::new(31).unwrap();
        assert_eq!(last.base(), 0xFEA1_F000);
        assert_eq!(RANGE_LAST, 0xFEA1_FFFF);
        assert_eq!((last.doorbell_port(), DOORBELL_PORT_LAST), (0xE0F8, 0xE0FF));
        assert_eq!(SlotIndex::new(0).unwrap().posted_base(), 0xA_0FA0);
        // All that Xen posts, and no more.
        let last = SlotIndex::new(15).unwrap();
        assert_eq!((last.posted_base(), POSTED_LAST), (0xB_EFA0, 0xB_FFFF));
        assert_eq!((last.tail_frame(), last.spare_frame()), (0xBF, 0xF_EA0F));
        let line = PciLine {
            device: 31,
            intx: 0,
        };
        assert_eq!(last.line(), line);
        assert_eq!(SlotIndex::new(32), None);
        assert_eq!(SlotIndex::all().count(), SLOTS);
    }

    #[test]
    fn no_two_slots_have_a_line_or_an_input_in_common() {
        let lines: BTreeSet<PciLine> = SlotIndex::all().map(SlotIndex::line).collect();
        let inputs: BTreeSet<u32> = SlotIndex::all().map(SlotIndex::gsi).collect();
        assert_eq!(lines.len(), SLOTS);
        assert_eq!(inputs, (16..48).collect(), "those of PCI, each once");
        for line in lines {
            // As Xen takes it, and of no device that QEMU has.
            assert!((FIRST_PCI_DEVICE..32).contains(&line.device), "{line:?}");
            assert!(line.intx < 4, "{line:?}");
        }
    }

    #[test]
    fn an_input_of_qemus_is_shared_where_a_line_can_be() {
        for slot in SlotIndex::all() {
            let theirs = (0..16).find(|&device| PciLine { device, intx: 0 }.gsi() == slot.gsi());
            // From the highest on.
            let expected = 31_u8.checked_sub(slot.get()).filter(|device| *device < 16);
            assert_eq!(theirs, expected, "slot {slot}");
            assert_eq!(slot.has_own_line(), theirs.is_none(), "slot {slot}");
        }
    }

    #[test]
    fn every_address_belongs_to_one_window_or_none() {
        for slot in SlotIndex::all() {
            assert_eq!(SlotIndex::at_address(slot.base()), Some((slot, 0)));
            let last = slot.base() + WINDOW_SIZE - 1;
            assert_eq!(SlotIndex::at_address(last), Some((slot, WINDOW_SIZE - 1)));
            assert_eq!(SlotIndex::at_address(last + 1), None);
            let posted = slot.posted_base();
            assert_eq!(SlotIndex::at_address(posted), None);
            if !slot.has_own_line() {
                assert!(posted > POSTED_LAST);
                assert_eq!(SlotIndex::at_posted_address(posted), None, "{slot}");
                continue;
            }
            assert_eq!(
                SlotIndex::at_posted_address(posted + 0x50),
                Some((slot, 0x50))
            );
            let end = posted + WINDOW_SIZE;
            assert_eq!(
                SlotIndex::at_posted_address(end - 1),
                Some((slot, WINDOW_SIZE - 1))
            );
            assert_eq!(SlotIndex::at_posted_address(end), None);
            assert_eq!(SlotIndex::at_posted_address(posted - 1), None);
            let tail = slot.tail_frame() << 12;
            assert_eq!(
                SlotIndex::at_posted_address(tail),
                Some((slot, POSTED_HEAD))
            );
            assert!(posted >= POSTED_BASE && tail + 0xfff <= POSTED_LAST);
        }
        for outside in [0, RANGE_BASE - 1, RANGE_LAST, RANGE_LAST + 1, u64::MAX] {
            assert_eq!(SlotIndex::at_address(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn only_canonical_numbers_name_slots() {
        for slot in SlotIndex::all() {
            assert_eq!(SlotIndex::parse(slot.to_string().as_bytes()), Ok(slot));
        }
        for bad in [
            "", "32", "40", "-1", "+1", "01", "00", " 1", "1 ", "a", "0x1", "1a", "256", "99999",
        ] {
            assert!(SlotIndex::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(SlotIndex::parse(&[0xff]).is_err());
    }
}
