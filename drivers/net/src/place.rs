//! Where the pieces of a frame are: in the guest's memory, or in pages that an uplink has.
//!
//! Invariant: what comes from a virtqueue is a place in the guest's memory, whatever its address is; places of the other
//! kind are made from an uplink's numbers only.

use vd_virtio::mem::{Cause, CopyError};
use vd_virtio::queue::Head;
use vd_virtio::{Gpa, GuestMemory, MemError};

/// Memory of this domain's own in which an uplink has frames. Nobody else accesses a part of it while the uplink lets a
/// switch have it.
pub trait OwnMemory {
    /// Lets `with` fill `len` bytes from `at` on, which are on one page.
    fn fill(&self, at: u32, len: usize, with: &mut dyn FnMut(&mut [u8]));

    /// Lets `with` see `len` bytes from `at` on, which are on one page.
    fn drain(&self, at: u32, len: usize, with: &mut dyn FnMut(&[u8]));
}

/// Where a piece starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the guest's memory.
    Guest(Gpa),
    /// In an uplink's.
    Own(u32),
}

impl Place {
    /// So many bytes further. A piece does not wrap.
    pub(crate) fn add(self, bytes: usize) -> Self {
        match self {
            Self::Guest(gpa) => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                Self::Guest(Gpa(gpa.0.saturating_add(bytes)))
            }
            Self::Own(at) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Self::Own(at.saturating_add(bytes))
            }
        }
    }
}

/// A piece of a frame, or of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: Place,
    pub(crate) len: u32,
}

impl Piece {
    /// A piece of the guest's memory.
    pub(crate) fn of_guest((gpa, len): (Gpa, usize)) -> Self {
        Self {
            at: Place::Guest(gpa),
            len: u32::try_from(len).unwrap_or(u32::MAX),
        }
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(0)
    }
}

/// Takes so many bytes away from the start of what the pieces are.
pub(crate) fn skip<const N: usize>(pieces: &mut heapless::Vec<Piece, N>, bytes: usize) {
    let mut left = bytes;
    let mut gone = 0usize;
    for piece in pieces.iter_mut() {
        let here = piece.len().min(left);
        left = left.saturating_sub(here);
        piece.at = piece.at.add(here);
        piece.len = piece.len.saturating_sub(u32::try_from(here).unwrap_or(0));
        if piece.len != 0 {
            break;
        }
        gone = gone.saturating_add(1);
    }
    pieces.drain(..gone);
}

/// Who gets a buffer back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A driver.
    Head(Head),
    /// An uplink, by its own number.
    Uplink(u16),
}

/// All memory that a frame can be in.
pub(crate) struct Frames<'a, M: ?Sized> {
    pub(crate) guest: &'a M,
    pub(crate) own: Option<&'a dyn OwnMemory>,
}

impl<M: GuestMemory + ?Sized> Frames<'_, M> {
    /// There is no place in own memory without it.
    fn own(&self) -> Result<&dyn OwnMemory, MemError> {
        self.own
            .ok_or(MemError::because(Cause::Platform, Gpa(0), 0))
    }

    pub(crate) fn read(&self, from: Place, into: &mut [u8]) -> Result<(), MemError> {
        match from {
            Place::Guest(gpa) => self.guest.read(gpa, into),
            Place::Own(at) => {
                self.own()?.drain(at, into.len(), &mut |bytes| {
                    for (to, from) in into.iter_mut().zip(bytes) {
                        *to = *from;
                    }
                });
                Ok(())
            }
        }
    }

    pub(crate) fn write(&self, to: Place, from: &[u8]) -> Result<(), MemError> {
        match to {
            Place::Guest(gpa) => self.guest.write(gpa, from),
            Place::Own(at) => {
                self.own()?.fill(at, from.len(), &mut |bytes| {
                    for (to, from) in bytes.iter_mut().zip(from) {
                        *to = *from;
                    }
                });
                Ok(())
            }
        }
    }

    /// Copies, once.
    pub(crate) fn copy(&self, from: Place, to: Place, len: usize) -> Result<(), CopyError> {
        let mut result = Ok(());
        match (from, to) {
            (Place::Guest(from), Place::Guest(to)) => return self.guest.copy(from, to, len),
            (Place::Guest(from), Place::Own(at)) => {
                let own = self.own().map_err(CopyError::Target)?;
                own.fill(at, len, &mut |bytes| {
                    result = self.guest.read(from, bytes).map_err(CopyError::Source);
                });
            }
            (Place::Own(at), Place::Guest(to)) => {
                let own = self.own().map_err(CopyError::Source)?;
                own.drain(at, len, &mut |bytes| {
                    result = self.guest.write(to, bytes).map_err(CopyError::Target);
                });
            }
            // A switch has one uplink, and no frame goes back to where it came from.
            (Place::Own(_), Place::Own(_)) => {
                let error = MemError::because(Cause::Platform, Gpa(0), 0);
                return Err(CopyError::Source(error));
            }
        }
        result
    }
}
