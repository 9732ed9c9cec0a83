//! Hypercalls from user space: Linux's `/dev/xen/privcmd`.
//!
//! Invariant: what Xen gets a pointer to is a page that cannot be paged out, moved
//! or copied on write while the call runs.

mod bridge;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

pub(crate) use bridge::Bridge;

/// Size of the one buffer.
pub(crate) const PAGE: usize = 4096;

/// `struct privcmd_hypercall` of Linux's `xen/privcmd.h`.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

const _: () = assert!(size_of::<PrivcmdHypercall>() == 48);

/// `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
const IOCTL_PRIVCMD_HYPERCALL: u64 =
    (size_of::<PrivcmdHypercall>() as u64) << 16 | (b'P' as u64) << 8;

const _: () = assert!(IOCTL_PRIVCMD_HYPERCALL == 0x30_5000);

/// A hypercall's number, from Xen's `public/xen.h`.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Hypercall {
    Domctl = 36,
}

/// The way to Xen, and one page to pass structures in.
#[derive(Debug)]
pub(crate) struct Privcmd {
    control: File,
    buffer: Buffer,
}

impl Privcmd {
    /// Opens the devices.
    pub(crate) fn open() -> io::Result<Self> {
        let read_write = |path| OpenOptions::new().read(true).write(true).open(path);
        let control = read_write("/dev/xen/privcmd").or_else(|error| {
            // The place where it was before there was a device node.
            read_write("/proc/xen/privcmd").map_err(|_| error)
        })?;
        let buffer = match read_write("/dev/xen/hypercall") {
            Ok(device) => Buffer::from_device(&device)?,
            Err(_) => Buffer::locked()?,
        };
        Ok(Self { control, buffer })
    }

    /// Maps a piece of one domain's memory and its counterpart of another's, to copy from the one to the other.
    pub(crate) fn bridge(
        &self,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> io::Result<Bridge> {
        Bridge::new(&self.control, from, to, bytes)
    }

    /// Issues a hypercall whose only argument is a structure that Xen reads and writes. At most a page of it counts.
    pub(crate) fn call(&mut self, number: Hypercall, structure: &mut [u8]) -> io::Result<()> {
        let shared = self.buffer.bytes();
        let length = structure.len().min(PAGE);
        shared.fill(0);
        shared[..length].copy_from_slice(&structure[..length]);
        let address = shared.as_ptr() as u64;
        let mut call = PrivcmdHypercall {
            op: number as u64,
            arg: [address, 0, 0, 0, 0],
        };
        // SAFETY: the request's structure is the one that the kernel expects, and the address in it is that of a page
        // that this object owns and that nobody reads or writes during the call.
        let result = unsafe {
            libc::ioctl(
                self.control.as_raw_fd(),
                IOCTL_PRIVCMD_HYPERCALL as _,
                &raw mut call,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        structure[..length].copy_from_slice(&self.buffer.bytes()[..length]);
        Ok(())
    }
}

/// A page that Xen can reach by its virtual address at any time.
#[derive(Debug)]
struct Buffer(NonNull<u8>);

impl Buffer {
    /// Memory that the kernel keeps in place: what `/dev/xen/hypercall` is for.
    fn from_device(device: &File) -> io::Result<Self> {
        Self::map(libc::MAP_SHARED, device.as_raw_fd())
    }

    /// For kernels without that device: locked memory, which no fork shares.
    fn locked() -> io::Result<Self> {
        let buffer = Self::map(
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED,
            -1,
        )?;
        // SAFETY: the range is the mapping that was just made.
        let result = unsafe { libc::madvise(buffer.0.as_ptr().cast(), PAGE, libc::MADV_DONTFORK) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(buffer)
        }
    }

    fn map(flags: libc::c_int, fd: libc::c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mmap gave no address"))
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable, one page long and lives as long as the object, which is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), PAGE) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this object and no reference into it is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_page_can_be_written_and_read() {
        let mut buffer = Buffer::locked().unwrap();
        buffer.bytes().fill(0xA5);
        assert!(buffer.bytes().iter().all(|byte| *byte == 0xA5));
    }
}
