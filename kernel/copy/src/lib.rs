//! Copies of memory that others write to at the same time: a guest's, by a domain that has mapped it.
//!
//! Each is made of single machine accesses, so that what the guest does meanwhile shows in the copied bytes and nowhere
//! else. How a copy is done depends on its length, and on what the CPU says of itself once ([`choose`]):
//!
//! | bytes | | |
//! |---|---|---|
//! | below 64 | moves of 8 bytes and of what is left | a descriptor, a header, a status: starting a string instruction costs more than they do |
//! | from 64 on | `rep movsb` | where CPUID says that it is fast (ERMS) |
//! | | `rep movsq`, and moves of what is left | elsewhere, where `rep movsb` goes byte by byte |

#![no_std]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes from which on a string instruction is used.
const STRING: usize = 64;
/// CPUID leaf 7, EBX: enhanced `rep movsb` and `rep stosb`.
const ERMS: u32 = 1 << 9;

/// Whether `rep movsb` is fast. What is slower is right everywhere.
static ENHANCED: AtomicBool = AtomicBool::new(false);

/// Has this CPU asked what it does fast; until then all copies are right, some slower. Returns whether it is `rep movsb`.
pub fn choose() -> bool {
    let enhanced = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & ERMS != 0;
    ENHANCED.store(enhanced, Ordering::Relaxed);
    enhanced
}

/// Copies `len` bytes.
///
/// # Safety
/// `from` can be read and `to` be written for `len` bytes, and nothing at `to` is what Rust knows of otherwise. Others may
/// write to both meanwhile. If the two overlap, what is in the common bytes afterwards is not said.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if len < STRING {
            words(from, to, len);
        } else if ENHANCED.load(Ordering::Relaxed) {
            bytes(from, to, len);
        } else {
            quadwords(from, to, len);
        }
    }
}

/// One move by way of a register of that name's size.
macro_rules! move_one {
    ($from:expr, $to:expr, $class:ident, $register:literal) => {
        asm!(
            concat!("mov {value", $register, "}, [{from}]"),
            concat!("mov [{to}], {value", $register, "}"),
            from = in(reg) $from,
            to = in(reg) $to,
            value = out($class) _,
            options(nostack, preserves_flags),
        )
    };
}

/// Fewer than [`STRING`] bytes, from the first to the last.
#[inline]
unsafe fn words(mut from: *const u8, mut to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; each move is of as many bytes as are left at least.
    unsafe {
        for _ in 0..len >> 3 {
            move_one!(from, to, reg, ":r");
            (from, to) = (from.add(8), to.add(8));
        }
        rest(from, to, len);
    }
}

/// The bytes that are left behind the last multiple of eight.
#[inline]
unsafe fn rest(mut from: *const u8, mut to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; as above.
    unsafe {
        if len & 4 != 0 {
            move_one!(from, to, reg, ":e");
            (from, to) = (from.add(4), to.add(4));
        }
        if len & 2 != 0 {
            move_one!(from, to, reg, ":x");
            (from, to) = (from.add(2), to.add(2));
        }
        if len & 1 != 0 {
            move_one!(from, to, reg_byte, "");
        }
    }
}

/// All of them with `rep movsb`.
#[inline]
unsafe fn bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Eight at a time with `rep movsq`, then what is left.
#[inline]
unsafe fn quadwords(from: *const u8, to: *mut u8, len: usize) {
    let (end_from, end_to): (*const u8, *mut u8);
    // SAFETY: the caller's promise; the direction flag is clear by the ABI; the instruction leaves both pointers behind
    // what it has copied.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") len >> 3 => _,
            inout("rsi") from => end_from,
            inout("rdi") to => end_to,
            options(nostack, preserves_flags),
        );
        rest(end_from, end_to, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 320;
    type Copy = unsafe fn(*const u8, *mut u8, usize);

    /// Every length, from every alignment to every other: these bytes, and none beside them.
    fn check(copy: Copy, lengths: core::ops::Range<usize>) {
        let source: [u8; ROOM] = core::array::from_fn(|at| (at * 7 + at / 256 + 1) as u8);
        for len in lengths {
            for (from, to) in (0..8).flat_map(|from| (0..8).map(move |to| (from, to))) {
                let mut target = [0xee; ROOM];
                // SAFETY: inside of both.
                unsafe { copy(source[from..].as_ptr(), target[to..].as_mut_ptr(), len) };
                let mut expected = [0xee; ROOM];
                expected[to..to + len].copy_from_slice(&source[from..from + len]);
                assert_eq!(target, expected, "{len} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn every_way_copies_what_it_should() {
        check(words, 0..STRING);
        check(bytes, 0..ROOM - 8);
        check(quadwords, 0..ROOM - 8);
    }

    #[test]
    fn before_and_after_the_cpu_was_asked() {
        check(copy, 0..ROOM - 8);
        let enhanced = choose();
        assert_eq!(enhanced, choose());
        check(copy, 0..ROOM - 8);
    }
}
