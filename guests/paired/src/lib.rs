//! The parts of the paired guest that need no hardware.
//!
//! What it is to do ([`plan`]), how it finds its devices and connects to their back ends ([`frontend`]), and the data
//! that it writes and checks ([`pattern`]). The image adds interrupts, memory and the driver itself.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod frontend;
pub mod pattern;
pub mod plan;
