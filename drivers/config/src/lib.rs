//! What `vdom` (in dom0) and the driver domain agree on.
//!
//! `vdom` writes what this crate formats, the driver domain reads what this crate parses, so the two cannot disagree:
//! where a device's registers and interrupt are ([`slot`]), what a device is ([`device`], [`devices`], [`vbd`], [`vif`]), where it is
//! written in xenstore ([`keys`]), for whom it is ([`target`]), how it and its driver notify one another ([`notify`], [`xenbus`]) how its slots are declared to the guest ([`table`]), how the driver domain is doing ([`state`], [`counters`]), and how another one takes
//! its place ([`succession`]).
//!
//! Invariant: every parser takes arbitrary bytes and gives a value or a [`ConfigError`] that names the culprit and the
//! remedy; nothing panics or allocates, and no time or text grows beyond what the input's length explains.
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

mod console;
pub mod counters;
pub mod device;
pub mod devices;
pub mod error;
pub mod keys;
mod net;
pub mod notify;
pub mod number;
pub mod size;
pub mod slot;
pub mod state;
pub mod succession;
pub mod table;
pub mod target;
pub mod vbd;
pub mod vif;
pub mod xenbus;

pub use console::{PortName, PortNames};
pub use device::{
    Backend, BlockSize, DeviceDescription, DeviceType, MAX_QUEUES, MAX_VIRTQUEUES, QueueSize,
    Queues, Rate, Serial,
};
pub use devices::Devices;
pub use error::{ConfigError, Excerpt};
pub use net::{MacAddress, Mtu};
pub use notify::{Doorbell, Interrupt, Memory, Reads};
pub use size::ByteSize;
pub use slot::{PciLine, SLOTS, SlotIndex};
pub use state::State;
pub use table::{Declared, Table};
pub use target::{Target, TargetType};
pub use vbd::VirtualDisk;
pub use vif::VirtualInterface;
