//! Pages whose guest-physical address is known, and the window of registers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::NonNull;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// A mapped page that stays mapped for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    bytes: NonNull<u8>,
    /// Its guest-physical address.
    pub(crate) gpa: u64,
}

fn map(file: Option<(&File, u64)>) -> io::Result<NonNull<u8>> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED,
    };
    let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            offset.cast_signed(),
        )
    };
    match NonNull::new(address.cast()) {
        Some(bytes) if address != libc::MAP_FAILED => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Page {
    /// A page of RAM, zeroed.
    ///
    /// # Errors
    /// The system's, as when this is not root.
    pub(crate) fn ram() -> io::Result<Self> {
        let bytes = map(None)?;
        let mut entry = [0; 8];
        let index = bytes.as_ptr() as u64 / PAGE as u64;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, index * 8)?;
        let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
        if frame == 0 {
            return Err(io::Error::other(
                "/proc/self/pagemap tells no frame numbers: not root?",
            ));
        }
        Ok(Self {
            bytes,
            gpa: frame * PAGE as u64,
        })
    }

    /// The registers at a guest-physical address.
    ///
    /// # Errors
    /// The system's, as when a driver has them.
    pub(crate) fn registers(gpa: u64) -> io::Result<Self> {
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_SYNC)
            .open("/dev/mem")?;
        Ok(Self {
            bytes: map(Some((&memory, gpa)))?,
            gpa,
        })
    }

    /// The place `offset` bytes in.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < PAGE);
        // SAFETY: inside of the page.
        unsafe { self.bytes.as_ptr().add(offset) }
    }

    /// Loads a number, of any alignment.
    pub(crate) fn load<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= PAGE);
        // SAFETY: inside of the page, and `T` is a plain number; a volatile access of it is one instruction on x86,
        // aligned or not.
        unsafe { self.at(offset).cast::<T>().read_volatile() }
    }

    /// Stores a number, of any alignment.
    pub(crate) fn store<T: Copy>(&self, offset: usize, value: T) {
        assert!(offset + size_of::<T>() <= PAGE);
        // SAFETY: as above.
        unsafe { self.at(offset).cast::<T>().write_volatile(value) }
    }

    /// Fills all of it.
    pub(crate) fn fill(&self, byte: u8) {
        for offset in 0..PAGE {
            self.store(offset, byte);
        }
    }
}
