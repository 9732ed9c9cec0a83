//! For tests: a back end that serves a disk from the other side of the fake platform, rightly or wrongly.
//!
//! The back end reads and writes the ring by itself: it shares no code with the front end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that goes wrong here should stop"
)]

mod backend;

pub use backend::{Cut, FakeBackend, Pending};
pub use vd_pv::test_util::{FakePlatform, FakeXenbus, Memory};
