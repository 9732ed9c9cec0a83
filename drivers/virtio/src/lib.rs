//! The device side of virtio 1.3: split and packed rings, and the virtio-mmio transport (version 2).
//!
//! A device is a [`device::Device`]; an [`mmio::MmioTransport`] gives it registers, status and queues. The platform
//! supplies guest memory ([`mem::GuestMemory`]), delivers register accesses and kicks, and raises the interrupt line.
//!
//! Invariants:
//! - nothing the driver does makes this crate panic, loop without a bound, or touch memory outside
//!   [`mem::GuestMemory`];
//! - what the driver can change is read once, the copy is validated, and the copy is used;
//! - nothing allocates.
//!
//! The modules in the order of a request's way: [`mmio`] (registers, device status), [`queue`] (the ring),
//! [`chain`] (one request's buffers), [`pass`] and [`device`] (what serves them), [`fault`] (what happens to a driver that
//! breaks the rules); [`state`] is how one device model leaves what another goes on with.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

#[cfg(feature = "test-util")]
extern crate std;

pub mod chain;
pub mod counters;
pub mod device;
pub mod fault;
pub mod features;
pub mod mem;
pub mod mmio;
pub mod pass;
pub mod queue;
pub mod state;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use chain::{Chain, Span};
pub use device::{Device, DeviceId, Progress};
pub use fault::Fault;
pub use features::Features;
pub use mem::{Cause, Gpa, GuestMemory, MemError, RingArea};
pub use mmio::MmioTransport;
pub use pass::Pass;
pub use queue::Queue;
