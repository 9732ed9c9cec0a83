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
