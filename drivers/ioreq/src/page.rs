//! The seam to the shared ioreq page: five accesses, each with its ordering.
//!
//! Invariant for implementors: each method makes exactly one access to the page of the size that is said, never more,
//! and never hands out a reference into it. A slot index that is not below [`SlotPage::slots`] reads as zeroes and
//! drops writes. All ordering between the two sides lives in here, so the code above needs no fence.

use crate::slot::Control;
use crate::types::{EvtchnPort, SlotIndex};

/// A page of 32-byte ioreq slots, shared with Xen.
pub trait SlotPage {
    /// The number of slots that may be touched (at most 128 a page).
    fn slots(&self) -> usize;

    /// Byte 30 of the slot (state and flags). One byte load with *acquire* ordering: what Xen wrote before it set
    /// READY is visible to the [`SlotPage::load`] that follows.
    fn control(&self, slot: SlotIndex) -> Control;

    /// All 32 bytes as four little-endian words, each loaded once (volatile).
    fn load(&self, slot: SlotIndex) -> [u64; 4];

    /// Stores `data` (bytes 8..16). Ordered before a following [`SlotPage::store_control`] by that one's release.
    fn store_data(&self, slot: SlotIndex, data: u64);

    /// Stores byte 30, and nothing else, with *release* ordering.
    fn store_control(&self, slot: SlotIndex, control: Control);

    /// `vp_eport` (bytes 24..28): the port in the guest to bind to. Xen writes it when a server is enabled or a vCPU
    /// is added; it is never written here.
    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort;
}
