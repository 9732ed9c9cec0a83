//! Memory for the virtio driver: guest-physical addresses are virtual ones, unless memory is shared by grant.

use core::ptr::NonNull;

use vd_rt::mem::frames::{self, FRAME};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::grants;

/// The platform of `virtio-drivers`.
#[derive(Debug)]
pub struct Memory;

// SAFETY: `dma_alloc` gives frames that nobody else has, zeroed, and mapped at their own addresses; whatever else is
// shared with a device lies in memory that is mapped likewise, so that its address is what the device needs, or what can
// be granted. What is still granted is not given back.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let start = frames::allocate(pages as u64, 1, false).expect("memory for a ring");
        let place = NonNull::new(start as *mut u8).expect("frame 0 is never free");
        // SAFETY: fresh frames, mapped.
        unsafe { place.write_bytes(0, pages * FRAME as usize) };
        let len = pages as u64 * FRAME;
        (grants::share(start, len, is_readonly(direction)), place)
    }

    unsafe fn dma_dealloc(address: PhysAddr, place: NonNull<u8>, pages: usize) -> i32 {
        if grants::unshare(address, pages as u64 * FRAME) {
            frames::release(place.as_ptr() as u64, pages as u64);
        }
        0
    }

    unsafe fn mmio_phys_to_virt(start: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(start as *mut u8).expect("registers are not at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let at = buffer.cast::<u8>().as_ptr() as PhysAddr;
        grants::share(at, buffer.len() as u64, is_readonly(direction))
    }

    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, _: BufferDirection) {
        grants::unshare(address, buffer.len() as u64);
    }
}

/// Whether the device only reads.
fn is_readonly(direction: BufferDirection) -> bool {
    direction == BufferDirection::DriverToDevice
}
