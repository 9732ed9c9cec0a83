//! From a head to the segments of its chain (virtio 1.3, 2.7.5 and 2.8.5).
//!
//! Every descriptor is copied once, in one piece. The number of descriptors read is bounded by the queue's size, so
//! that a loop ends like a chain that is too long.

use super::packed::Packed;
use super::split::Split;
use crate::chain::{Chain, MAX_SEGMENTS, Segment};
use crate::fault::FaultKind;
use crate::mem::{Gpa, GuestMemory};

const SIZE: u64 = 16;

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u16 {
        const NEXT = 1;
        const WRITE = 2;
        const INDIRECT = 4;
        /// Packed rings: toggles when the driver makes it available.
        const AVAIL = 1 << 7;
        /// Packed rings: toggles when the device has used it.
        const USED = 1 << 15;
    }
}

/// A copy of a descriptor.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    addr: Gpa,
    len: u32,
    flags: Flags,
    /// Split rings: the next one. Packed rings: what the driver knows the buffer by.
    number: u16,
}

/// The two layouts of a descriptor: they differ in the order of their last two fields.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Split,
    Packed,
}

impl Descriptor {
    fn load<M: GuestMemory + ?Sized>(mem: &M, at: Gpa, layout: Layout) -> Result<Self, FaultKind> {
        let mut bytes = [0; 16];
        mem.read(at, &mut bytes)?;
        let [a @ .., l0, l1, l2, l3, w0, w1, x0, x1] = bytes;
        let (first, second) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([x0, x1]));
        let (flags, number) = match layout {
            Layout::Split => (first, second),
            Layout::Packed => (second, first),
        };
        Ok(Self {
            addr: Gpa(u64::from_le_bytes(a)),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            // Bits without a meaning are reserved: the driver may set them, the device ignores them.
            flags: Flags::from_bits_truncate(flags),
            number,
        })
    }
}

/// A table of descriptors: the queue's own, or an indirect one.
#[derive(Clone, Copy, Debug)]
struct Table {
    base: Gpa,
    entries: u16,
    layout: Layout,
}

impl Table {
    fn load<M: GuestMemory + ?Sized>(self, mem: &M, index: u16) -> Result<Descriptor, FaultKind> {
        let offset = u64::from(index).saturating_mul(SIZE);
        match self.base.checked_add(offset) {
            Some(at) if index < self.entries => Descriptor::load(mem, at, self.layout),
            _ => Err(FaultKind::DescriptorIndex(index)),
        }
    }

    /// All of it is about to be read, one descriptor after the other.
    fn prefetch<M: GuestMemory + ?Sized>(self, mem: &M) -> Result<(), FaultKind> {
        let len = u64::from(self.entries).saturating_mul(SIZE);
        Ok(mem.prefetch(self.base, len)?)
    }
}

impl Split {
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
            layout: Layout::Split,
        };
        let mut inside = false;
        let mut index = head;
        // One more than the longest chain, for the descriptor that refers to a table.
        for _ in 0..=MAX_SEGMENTS {
            let descriptor = table.load(mem, index)?;
            if descriptor.flags.contains(Flags::INDIRECT) {
                table = descriptor.table(self.indirect && !inside, Layout::Split)?;
                table.prefetch(mem)?;
                inside = true;
                index = 0;
                continue;
            }
            if !inside && chain.len() >= usize::from(self.size) {
                break;
            }
            chain.push(
                descriptor.segment(),
                descriptor.flags.contains(Flags::WRITE),
            )?;
            if !descriptor.flags.contains(Flags::NEXT) {
                return Ok(());
            }
            index = descriptor.number;
        }
        Err(FaultKind::ChainTooLong)
    }
}

impl Descriptor {
    /// The table that this descriptor refers to.
    fn table(&self, allowed: bool, layout: Layout) -> Result<Table, FaultKind> {
        if !allowed || self.flags.contains(Flags::NEXT) {
            return Err(FaultKind::Indirect);
        }
        let len = u64::from(self.len);
        // By 2.7.5.3.1 no chain is longer than its queue. Linux keeps to that only for chains without tables: a small
        // queue may come with tables of any length.
        let entries = u16::try_from(len / SIZE)
            .ok()
            .filter(|&n| n != 0 && usize::from(n) <= MAX_SEGMENTS);
        match entries {
            Some(entries) if len.is_multiple_of(SIZE) => Ok(Table {
                base: self.addr,
                entries,
                layout,
            }),
            _ => Err(FaultKind::IndirectLength(self.len)),
        }
    }

    fn segment(&self) -> Segment {
        Segment {
            addr: self.addr,
            len: self.len,
        }
    }
}

impl Packed {
    /// Reads the chain whose first descriptor is at the next entry, with the flags that made it available, into
    /// `chain`. Returns the buffer's id and the number of entries.
    pub(super) fn walk<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        first: Flags,
        chain: &mut Chain,
    ) -> Result<(u16, u16), FaultKind> {
        chain.clear();
        for slots in 1..=self.size {
            let at = self.entry(slots.saturating_sub(1));
            let mut descriptor = Descriptor::load(mem, at, Layout::Packed)?;
            if slots == 1 {
                // These were read before the rest, and count.
                descriptor.flags = first;
            }
            let id = descriptor.number;
            if descriptor.flags.contains(Flags::INDIRECT) {
                self.walk_table(mem, &descriptor, chain)?;
                return Ok((id, slots));
            }
            chain.push(
                descriptor.segment(),
                descriptor.flags.contains(Flags::WRITE),
            )?;
            if !descriptor.flags.contains(Flags::NEXT) {
                return Ok((id, slots));
            }
        }
        Err(FaultKind::ChainTooLong)
    }

    /// The descriptors of a table follow one another; NEXT means nothing there (2.8.7).
    fn walk_table<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        descriptor: &Descriptor,
        chain: &mut Chain,
    ) -> Result<(), FaultKind> {
        let table = descriptor.table(self.indirect, Layout::Packed)?;
        table.prefetch(mem)?;
        for index in 0..table.entries {
            let inner = table.load(mem, index)?;
            if inner.flags.contains(Flags::INDIRECT) {
                return Err(FaultKind::Indirect);
            }
            chain.push(inner.segment(), inner.flags.contains(Flags::WRITE))?;
        }
        Ok(())
    }
}
