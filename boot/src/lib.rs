//! From Xen's PVH entry to a sane 64-bit environment.
//!
//! Xen enters the image in 32-bit protected mode with paging off and the address
//! of `hvm_start_info` in `ebx` (public/arch-x86/hvm/start_info.h). This crate
//! holds the three steps from there:
//!
//! 1. `entry` (images only): the PVH ELF note and the switch to long mode on
//!    provisional page tables that map the low 4 GiB;
//! 2. [`start_info`]: the hand-over structures, copied and validated into a
//!    [`BootInfo`](start_info::BootInfo) before anything believes them;
//! 3. [`paging`]: the final page tables, in which no page is both writable and
//!    executable and the page below every stack is missing.
//!
//! Everything but `entry` runs under test on the host.

#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_os = "none")]
pub mod entry;
pub mod paging;
pub mod start_info;
