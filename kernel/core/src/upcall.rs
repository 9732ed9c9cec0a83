//! From an upcall to the event channels that have an event: the 2-level ABI (public/event_channel.h).
//!
//! Xen sets a port's pending bit, then the bit of its word in the selectors, then the flag that an upcall is due.
//!
//! Invariant: each of the three is cleared before what it stands for is looked at, so that an event that comes
//! meanwhile raises it again and is not lost.

use core::sync::atomic::Ordering;

use crate::handover::Word;

/// Ports in a word of pending bits, as a power of two.
const WORD_SHIFT: u32 = 6;

/// What Xen and an upcall handler share.
pub trait Events {
    /// A word of bits.
    type Word: Word;

    /// Clears the flag that an upcall is due, with acquire ordering; returns what it was.
    fn take_upcall(&self) -> bool;

    /// Which words of the pending bits have something.
    fn selectors(&self) -> &Self::Word;

    /// The pending bits of 64 ports.
    fn pending(&self, word: usize) -> &Self::Word;

    /// The mask bits of 64 ports.
    fn mask(&self, word: usize) -> &Self::Word;
}

/// Serves every port that has an event and is not masked, until no upcall is due.
pub fn serve<E: Events>(events: &E, mut port: impl FnMut(usize)) {
    // The flag is cleared first: an event that comes while the words are walked raises another upcall.
    while events.take_upcall() {
        for word in bits(events.selectors().swap(0, Ordering::AcqRel)) {
            let pending = events.pending(word);
            let mask = events.mask(word).load(Ordering::Relaxed);
            for bit in bits(pending.load(Ordering::Acquire) & !mask) {
                pending.fetch_and(!(1 << bit), Ordering::AcqRel);
                port(word << WORD_SHIFT | bit);
            }
        }
    }
}

/// The numbers of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = usize::try_from(word.trailing_zeros()).ok()?;
        let found = word != 0;
        word &= word.wrapping_sub(1);
        found.then_some(bit)
    })
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU64};
    use std::vec::Vec;

    use super::*;

    struct Page {
        due: AtomicBool,
        selectors: AtomicU64,
        pending: [AtomicU64; 64],
        mask: [AtomicU64; 64],
    }

    impl Page {
        fn new() -> Self {
            Page {
                due: AtomicBool::new(false),
                selectors: AtomicU64::new(0),
                pending: [const { AtomicU64::new(0) }; 64],
                mask: [const { AtomicU64::new(0) }; 64],
            }
        }

        fn raise(&self, port: usize) {
            self.pending[port / 64].fetch_or(1 << (port % 64), Ordering::SeqCst);
            self.selectors.fetch_or(1 << (port / 64), Ordering::SeqCst);
            self.due.store(true, Ordering::SeqCst);
        }
    }

    impl Events for Page {
        type Word = AtomicU64;

        fn take_upcall(&self) -> bool {
            self.due.swap(false, Ordering::AcqRel)
        }

        fn selectors(&self) -> &AtomicU64 {
            &self.selectors
        }

        fn pending(&self, word: usize) -> &AtomicU64 {
            &self.pending[word]
        }

        fn mask(&self, word: usize) -> &AtomicU64 {
            &self.mask[word]
        }
    }

    #[test]
    fn every_port_is_found_once() {
        let page = Page::new();
        for raised in [0, 63, 64, 4095] {
            page.raise(raised);
        }
        let mut found = Vec::new();
        serve(&page, |port| found.push(port));
        assert_eq!(found, [0, 63, 64, 4095]);
        serve(&page, |port| panic!("{port} again"));
    }

    #[test]
    fn a_masked_port_stays_pending() {
        let page = Page::new();
        page.mask[1].store(2, Ordering::SeqCst);
        page.raise(65);
        page.raise(66);
        let mut found = Vec::new();
        serve(&page, |port| found.push(port));
        assert_eq!(found, [66]);
        assert_eq!(page.pending[1].load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_event_that_comes_while_its_port_is_served_is_served_again() {
        let page = Page::new();
        page.raise(70);
        let mut times = 0;
        serve(&page, |port| {
            times += 1;
            if times < 3 {
                page.raise(port);
            }
        });
        assert_eq!(times, 3);
    }
}
