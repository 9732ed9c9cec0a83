//! The runtime that every image stands on.
//!
//! From the boot path to the image's own code and back out: descriptor tables and traps (`arch`), memory (`mem`),
//! Xen's rings, events and clock (`xen`), log lines (`log`), and the way out when something is broken (`panic`).
//! The image supplies the functions of `image`. There is no policy in here: what the domain is for is the image's.
//!
//! For any other target than `x86_64-unknown-none` this crate is empty.

#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod arch;
pub mod counters;
mod entry;
pub mod image;
pub mod log;
pub mod mem;
pub mod panic;
pub mod xen;
