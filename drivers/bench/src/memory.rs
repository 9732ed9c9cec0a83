//! Guest memory without any bookkeeping: bounds are checked, and that is all.

use std::cell::Cell;

use vd_virtio::{Gpa, GuestMemory, MemError};

/// Guest memory from address 0 on, of one thread.
pub(crate) struct Memory(Vec<Cell<u8>>);

impl Memory {
    pub(crate) fn new(size: usize) -> Self {
        Self(vec![Cell::new(0); size])
    }

    #[inline]
    fn range(&self, at: Gpa, len: usize) -> Result<&[Cell<u8>], MemError> {
        let place = usize::try_from(at.0).ok().and_then(|start| {
            let end = start.checked_add(len)?;
            self.0.get(start..end)
        });
        place.ok_or(MemError::new(at, len as u64))
    }

    /// Copies in, as the driver.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.write(Gpa(at), bytes).unwrap();
    }

    /// A 16-bit number, as the driver.
    pub(crate) fn get(&self, at: u64) -> u16 {
        self.load_u16(Gpa(at)).unwrap()
    }

    /// Writes a descriptor; the last two fields are in the order of the ring.
    pub(crate) fn describe(&self, at: u64, addr: u64, len: u32, last: [u16; 2]) {
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &last[0].to_le_bytes());
        self.put(at + 14, &last[1].to_le_bytes());
    }
}

impl GuestMemory for Memory {
    #[inline]
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        let place = self.range(from, into.len())?;
        for (byte, cell) in into.iter_mut().zip(place) {
            *byte = cell.get();
        }
        Ok(())
    }

    #[inline]
    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        let place = self.range(to, from.len())?;
        for (cell, byte) in place.iter().zip(from) {
            cell.set(*byte);
        }
        Ok(())
    }

    #[inline]
    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        match self.range(at, 2)? {
            [low, high] if at.0.is_multiple_of(2) => {
                Ok(u16::from_le_bytes([low.get(), high.get()]))
            }
            _ => Err(MemError::new(at, 2)),
        }
    }

    #[inline]
    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        match self.range(at, 2)? {
            [low, high] if at.0.is_multiple_of(2) => {
                let [a, b] = value.to_le_bytes();
                low.set(a);
                high.set(b);
                Ok(())
            }
            _ => Err(MemError::new(at, 2)),
        }
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        let len = usize::try_from(len).map_err(|_| MemError::new(at, len))?;
        self.range(at, len).map(drop)
    }

    #[inline]
    fn fence(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}
