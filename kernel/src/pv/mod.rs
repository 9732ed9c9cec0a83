//! What devices that other domains serve have in common: pages, grants, events.
//!
//! [`pages`] has a device's pages and [`grants`] lets a back end into them, [`signals`] takes its events, [`connections`]
//! looks after what xenstore has of them.

pub mod connections;
mod grants;
mod pages;
pub mod signals;

use core::fmt;

use vd_config::{SLOTS, SlotIndex, VirtualInterface};

pub use pages::Pages;

/// A device that another domain serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The disk of the device in a slot.
    Disk(SlotIndex),
    /// A network interface, and the how-manyth of the description it is.
    Vif(VirtualInterface, usize),
}

impl Served {
    /// Its number among all: first come the slots, then the interfaces. There are no more of those than of slots.
    pub fn index(self) -> usize {
        match self {
            Self::Disk(slot) => slot.index(),
            Self::Vif(_, index) => SLOTS + index % SLOTS,
        }
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(slot) => write!(f, "device {slot}"),
            Self::Vif(vif, _) => write!(f, "network interface {vif}"),
        }
    }
}
