//! Memory for the virtio driver: guest-physical addresses are virtual ones.

use core::ptr::NonNull;

use vd_rt::mem::frames::{self, FRAME};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// The platform of `virtio-drivers`.
#[derive(Debug)]
pub struct Memory;

// SAFETY: `dma_alloc` gives frames that nobody else has, zeroed, and mapped at their own addresses; whatever else is
// shared with a device lies in memory that is mapped likewise, so that its address is what the device needs.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let start = frames::allocate(pages as u64, 1, false).expect("memory for a ring");
        let place = NonNull::new(start as *mut u8).expect("frame 0 is never free");
        // SAFETY: fresh frames, mapped.
        unsafe { place.write_bytes(0, pages * FRAME as usize) };
        (start, place)
    }

    unsafe fn dma_dealloc(start: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        frames::release(start, pages as u64);
        0
    }

    unsafe fn mmio_phys_to_virt(start: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(start as *mut u8).expect("registers are not at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
