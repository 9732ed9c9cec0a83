//! The ring of this protocol: [`vd_pv::ring`] with its sizes.

pub use vd_pv::ring::{Garbage, HEADER};

use crate::wire::{RESPONSE, SLOT};

/// This side of a ring.
pub type Ring = vd_pv::ring::Ring<SLOT, RESPONSE>;

/// How many slots a ring of so many pages has.
pub const fn slots(pages: usize) -> u32 {
    vd_pv::ring::slots(pages, SLOT)
}
