//! From a head to the segments of its chain (virtio 1.3, 2.7.5).
//!
//! Every descriptor is copied once, in one piece. The number of descriptors read is bounded by the queue's size, so
//! that a loop ends like a chain that is too long.

use super::Queue;
use crate::chain::{Chain, Segment};
use crate::fault::FaultKind;
use crate::mem::{Gpa, GuestMemory};

const SIZE: u64 = 16;

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u16 {
        const NEXT = 1;
        const WRITE = 2;
        const INDIRECT = 4;
    }
}

/// A copy of a descriptor.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    addr: Gpa,
    len: u32,
    flags: Flags,
    next: u16,
}

impl Descriptor {
    fn load<M: GuestMemory + ?Sized>(mem: &M, at: Gpa) -> Result<Self, FaultKind> {
        let mut bytes = [0; 16];
        mem.read(at, &mut bytes)?;
        let [a @ .., l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Ok(Self {
            addr: Gpa(u64::from_le_bytes(a)),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            // Bits without a meaning are reserved: the driver may set them, the device ignores them.
            flags: Flags::from_bits_truncate(u16::from_le_bytes([f0, f1])),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// A table of descriptors: the queue's own, or an indirect one.
#[derive(Clone, Copy, Debug)]
struct Table {
    base: Gpa,
    entries: u16,
}

impl Table {
    fn load<M: GuestMemory + ?Sized>(self, mem: &M, index: u16) -> Result<Descriptor, FaultKind> {
        let offset = u64::from(index).saturating_mul(SIZE);
        match self.base.checked_add(offset) {
            Some(at) if index < self.entries => Descriptor::load(mem, at),
            _ => Err(FaultKind::DescriptorIndex(index)),
        }
    }
}

impl Queue {
    /// Reads the chain that starts at `head` into `chain`.
    pub(super) fn walk<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        head: u16,
        chain: &mut Chain,
    ) -> Result<(), FaultKind> {
        chain.clear();
        let mut table = Table {
            base: self.desc,
            entries: self.size,
        };
        let mut inside = false;
        let mut index = head;
        // One more than the longest chain, for the descriptor that refers to a table.
        for _ in 0..=self.size {
            let descriptor = table.load(mem, index)?;
            if descriptor.flags.contains(Flags::INDIRECT) {
                table = self.indirect(&descriptor, inside)?;
                inside = true;
                index = 0;
                continue;
            }
            if chain.len() >= usize::from(self.size) {
                break;
            }
            let segment = Segment {
                addr: descriptor.addr,
                len: descriptor.len,
            };
            chain.push(segment, descriptor.flags.contains(Flags::WRITE))?;
            if !descriptor.flags.contains(Flags::NEXT) {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(FaultKind::ChainTooLong)
    }

    /// The table that a descriptor refers to.
    fn indirect(&self, descriptor: &Descriptor, inside: bool) -> Result<Table, FaultKind> {
        if !self.indirect || inside || descriptor.flags.contains(Flags::NEXT) {
            return Err(FaultKind::Indirect);
        }
        let len = u64::from(descriptor.len);
        // A table may have more entries than its chain uses, but no more than the queue (2.7.5.3.1).
        let entries = u16::try_from(len / SIZE)
            .ok()
            .filter(|&n| n != 0 && n <= self.size);
        match entries {
            Some(entries) if len.is_multiple_of(SIZE) => Ok(Table {
                base: descriptor.addr,
                entries,
            }),
            _ => Err(FaultKind::IndirectLength(descriptor.len)),
        }
    }
}
