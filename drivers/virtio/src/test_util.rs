//! For tests: guest memory with holes and with a driver that interferes, and the driver's side of a split ring.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that goes wrong here should stop"
)]

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::vec;
use std::vec::Vec;

use crate::chain::{Chain, Segment};
use crate::fault::FaultKind;
use crate::mem::{Gpa, GuestMemory, MemError};

/// What happens before the n-th read: another vCPU of the guest is at work.
pub type Interference = Box<dyn FnMut(u64, &mut [u8])>;

/// Guest memory from address 0 on, with holes.
#[derive(Default)]
pub struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
    holes: Vec<Range<u64>>,
    reads: Cell<u64>,
    interference: RefCell<Option<Interference>>,
    touched: RefCell<Vec<Range<u64>>>,
}

impl FakeMemory {
    /// `size` bytes of zeroes.
    pub fn new(size: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; size]),
            ..Self::default()
        }
    }

    /// Takes a range out.
    pub fn hole(mut self, range: Range<u64>) -> Self {
        self.holes.push(range);
        self
    }

    /// Calls `f` with the number of the read and the memory, before every read.
    pub fn interfere(&self, f: impl FnMut(u64, &mut [u8]) + 'static) {
        *self.interference.borrow_mut() = Some(Box::new(f));
    }

    /// How many reads and loads there were.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// The ranges that were written since the last call.
    pub fn take_written(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.touched.borrow_mut())
    }

    /// Copies out, as the driver.
    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let at = at as usize;
        self.bytes.borrow()[at..at + N].try_into().unwrap()
    }

    /// Copies in, as the driver.
    pub fn put(&self, at: u64, from: &[u8]) {
        let at = at as usize;
        self.bytes.borrow_mut()[at..at + from.len()].copy_from_slice(from);
    }

    fn range(&self, at: Gpa, len: u64) -> Result<Range<usize>, MemError> {
        let error = MemError::new(at, len);
        let end = at.0.checked_add(len).ok_or(error)?;
        let in_hole = self
            .holes
            .iter()
            .any(|hole| at.0 < hole.end && hole.start < end);
        if in_hole || end > self.bytes.borrow().len() as u64 {
            return Err(error);
        }
        Ok(at.0 as usize..end as usize)
    }

    fn aligned(&self, at: Gpa) -> Result<Range<usize>, MemError> {
        if at.0.is_multiple_of(2) {
            self.range(at, 2)
        } else {
            Err(MemError::new(at, 2))
        }
    }

    fn before_read(&self) {
        let n = self.reads.replace(self.reads.get() + 1);
        if let Some(f) = &mut *self.interference.borrow_mut() {
            f(n, &mut self.bytes.borrow_mut());
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        let range = self.range(from, into.len() as u64)?;
        self.before_read();
        into.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        let range = self.range(to, from.len() as u64)?;
        self.touched
            .borrow_mut()
            .push(to.0..to.0 + from.len() as u64);
        self.bytes.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }

    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        let range = self.aligned(at)?;
        self.before_read();
        Ok(u16::from_le_bytes(
            self.bytes.borrow()[range].try_into().unwrap(),
        ))
    }

    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        let range = self.aligned(at)?;
        self.touched.borrow_mut().push(at.0..at.0 + 2);
        self.bytes.borrow_mut()[range].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        self.range(at, len).map(|_| ())
    }

    fn fence(&self) {}
}

/// The driver's side of a split ring: it writes what it is told to, right or wrong.
#[derive(Clone, Copy, Debug)]
pub struct DriverRing {
    /// Number of entries.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// Descriptor flag: the chain goes on.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: refers to a table.
pub const INDIRECT: u16 = 4;

impl DriverRing {
    /// A ring whose parts lie one after the other from `base` on.
    pub fn at(base: u64, size: u16) -> Self {
        let n = u64::from(size);
        let avail = base + n * 16;
        let used = (avail + n * 2 + 6).next_multiple_of(4);
        Self {
            size,
            desc: base,
            avail,
            used,
        }
    }

    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.used + u64::from(self.size) * 8 + 6
    }

    /// Writes descriptor `index` of the queue's table.
    pub fn describe(
        &self,
        mem: &FakeMemory,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        descriptor(
            mem,
            self.desc + u64::from(index) * 16,
            addr,
            len,
            flags,
            next,
        );
    }

    /// Makes `head` available.
    pub fn offer(&self, mem: &FakeMemory, head: u16) {
        let idx = self.avail_idx(mem);
        let entry = self.avail + 4 + u64::from(idx % self.size) * 2;
        mem.put(entry, &head.to_le_bytes());
        self.set_avail_idx(mem, idx.wrapping_add(1));
    }

    /// avail.idx.
    pub fn avail_idx(&self, mem: &FakeMemory) -> u16 {
        u16::from_le_bytes(mem.get(self.avail + 2))
    }

    /// Sets avail.idx.
    pub fn set_avail_idx(&self, mem: &FakeMemory, idx: u16) {
        mem.put(self.avail + 2, &idx.to_le_bytes());
    }

    /// Sets avail.flags.
    pub fn set_avail_flags(&self, mem: &FakeMemory, flags: u16) {
        mem.put(self.avail, &flags.to_le_bytes());
    }

    /// Sets used_event.
    pub fn set_used_event(&self, mem: &FakeMemory, event: u16) {
        mem.put(
            self.avail + 4 + u64::from(self.size) * 2,
            &event.to_le_bytes(),
        );
    }

