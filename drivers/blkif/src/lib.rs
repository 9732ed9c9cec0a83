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
//! Modules: [`wire`] (encoding), [`ring`] (a shared ring), [`platform`] (what the kernel gives), [`disk`] (operations, and
//! what becomes of them when the back end goes), [`handshake`] (states, without I/O), [`nodes`] (values in xenstore),
//! [`vbd`] (both together).
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
pub mod handshake;
pub mod nodes;
pub mod platform;
mod pool;
pub mod ring;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod vbd;
pub mod wire;

/// Sorts a short list. Where nothing hurries, the standard library's ways are too much code.
fn sort_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..list.len() {
        for at in (1..=end).rev() {
            let Some([before, after]) = list.get_mut(at.saturating_sub(1)..=at) else {
                return;
            };
            if key(before) <= key(after) {
                break;
            }
            core::mem::swap(before, after);
        }
    }
}

pub use disk::{Config, Counters, Disk};
pub use platform::{PAGE_SIZE, Platform};
pub use vbd::{Notice, Vbd};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_are_sorted(list in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (mut sorted, mut expected) = (list.clone(), list);
            super::sort_by_key(&mut sorted, |&n| n);
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }
}
