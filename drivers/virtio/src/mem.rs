//! The guest's memory, as a device sees it.
//!
//! Invariant of every implementation: an access touches RAM of the guest or fails; no reference into it exists.

use core::fmt;

use crate::chain::Span;

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

/// A range that cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemError {
    /// Where the range starts.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// Why not.
    pub cause: Cause,
}

/// Why a range cannot be accessed, and thus whose doing that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is not, or not wholly, RAM of the guest.
    NotRam,
    /// The guest has not granted it, or not for what the device does with it.
    NotGranted,
    /// The platform cannot, for want of room, say. The driver has done nothing wrong.
    Platform,
}

impl MemError {
    /// The range of `len` bytes at `gpa`, which is not RAM.
    pub const fn new(gpa: Gpa, len: u64) -> Self {
        Self::because(Cause::NotRam, gpa, len)
    }

    /// The same for another cause.
    pub const fn because(cause: Cause, gpa: Gpa, len: u64) -> Self {
        Self { gpa, len, cause }
    }
}

impl fmt::Display for MemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cause {
            Cause::NotRam => "are not RAM",
            Cause::NotGranted => "are not granted",
            Cause::Platform => "cannot be accessed, which is not the driver's doing",
        };
        write!(f, "{} bytes at {} {what}", self.len, self.gpa)
    }
}

/// One of the areas of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingArea {
    /// Where.
    pub at: Gpa,
    /// How many bytes.
    pub len: u64,
    /// Whether the device writes to it.
    pub writable: bool,
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

    /// Copies all pieces of `from` into `into`, which is as long.
    ///
    /// # Errors
    /// [`MemError`] if a piece cannot be read.
    fn read_span(&self, from: Span<'_>, into: &mut [u8]) -> Result<(), MemError> {
        let mut rest = into;
        for (addr, len) in from.pieces() {
            let Some((here, more)) = rest.split_at_mut_checked(len) else {
                break;
            };
            self.read(addr, here)?;
            rest = more;
        }
        Ok(())
    }

    /// Copies `from` into all pieces of `to`, which is as long. An implementation may put off what it writes outside of
    /// rings until [`GuestMemory::flush`].
    ///
    /// # Errors
    /// [`MemError`] if a piece cannot be written; a part may have been.
    fn write_span(&self, to: Span<'_>, from: &[u8]) -> Result<(), MemError> {
        let mut rest = from;
        for (addr, len) in to.pieces() {
            let Some((here, more)) = rest.split_at_checked(len) else {
                break;
            };
            self.write(addr, here)?;
            rest = more;
        }
        Ok(())
    }

    /// The range will be read in small pieces: an implementation for which each access is expensive may read it now,
    /// once, and give out what it has then.
    ///
    /// # Errors
    /// [`MemError`] if it cannot be read.
    fn prefetch(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        let _ = (at, len);
        Ok(())
    }

    /// What was written before is in the guest's memory when this returns: called before the driver is shown that
    /// requests are done.
    ///
    /// # Errors
    /// [`MemError`] if something could not be written. It stays like that until the device's rings are closed: none of
    /// the requests may be shown.
    fn flush(&self) -> Result<(), MemError> {
        Ok(())
    }

    /// The ring in these areas is about to be used, until [`GuestMemory::close_ring`] with the same `id`, which no other
    /// open ring has.
    ///
    /// # Errors
    /// [`MemError`] if an area cannot be accessed; then nothing is open.
    fn open_ring(&self, id: u32, areas: &[RingArea; 3]) -> Result<(), MemError> {
        let _ = id;
        areas.iter().try_for_each(|area| {
            let blame = |error| MemError {
                gpa: area.at,
                len: area.len,
                ..error
            };
            self.check(area.at, area.len).map_err(blame)
        })
    }

    /// The ring is not used any more; nothing happens if it is not open.
    fn close_ring(&self, id: u32) {
        let _ = id;
    }

    /// Whether the range is RAM now.
    ///
    /// # Errors
    /// [`MemError`] if it is not.
    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError>;

    /// A full barrier: stores before it are seen by others before loads after it are made.
    fn fence(&self);
}
