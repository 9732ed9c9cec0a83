//! A page that is shared with another party, as the ring code sees it.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use vd_xenbus::ring::SharedPage;

use crate::mem::frames::FRAME;

/// One mapped page.
#[derive(Clone, Copy, Debug)]
pub struct Page(NonNull<u8>);

// SAFETY: every access is atomic.
unsafe impl Send for Page {}
// SAFETY: every access is atomic.
unsafe impl Sync for Page {}

impl Page {
    /// The page at frame `gfn`.
    ///
    /// # Safety
    /// It is mapped writable until the domain ends, and no reference into it exists.
    pub unsafe fn new(gfn: u64) -> Option<Self> {
        NonNull::new((gfn * FRAME) as *mut u8).map(Self)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < FRAME as usize);
        // SAFETY: aligned and inside the page, which stays mapped; every party accesses the
        // indices as whole words.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(offset).cast()) }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < FRAME as usize);
        // SAFETY: inside the page, which stays mapped.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(offset)) }
    }
}

impl SharedPage for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            *byte = self.byte(at).load(Ordering::Relaxed);
        }
    }

    fn write_bytes(&self, offset: usize, from: &[u8]) {
        for (at, &byte) in (offset..).zip(from) {
            self.byte(at).store(byte, Ordering::Relaxed);
        }
    }
}
