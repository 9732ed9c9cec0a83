//! Fakes, for tests: a shared page in ordinary memory, and an in-memory xenstored behind it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing
)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod page;
mod xenstored;

pub use page::{FakePage, FakeSignal};
pub use xenstored::{FakeXenstored, Tamper};