    /// used.idx.
    pub fn used_idx(&self, mem: &FakeMemory) -> u16 {
        u16::from_le_bytes(mem.get(self.used + 2))
    }

    /// used.flags.
    pub fn used_flags(&self, mem: &FakeMemory) -> u16 {
        u16::from_le_bytes(mem.get(self.used))
    }

    /// avail_event.
    pub fn avail_event(&self, mem: &FakeMemory) -> u16 {
        u16::from_le_bytes(mem.get(self.used + 4 + u64::from(self.size) * 8))
    }

    /// The used element with a free-running index: head and length.
    pub fn used_element(&self, mem: &FakeMemory, idx: u16) -> (u32, u32) {
        let at = self.used + 4 + u64::from(idx % self.size) * 8;
        (
            u32::from_le_bytes(mem.get(at)),
            u32::from_le_bytes(mem.get(at + 4)),
        )
    }
}

/// Writes a descriptor anywhere.
pub fn descriptor(mem: &FakeMemory, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    mem.put(at, &bytes);
}

/// A chain of these buffers: where, and how many bytes.
///
/// # Errors
/// What is wrong with them.
pub fn chain(readable: &[(u64, u32)], writable: &[(u64, u32)]) -> Result<Chain, FaultKind> {
    let mut chain = Chain::new();
    for (list, writes) in [(readable, false), (writable, true)] {
        for &(addr, len) in list {
            chain.push(
                Segment {
                    addr: Gpa(addr),
                    len,
                },
                writes,
            )?;
        }
    }
    Ok(chain)
}

/// The driver's side of a packed ring.
#[derive(Clone, Debug)]
pub struct DriverPacked {
    /// Number of entries.
    pub size: u16,
    /// The ring.
    pub ring: u64,
    /// Event suppression of the driver.
    pub driver: u64,
    /// Event suppression of the device.
    pub device: u64,
    avail: (u16, bool),
    used: (u16, bool),
    /// Entries of each request that is under way, by id.
    slots: Vec<u16>,
}

impl DriverPacked {
    /// A ring at `base`, with both event suppression structures behind it.
    pub fn at(base: u64, size: u16) -> Self {
        let driver = base + u64::from(size) * 16;
        Self {
            size,
            ring: base,
            driver,
            device: driver + 4,
            avail: (0, true),
            used: (0, true),
            slots: vec![0; usize::from(size)],
        }
    }

    fn advance(&self, (offset, wrap): (u16, bool), slots: u16) -> (u16, bool) {
        let sum = offset + slots;
        if sum >= self.size {
            (sum - self.size, !wrap)
        } else {
            (sum, wrap)
        }
    }

    /// Makes a chain of descriptors (address, length, flags) available; the flags of the first are written last.
    pub fn offer(&mut self, mem: &FakeMemory, id: u16, list: &[(u64, u32, u16)]) {
        let start = self.avail;
        let mut first = 0;
        for (n, &(addr, len, flags)) in list.iter().enumerate() {
            let (offset, wrap) = self.avail;
            let next = if n + 1 < list.len() { NEXT } else { 0 };
            let marks = if wrap { 1 << 7 } else { 1 << 15 };
            let flags = flags | next | marks;
            let at = self.ring + u64::from(offset) * 16;
            // The last two fields are the other way round than in a split ring.
            let written = if n == 0 {
                flags ^ (1 << 7 | 1 << 15)
            } else {
                flags
            };
            descriptor(mem, at, addr, len, id, written);
            if n == 0 {
                first = flags;
            }
            self.avail = self.advance(self.avail, 1);
        }
        self.slots[usize::from(id)] = list.len() as u16;
        mem.put(
            self.ring + u64::from(start.0) * 16 + 14,
            &first.to_le_bytes(),
        );
    }

    /// Takes the next used descriptor: id and length.
    pub fn take_used(&mut self, mem: &FakeMemory) -> Option<(u16, u32)> {
        let (offset, wrap) = self.used;
        let at = self.ring + u64::from(offset) * 16;
        let flags = u16::from_le_bytes(mem.get(at + 14));
        if (flags & 1 << 7 != 0) != wrap || (flags & 1 << 15 != 0) != wrap {
            return None;
        }
        let id = u16::from_le_bytes(mem.get(at + 12));
        self.used = self.advance(self.used, self.slots[usize::from(id)]);
        Some((id, u32::from_le_bytes(mem.get(at + 8))))
    }

    /// Sets the driver's event suppression: flags, and the word for the descriptor.
    pub fn set_events(&self, mem: &FakeMemory, flags: u16, word: u16) {
        mem.put(self.driver, &word.to_le_bytes());
        mem.put(self.driver + 2, &flags.to_le_bytes());
    }

    /// The device's event suppression: flags, and the word for the descriptor.
    pub fn device_events(&self, mem: &FakeMemory) -> (u16, u16) {
        let flags = u16::from_le_bytes(mem.get(self.device + 2));
        (flags, u16::from_le_bytes(mem.get(self.device)))
    }

    /// The word for the descriptor that the driver will take next.
    pub fn used_word(&self) -> u16 {
        self.used.0 | u16::from(self.used.1) << 15
    }

    /// The word for the descriptor that the driver will make available next.
    pub fn avail_word(&self) -> u16 {
        self.avail.0 | u16::from(self.avail.1) << 15
    }
}
