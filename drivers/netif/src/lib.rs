//! The front end of Xen's PV network protocol (public/io/netif.h): a network interface that another domain serves, as the
//! uplink of a switch of virtio-net devices.
//!
//! Nothing here touches memory or makes a hypercall: the kernel gives a [`FramePages`] (its own pages, grants, event
//! channels), and a connection to xenstore. All the rest runs on the host as well.
//!
//! Invariants:
//! - whatever the back end puts on a ring or into xenstore, nothing panics, loops without a bound or grows without a bound;
//!   a connection whose back end breaks the protocol is ended;
//! - a page is granted, or this domain accesses it, never both: what has come in cannot change any more when it is looked
//!   at, and of what goes out the back end sees the frame's pages and nothing later;
//! - one copy: between the guest's memory and a page;
//! - nothing allocates on the way of a frame.
//!
//! Modules: [`wire`] (encoding), `pages` (who has which page), `incoming` (a frame from several slots), [`vif`] (rings),
//! [`nodes`] (values in xenstore), [`uplink`] (all of it for a switch, and for [`vd_pv::control`]).
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
#[cfg(feature = "test-util")]
extern crate std;

mod counters;
mod incoming;
pub mod nodes;
mod pages;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod uplink;
pub mod vif;
pub mod wire;

pub use counters::Counters;
pub use pages::FramePages;
pub use uplink::Uplink;
pub use vif::{PAGES, Properties, Vif};
