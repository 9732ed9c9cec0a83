//! What all front ends of Xen's PV protocols have in common: a device that another domain serves.
//!
//! Nothing here touches memory or makes a hypercall: the kernel gives a [`Platform`] (its own pages, grants, event
//! channels), and a connection to xenstore. What a device does with its rings is a [`control::Front`]'s.
//!
//! Invariants:
//! - whatever the back end puts on a ring or into xenstore, nothing panics, loops without a bound or grows without a bound;
//! - what a step of the handshake has given is taken back before the next connection.
//!
//! Modules: [`platform`] (what the kernel gives), [`ring`] (a shared ring), [`handshake`] (states, without I/O),
//! [`nodes`] (values in xenstore), [`control`] (all of a device's nodes).
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

pub mod control;
pub mod handshake;
pub mod nodes;
pub mod platform;
pub mod ring;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use control::{Control, Front, NoRoom, Notice, Unusable};
pub use platform::{Access, PAGE_SIZE, Platform};

/// Sorts a short list. Where nothing hurries, the standard library's ways are too much code.
pub fn sort_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
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
