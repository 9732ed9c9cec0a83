//! Pages whose guest-physical address is known.

use core::ptr::NonNull;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A page, or as many bytes elsewhere, mapped for ever.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    bytes: NonNull<u8>,
    /// Its guest-physical address.
    pub gpa: u64,
}

impl Page {
    /// The [`PAGE`] bytes at `bytes`.
    ///
    /// # Safety
    /// They are mapped, for ever, and nothing that Rust knows of is in them.
    #[must_use]
    pub unsafe fn new(bytes: NonNull<u8>, gpa: u64) -> Self {
        Self { bytes, gpa }
    }

    /// The place `offset` bytes in.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < PAGE);
        // SAFETY: inside of the page.
        unsafe { self.bytes.as_ptr().add(offset) }
    }

    /// Loads a number, of any alignment.
    pub fn load<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= PAGE);
        // SAFETY: inside of the page, and `T` is a plain number; a volatile access of it is one instruction on x86,
        // aligned or not.
        unsafe { self.at(offset).cast::<T>().read_volatile() }
    }

    /// Stores a number, of any alignment.
    pub fn store<T: Copy>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= PAGE);
        // SAFETY: as above.
        unsafe { self.at(offset).cast::<T>().write_volatile(value) }
    }

    /// Fills all of it.
    pub fn fill(&self, byte: u8) {
        for offset in 0..PAGE {
            self.store(offset, byte);
        }
    }
}
