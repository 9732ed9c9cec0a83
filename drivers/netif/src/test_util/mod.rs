//! For tests: a back end that takes frames and gives frames from the other side of the fake platform, rightly or wrongly.
//!
//! It reads and writes the rings by itself: it shares no code with the front end.
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

pub use backend::{FakeBackend, Received, RingName};
pub use vd_pv::test_util::{FakePlatform, FakeXenbus, Memory};

use crate::pages::FramePages;

impl FramePages for FakePlatform {
    fn fill_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&mut [u8])) {
        assert!(!self.0.borrow().is_granted(page), "the page is granted");
        let mut bytes = self.0.borrow().get(page, at, len);
        with(&mut bytes);
        self.0.borrow_mut().put(page, at, &bytes);
    }

    fn drain_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&[u8])) {
        assert!(!self.0.borrow().is_granted(page), "the page is granted");
        let bytes = self.0.borrow().get(page, at, len);
        with(&bytes);
    }
}
