//! Guest memory without any bookkeeping: bounds are checked, and that is all. Copies are `memcpy`, as cheap as can be.

use std::cell::RefCell;

use vd_virtio::{Gpa, GuestMemory, MemError};

/// Guest memory from address 0 on, of one thread.
pub(crate) struct Memory(RefCell<Vec<u8>>);

impl Memory {
    pub(crate) fn new(size: usize) -> Self {
        Self(RefCell::new(vec![0; size]))
    }

    /// Runs `f` on a range.
    #[inline]
    fn at<R>(&self, at: Gpa, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, MemError> {
        let start = usize::try_from(at.0).unwrap_or(usize::MAX);
        let mut bytes = self.0.borrow_mut();
        let range = start
            .checked_add(len)
            .and_then(|end| bytes.get_mut(start..end));
        range.map(f).ok_or(MemError::new(at, len as u64))
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
        self.at(from, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    #[inline]
    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        self.at(to, from.len(), |bytes| bytes.copy_from_slice(from))
    }

    #[inline]
    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        let mut two = [0; 2];
        self.at(at, 2, |bytes| two.copy_from_slice(bytes))?;
        Ok(u16::from_le_bytes(two))
    }

    #[inline]
    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        self.at(at, 2, |bytes| bytes.copy_from_slice(&value.to_le_bytes()))
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        let len = usize::try_from(len).map_err(|_| MemError::new(at, len))?;
        self.at(at, len, |_| ())
    }

    #[inline]
    fn fence(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}
