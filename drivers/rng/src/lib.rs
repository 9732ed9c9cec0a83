//! The virtio entropy device (virtio 1.3, section 5.4).
//!
//! Words of the CPU's generator ([`Source`]) go through health tests ([`health`]) into the seed of a ChaCha20 generator
//! ([`Pool`]), and only that one's output gets to the driver ([`EntropyDevice`]), no more of it than its [`Allowance`].
//! Invariants: no output before a seed of 256 healthy bits; no output after a failed test until a whole start-up test
//! has passed; a request costs a bounded amount of work; nothing allocates.
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

mod allowance;
mod device;
pub mod health;
mod pool;

pub use allowance::Allowance;
pub use device::{Counters, EntropyDevice, MAX_REQUEST};
pub use pool::{Pool, RESEED_BYTES, Source, Trouble};
