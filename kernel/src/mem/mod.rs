//! The guest's memory; the domain's own is the runtime's.

pub mod foreign;
pub mod grants;
pub mod guest;

pub use vd_rt::mem::{frames, heap, space};

/// Copies with `rep movsb`, which the CPU does in the widest pieces it has.
///
/// # Safety
/// Both ranges are valid for `len` bytes; other writers to them are tolerated, as the
/// copy is made of single machine accesses, not of Rust reads.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}
