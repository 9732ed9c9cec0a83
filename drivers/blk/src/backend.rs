//! What a block device needs from its storage.

use vd_virtio::{GuestMemory, MemError, Span};

/// Bytes of a sector, the unit of every number on the wire (virtio 1.3, 5.2.6).
pub const SECTOR: u64 = 512;

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// The guest's buffer is not RAM: the driver's fault.
    Guest(MemError),
    /// The storage failed, or is smaller than it was.
    Io,
}

impl From<MemError> for BackendError {
    fn from(error: MemError) -> Self {
        Self::Guest(error)
    }
}

/// Storage. Ranges are in bytes, whole sectors, and inside of what [`Backend::sectors`] said.
pub trait Backend {
    /// Its size in sectors of 512 bytes.
    fn sectors(&self) -> u64;

    /// Copies from `offset` on into all of `into`.
    ///
    /// # Errors
    /// [`BackendError`]; a part may have been written.
    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        offset: u64,
        into: Span<'_>,
    ) -> Result<(), BackendError>;

    /// Copies all of `from` to `offset` on.
    ///
    /// # Errors
    /// [`BackendError`]; a part may have been stored.
    fn write<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        offset: u64,
        from: Span<'_>,
    ) -> Result<(), BackendError>;

    /// Makes the range read as zeroes; with `unmap` its storage may be given back.
    ///
    /// # Errors
    /// [`BackendError::Io`].
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> Result<(), BackendError>;

    /// The content of the range is not needed any more.
    ///
    /// # Errors
    /// [`BackendError::Io`].
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BackendError>;

    /// Returns when everything written is as durable as this storage can make it.
    ///
    /// # Errors
    /// [`BackendError::Io`].
    fn flush(&mut self) -> Result<(), BackendError>;
}
