//! The heap: for set-up and the control plane only. Nothing on the data path, and
//! no interrupt handler, allocates.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;

use crate::arch::IrqLock;

/// Bytes of heap: twice what the tables of the largest guest take.
pub const HEAP_BYTES: u64 = 2 << 20;

struct Global(IrqLock<Heap>);

#[global_allocator]
static GLOBAL: Global = Global(IrqLock::new(Heap::empty()));

/// Gives the heap its memory.
///
/// # Safety
/// Call once; `start..start + HEAP_BYTES` is mapped writable and nobody else's.
pub unsafe fn init(start: *mut u8) {
    // SAFETY: the caller's promise.
    GLOBAL
        .0
        .with(|heap| unsafe { heap.init(start, HEAP_BYTES as usize) });
}

/// Bytes in use.
pub fn used() -> usize {
    GLOBAL.0.with(|heap| heap.used())
}

// SAFETY: `Heap` hands out disjoint blocks of its own memory, and the lock makes
// every operation on it exclusive.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.with(|heap| heap.allocate_first_fit(layout));
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with this layout.
            self.0
                .with(|heap| unsafe { heap.deallocate(block, layout) });
        }
    }
}
