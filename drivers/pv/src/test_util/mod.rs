//! For tests: a platform whose pages, grants and event channels are plain data, a device in a fake xenstore, and a C compiler
//! that is asked what Xen's headers say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that goes wrong here should stop"
)]

mod headers;
mod platform;
mod xenbus;

pub use headers::{Answers, ask_c, hex};
pub use platform::{FakePlatform, Memory};
pub use xenbus::FakeXenbus;
