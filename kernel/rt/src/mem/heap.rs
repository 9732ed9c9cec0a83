//! The heap: for set-up and the control plane only. Nothing on the data path, and
//! no interrupt handler, allocates.
//!
//! Invariant: a block lies in the piece that it was taken from, and no two pieces overlap.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;

use super::frames::{self, FRAME};
use crate::arch::IrqLock;
use crate::counters;

/// Bytes of heap: what the tables of most guests take.
pub const HEAP_BYTES: u64 = 2 << 20;
/// Bytes of each piece that is added when that is not enough: sixteen devices with four pairs of queues and a network
/// interface each take 3.6 MiB, and there can be twice as many.
const MORE_BYTES: u64 = 1 << 20;
/// Most pieces.
const PIECES: usize = 9;

struct Global(IrqLock<[Heap; PIECES]>);

#[global_allocator]
static GLOBAL: Global = Global(IrqLock::new([const { Heap::empty() }; PIECES]));

/// Gives the heap its memory.
///
/// # Safety
/// Call once; `start..start + HEAP_BYTES` is mapped writable and nobody else's.
pub unsafe fn init(start: *mut u8) {
    // SAFETY: the caller's promise.
    GLOBAL
        .0
        .with(|[first, ..]| unsafe { first.init(start, HEAP_BYTES as usize) });
}

/// Bytes in use.
pub fn used() -> usize {
    GLOBAL.0.with(|pieces| pieces.iter().map(Heap::used).sum())
}

/// Makes another piece of what RAM there is, if that helps with a block of so many bytes.
fn grow(pieces: &mut [Heap; PIECES], bytes: usize) -> Option<&mut Heap> {
    let mut more = pieces.iter_mut().skip(1);
    let piece = more.find(|piece| piece.size() == 0 && bytes < MORE_BYTES as usize)?;
    let start = frames::allocate(MORE_BYTES / FRAME, 1, false).ok()?;
    // SAFETY: fresh frames of RAM, which is all mapped by now; the piece is empty.
    unsafe { piece.init(start as *mut u8, MORE_BYTES as usize) };
    Some(piece)
}

// SAFETY: `Heap` hands out disjoint blocks of its own memory, and the lock makes
// every operation on it exclusive.
unsafe impl GlobalAlloc for Global {
    // Not inlined: there are more than a hundred calls.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counters::add(&counters::ALLOCATIONS, 1);
        let block = self.0.with(|pieces| {
            let mut there = pieces.iter_mut();
            let block = there.find_map(|piece| piece.allocate_first_fit(layout).ok());
            block.or_else(|| grow(pieces, layout.size())?.allocate_first_fit(layout).ok())
        });
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            let at = block.as_ptr();
            self.0.with(|pieces| {
                let mut there = pieces.iter_mut().filter(|piece| piece.size() != 0);
                if let Some(piece) = there.find(|it| (it.bottom()..it.top()).contains(&at)) {
                    // SAFETY: the caller got `block` from `alloc` with this layout, and it is in this piece.
                    unsafe { piece.deallocate(block, layout) }
                }
            });
        }
    }
}
