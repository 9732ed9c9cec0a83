//! A disk in the device's own memory.

use vd_virtio::{GuestMemory, Span};

use crate::backend::{Backend, BackendError, SECTOR};

/// A disk in `S`: a whole number of sectors, what is left over is not used. Its content ends with the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamDisk<S> {
    bytes: S,
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> RamDisk<S> {
    /// The disk whose content is `bytes`.
    pub const fn new(bytes: S) -> Self {
        Self { bytes }
    }

    /// Where its content is.
    pub fn storage(&self) -> &S {
        &self.bytes
    }

    fn range(&mut self, offset: u64, len: u64) -> Result<&mut [u8], BackendError> {
        let start = usize::try_from(offset).map_err(|_| BackendError::Io)?;
        let len = usize::try_from(len).map_err(|_| BackendError::Io)?;
        let end = start.checked_add(len).ok_or(BackendError::Io)?;
        self.bytes
            .as_mut()
            .get_mut(start..end)
            .ok_or(BackendError::Io)
    }
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> Backend for RamDisk<S> {
    fn sectors(&self) -> u64 {
        u64::try_from(self.bytes.as_ref().len()).unwrap_or(u64::MAX) / SECTOR
    }

    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        offset: u64,
        into: Span<'_>,
    ) -> Result<(), BackendError> {
        Ok(into.write(mem, self.range(offset, into.len())?)?)
    }

    fn write<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        offset: u64,
        from: Span<'_>,
    ) -> Result<(), BackendError> {
        Ok(from.read(mem, self.range(offset, from.len())?)?)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _unmap: bool) -> Result<(), BackendError> {
        self.range(offset, len).map(|range| range.fill(0))
    }

    /// Zeroes, so that what was discarded does not come back from memory.
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BackendError> {
        self.write_zeroes(offset, len, true)
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}
