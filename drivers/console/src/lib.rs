//! The virtio console device (virtio 1.3, section 5.3): a console, and named ports beside it.
//!
//! Each port has a ring for each direction between its queues and the *host*: whoever reads and writes the port's other
//! end through [`ConsoleDevice`]. The device runs without a host: what the guest prints on the console is kept for the next one.
//!
//! Invariants:
//! - the console never makes the guest wait: Linux spins, with interrupts off, until its output is taken. What does not fit
//!   into the ring pushes the oldest out, and is counted;
//! - a named port loses nothing: what does not fit into its ring stays in the driver's buffers;
//! - a port's bytes leave in the order in which they came, and each of them is read by the host, lost and counted, or still in
//!   the ring;
//! - control messages that wait for the driver are at most one of each kind a port: none of them is a queue that grows;
//! - nothing allocates but [`ConsoleDevice::new`].
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

extern crate alloc;

mod control;
mod counters;
mod device;
mod port;
mod ring;

pub use control::{ConsoleFeatures, NO_PORT, event};
pub use counters::Counters;
pub use device::{ConsoleDevice, MAX_PORTS, PortName, Size};
pub use port::{CONSOLE_BYTES, INPUT_BYTES, PORT_BYTES};
