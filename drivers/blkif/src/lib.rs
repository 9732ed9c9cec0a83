//! The front end of Xen's PV block protocol (public/io/blkif.h): a disk that another domain serves.
//!
//! Nothing here touches memory or makes a hypercall: the kernel gives a [`Platform`] (its own pages, grants, event
//! channels), and a connection to xenstore. All the rest runs on the host as well.
//!
//! Invariants:
//! - whatever the back end puts on a ring or into xenstore, nothing panics, loops without a bound or grows without a bound;
//!   a ring whose back end breaks the protocol is not used any more;
//! - only pages of this domain's own pool are granted, and one is used for something else only when no back end can reach
//!   it any more;
//! - every operation that was taken ends exactly once, over any number of connections;
//! - nothing allocates on the way of a request.
//!
//! Modules: [`wire`] (encoding), [`ring`] (its rings' sizes), [`disk`] (operations, and what becomes of them when the back
//! end goes), [`nodes`] (values in xenstore), [`vbd`] (the disk for [`vd_pv`], which has what all protocols have in common).
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

pub mod disk;
pub mod nodes;
mod pool;
pub mod ring;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod vbd;
pub mod wire;

pub use disk::{Config, Counters, Disk};
pub use vbd::{Notice, Vbd};
pub use vd_pv::{PAGE_SIZE, Platform, handshake, platform};
