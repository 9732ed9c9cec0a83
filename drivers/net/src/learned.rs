//! The addresses that were seen behind a port: bounded, and forgotten with time.
//!
//! Each port has a table of its own, so that a port that shows many addresses displaces only its own.

use crate::wire::{Mac, mix};

const SETS: usize = 16;
const WAYS: usize = 4;
/// Ticks after which an address that was not seen is forgotten.
pub(crate) const AGE: u32 = 600;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Mac,
    seen: u32,
}

/// Addresses with the ticks when they were last seen.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    sets: [[Option<Entry>; WAYS]; SETS],
}

impl Learned {
    pub(crate) const NONE: Self = Self {
        sets: [[None; WAYS]; SETS],
    };

    fn index(mac: Mac) -> usize {
        let [a, b, c, d, e, f] = mac.0;
        let low = u32::from_be_bytes([c, d, e, f]);
        let high = u32::from(u16::from_be_bytes([a, b]));
        let hash = mix(low ^ high.wrapping_mul(0x9e37_79b1));
        usize::try_from(hash).unwrap_or(0) & SETS.saturating_sub(1)
    }

    /// Whether it is known, and was seen lately.
    pub(crate) fn contains(&self, mac: Mac, now: u32) -> bool {
        let set = self.sets.get(Self::index(mac));
        set.into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.mac == mac && now.wrapping_sub(entry.seen) < AGE)
    }

    /// It was seen. The one that was not for the longest time gives way.
    pub(crate) fn learn(&mut self, mac: Mac, now: u32) {
        let Some(set) = self.sets.get_mut(Self::index(mac)) else {
            return;
        };
        let known = set.iter_mut().flatten().find(|entry| entry.mac == mac);
        if let Some(entry) = known {
            entry.seen = now;
            return;
        }
        let age = |entry: &Option<Entry>| match entry {
            None => u32::MAX,
            Some(entry) => now.wrapping_sub(entry.seen),
        };
        if let Some(place) = set.iter_mut().max_by_key(|entry| age(entry)) {
            *place = Some(Entry { mac, seen: now });
        }
    }

    /// It is elsewhere now.
    pub(crate) fn forget(&mut self, mac: Mac) {
        if let Some(set) = self.sets.get_mut(Self::index(mac)) {
            for place in set {
                if place.is_some_and(|entry| entry.mac == mac) {
                    *place = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Learn(u8),
        Forget(u8),
        Wait(u32),
    }

    proptest! {
        /// What it knows was learnt and not forgotten; what was learnt last is known.
        #[test]
        fn it_knows_nothing_that_was_not_shown(
            steps in prop::collection::vec(
                prop_oneof![
                    4 => any::<u8>().prop_map(Step::Learn),
                    1 => any::<u8>().prop_map(Step::Forget),
                    1 => (0u32..400).prop_map(Step::Wait),
                ],
                0..400,
            ),
            start in any::<u32>(),
        ) {
            let mac = |n| Mac([2, 0, 0, 0, 0, n]);
            let mut table = Learned::NONE;
            let mut model = HashMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    Step::Learn(n) => {
                        table.learn(mac(n), now);
                        model.insert(n, now);
                        prop_assert!(table.contains(mac(n), now));
                    }
                    Step::Forget(n) => {
                        table.forget(mac(n));
                        model.remove(&n);
                    }
                    Step::Wait(ticks) => now = now.wrapping_add(ticks),
                }
                for n in 0..=255 {
                    let fresh = model.get(&n).is_some_and(|&seen| now.wrapping_sub(seen) < AGE);
                    prop_assert!(fresh || !table.contains(mac(n), now));
                }
            }
        }
    }

    #[test]
    fn a_few_addresses_all_fit() {
        let mut table = Learned::NONE;
        for n in 0..4 {
            table.learn(Mac([2, 0, 0, 0, 0, n]), 7);
        }
        assert!((0..4).all(|n| table.contains(Mac([2, 0, 0, 0, 0, n]), 7)));
    }
}
