//! The virtio block device (virtio 1.3, section 5.2) and what it stores to.
//!
//! [`BlockDevice`] checks a request and answers it at once; a [`Backend`] moves the data. [`AsyncBlockDevice`] has many
//! requests under way; an [`AsyncBackend`] finishes them in any order. Invariants: a back end is only asked for ranges
//! inside of its capacity; what goes wrong in it becomes a status of the one request; what the driver gets wrong about its
//! own memory breaks the device; nothing allocates once a device is made.
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

mod arena;
mod async_device;
pub mod backend;
pub mod config;
mod counters;
mod device;
pub mod later;
mod parts;
mod ram;
pub mod request;
mod table;

pub use async_device::{AsyncBlockDevice, MAX_QUEUES, Queues, Room, Wake};
pub use backend::{Backend, BackendError, SECTOR};
pub use config::Geometry;
pub use counters::Counters;
pub use device::BlockDevice;
pub use later::AsyncBackend;
pub use ram::RamDisk;
