//! Copying from one domain's memory to another's: both are mapped here, as whoever may create domains can.
//!
//! Invariants: nothing refers into what is mapped; both domains may change any byte at any time, which costs at most that
//! the copy is of no use. What is mapped is unmapped with the value.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::PAGE;

/// `struct privcmd_mmapbatch_v2` of Linux's `xen/privcmd.h`.
#[repr(C)]
struct MmapBatch {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

const _: () = assert!(size_of::<MmapBatch>() == 32);

/// `_IOC(_IOC_NONE, 'P', 4, sizeof(struct privcmd_mmapbatch_v2))`.
const IOCTL_PRIVCMD_MMAPBATCH_V2: u64 =
    (size_of::<MmapBatch>() as u64) << 16 | (b'P' as u64) << 8 | 4;

/// A part of a domain's memory.
struct Mapping {
    at: *mut c_void,
    pages: usize,
}

impl Mapping {
    fn new(control: &File, domain: u16, first: u64, pages: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let bytes = pages.checked_mul(PAGE).filter(|bytes| *bytes != 0);
        let bytes = bytes.ok_or_else(|| io::Error::other("no such piece of memory"))?;
        let fd = control.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Self { at, pages };
        let frames: Vec<u64> = (first..).take(pages).collect();
        let mut errors = vec![0; pages];
        // Linux wants all of a mapping in one call.
        let mut call = MmapBatch {
            num: u32::try_from(pages).map_err(io::Error::other)?,
            dom: domain,
            addr: at as u64,
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: the structure is the one that the kernel expects; both lists have as many entries as it says, and the
        // range is the mapping that was just made.
        let result = unsafe { libc::ioctl(fd, IOCTL_PRIVCMD_MMAPBATCH_V2 as _, &raw mut call) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(error) = errors.iter().find(|error| **error != 0) {
            return Err(io::Error::from_raw_os_error(-error));
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this object and nothing refers into it.
        unsafe { libc::munmap(self.at, self.pages * PAGE) };
    }
}

/// A piece of one domain's memory, and its counterpart of another's.
pub(crate) struct Bridge {
    from: Mapping,
    to: Mapping,
    bytes: usize,
}

impl Bridge {
    /// Maps both: domain and address, which is the start of a page.
    pub(crate) fn new(
        control: &File,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let pages = bytes.div_ceil(PAGE);
        let map = |(domain, at): (u16, u64)| Mapping::new(control, domain, at / PAGE as u64, pages);
        Ok(Self {
            from: map(from)?,
            to: map(to)?,
            bytes,
        })
    }

    /// Copies what differs, and says how many bytes that was, in whole pages.
    pub(crate) fn copy(&mut self) -> u64 {
        let mut copied = 0;
        for start in (0..self.bytes).step_by(PAGE) {
            let len = PAGE.min(self.bytes - start);
            // SAFETY: both ranges are inside of their mappings, which do not overlap, and are accessed through C's functions
            // only: there is no reference to them.
            unsafe {
                let (from, to) = (self.from.at.byte_add(start), self.to.at.byte_add(start));
                if libc::memcmp(from, to, len) != 0 {
                    libc::memcpy(to, from, len);
                    copied += len as u64;
                }
            }
        }
        copied
    }
}
