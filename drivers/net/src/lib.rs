//! virtio-net (virtio 1.3, section 5.1), and the switch that joins such devices.
//!
//! A [`NetDevice`] is one port of a [`Switch`]. A frame goes from the sender's buffers straight into those of the
//! receiver: one copy, inside of the guest's memory. What there is no buffer for stays in the sender's until there is
//! one, within bounds of number and time. A switch may have an [`Uplink`], a port whose buffers are pages of this domain's
//! own: one copy as well, between those and the guest's memory.
//!
//! Invariants:
//! - all ports of a switch but its uplink are of one guest, whose memory is given with every pass;
//! - the start of a frame is copied once, checked, and that copy is what receivers get;
//! - work, memory and waiting are bounded for each port, whatever its driver does; what does not fit is dropped, and counted;
//! - nothing is written to a receiver that has been reset, and nothing read for a sender that was;
//! - only the set-up allocates.
//!
//! The modules in the order of a frame's way: [`header`] (what the driver says of it), [`wire`] (what it says of itself),
//! `packet` (what of both is believed), `place` (where its pieces are), [`switch`] (where it goes), `buffers` (where it ends), `segment` and `checksum`
//! (for receivers that want it plain).
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

mod buffers;
mod bytes;
mod checksum;
mod control;
mod counters;
mod deliver;
mod device;
mod features;
pub mod header;
mod learned;
mod packet;
mod place;
mod port;
mod segment;
pub mod switch;
mod uplink;
mod waiting;
pub mod wire;

pub use counters::Counters;
pub use device::NetDevice;
pub use features::NetFeatures;
pub use place::OwnMemory;
pub use port::{MAX_PAIRS, PortConfig};
pub use switch::{AddError, MAX_PORTS, Switch};
pub use uplink::{Arrival, Taken, Takes, Uplink};
pub use wire::Mac;
