//! The guest's memory, as a device sees it.
//!
//! Invariant of every implementation: an access touches RAM of the guest or fails; no reference into it exists.

use core::fmt;

/// A guest-physical address, as the driver wrote it: an allegation until an access through [`GuestMemory`] succeeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `offset` bytes further, unless that wraps.
    pub const fn checked_add(self, offset: u64) -> Option<Gpa> {
        match self.0.checked_add(offset) {
            Some(sum) => Some(Gpa(sum)),
            None => None,
        }
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range that is not, or not wholly, RAM of the guest. The guest's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemError {
    /// Where the range starts.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
}

impl MemError {
    /// The range of `len` bytes at `gpa`.
    pub const fn new(gpa: Gpa, len: u64) -> Self {
        Self { gpa, len }
    }
}

impl fmt::Display for MemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} are not RAM", self.len, self.gpa)
    }
}

/// Which side of a copy inside of the guest's memory is not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// What was to be read.
    Source(MemError),
    /// What was to be written.
    Target(MemError),
}

/// How much [`GuestMemory::copy`] carries in one go where the platform has nothing better.
const CARRY: usize = 256;

/// Access to the guest's memory by copy.
///
/// The guest may change any byte at any time. The `load` and `store` methods are single machine accesses at naturally
/// aligned addresses, little-endian; loads are acquire, stores are release. The others may tear.
pub trait GuestMemory {
    /// Copies `into.len()` bytes out of the guest's memory. After an error, `into` holds anything.
    ///
    /// # Errors
    /// [`MemError`] if the range is not RAM.
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError>;

    /// Copies `from` into the guest's memory.
    ///
    /// # Errors
    /// [`MemError`] if the range is not RAM; a part may have been written.
    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError>;

    /// Copies `len` bytes inside of the guest's memory. What is written where both ranges overlap is any mixture of
    /// what was there.
    ///
    /// # Errors
    /// Which of the ranges is not RAM; a part may have been written.
    fn copy(&self, from: Gpa, to: Gpa, len: usize) -> Result<(), CopyError> {
        let mut carried = [0; CARRY];
        for done in (0..len).step_by(CARRY) {
            let here = len.saturating_sub(done).min(CARRY);
            let bytes = carried.get_mut(..here).unwrap_or(&mut []);
            let place = |start: Gpa| {
                let offset = u64::try_from(done).unwrap_or(u64::MAX);
                start
                    .checked_add(offset)
                    .ok_or(MemError::new(start, offset))
            };
            place(from)
                .and_then(|from| self.read(from, bytes))
                .map_err(CopyError::Source)?;
            place(to)
                .and_then(|to| self.write(to, bytes))
                .map_err(CopyError::Target)?;
        }
        Ok(())
    }

    /// Loads an aligned 16-bit number.
    ///
    /// # Errors
    /// [`MemError`] if it is misaligned or not RAM.
    fn load_u16(&self, at: Gpa) -> Result<u16, MemError>;

    /// Stores an aligned 16-bit number.
    ///
    /// # Errors
    /// [`MemError`] if it is misaligned or not RAM.
    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError>;

    /// Whether the range is RAM now.
    ///
    /// # Errors
    /// [`MemError`] if it is not.
    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError>;

    /// A full barrier: stores before it are seen by others before loads after it are made.
    fn fence(&self);
}
