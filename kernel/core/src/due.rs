//! The devices that a pass of the main loop looks at: those with something to do, whatever the number of others.
//!
//! Invariant: whoever gives a device something to do marks it afterwards, and a pass takes the marks before it looks at the
//! devices. What a pass leaves to be done is marked again by the pass.

use vd_config::SLOTS;

/// A bit for each slot. There are bits left for what is no slot.
pub const ALL: u64 = {
    assert!(SLOTS < 64);
    (1 << SLOTS) - 1
};

/// Slots with something to do, as bits, and whose turn comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    slots: u64,
    first: u32,
}

impl Due {
    /// Nobody has looked yet: all of them.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: ALL,
            first: 0,
        }
    }

    /// This slot is to be looked at.
    pub fn mark(&mut self, slot: usize) {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.slots |= 1u64.checked_shl(slot).unwrap_or(0) & ALL;
    }

    /// All slots are.
    pub fn mark_all(&mut self) {
        self.slots = ALL;
    }

    /// Takes the marks, and `more`, for a pass. What devices share the first gets most of, so each slot in its turn is the first.
    pub fn take(&mut self, more: u64) -> Turns {
        let slots = core::mem::take(&mut self.slots) | more & ALL;
        let behind = ALL.checked_shl(self.first).unwrap_or(0);
        self.first = self
            .first
            .wrapping_add(1)
            .checked_rem(ALL.count_ones())
            .unwrap_or(0);
        Turns {
            now: slots & behind,
            then: slots & !behind,
        }
    }
}

impl Default for Due {
    fn default() -> Self {
        Self::new()
    }
}

/// The slots of a pass in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    now: u64,
    then: u64,
}

impl Turns {
    /// All of these, as bits.
    #[must_use]
    pub fn slots(self) -> u64 {
        self.now | self.then
    }

    /// These slots, from the lowest on.
    #[must_use]
    pub fn of(slots: u64) -> Self {
        Self {
            now: slots,
            then: 0,
        }
    }
}

impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.now == 0 {
            self.now = core::mem::take(&mut self.then);
        }
        let slot = self.now.trailing_zeros();
        // Without its lowest bit; there may be none.
        self.now &= self.now.wrapping_sub(1);
        (slot < u64::BITS).then_some(slot as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn take(due: &mut Due, more: u64) -> Vec<usize> {
        due.take(more).collect()
    }

    #[test]
    fn at_first_all_are_looked_at_and_each_is_the_first_once() {
        let mut due = Due::new();
        for pass in 0..3 * SLOTS {
            let mut expected: Vec<usize> = (0..SLOTS).collect();
            expected.rotate_left(pass % SLOTS);
            assert_eq!(take(&mut due, 0), expected, "{pass}");
            due.mark_all();
        }
    }

    /// Sets of slots: all that there are of twelve slots at either end and of every second slot, and some of all slots.
    fn sets() -> impl Iterator<Item = u64> {
        const FEW: usize = 12;
        let spread =
            |set: u64| (0..FEW).fold(0, |sum, bit| sum | (set >> bit & 1) << (2 * bit + 1));
        let of_few =
            (0..1_u64 << FEW).flat_map(move |set| [set, set << (SLOTS - FEW), spread(set)]);
        // An odd number's multiples are all over the place.
        let others = (0..4096_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11 & ALL);
        of_few.chain(others).chain([ALL])
    }

    #[test]
    fn every_set_of_slots_comes_once_and_in_turn() {
        let mut due = Due::new();
        take(&mut due, 0);
        let sets: Vec<u64> = sets().collect();
        // So that every set meets every first slot: their number has no divisor in common with that of the slots.
        assert!(!sets.len().is_multiple_of(2) && SLOTS.is_power_of_two());
        for (pass, &slots) in sets.iter().cycle().take(sets.len() * SLOTS).enumerate() {
            let first = (pass + 1) % SLOTS;
            // Half of them marked, the others told of by somebody else.
            let marked = slots & 0x5555_5555_5555_5555;
            Turns::of(marked).for_each(|slot| due.mark(slot));
            let turns = due.take(slots & !marked);
            assert_eq!(turns.slots(), slots);
            let order = (first..SLOTS).chain(0..first);
            let expected = order.filter(|slot| slots >> slot & 1 != 0);
            assert!(turns.eq(expected), "{first}: {slots:#x}");
            assert_eq!(due.slots, 0, "taken");
        }
    }

    #[test]
    fn what_is_marked_while_a_pass_goes_on_is_for_the_next_one() {
        let mut due = Due::new();
        for slot in due.take(0) {
            if slot % 3 == 0 {
                due.mark(slot);
            }
        }
        let left: Vec<usize> = (0..SLOTS).filter(|slot| slot % 3 == 0).collect();
        let mut again = take(&mut due, 0);
        again.sort_unstable();
        assert_eq!(again, left);
        assert!(take(&mut due, 0).is_empty());
    }

    #[test]
    fn what_is_no_slot_is_never_due() {
        let mut due = Due::new();
        take(&mut due, 0);
        for slot in [SLOTS, 63, 64, 65, usize::MAX] {
            due.mark(slot);
        }
        assert!(take(&mut due, !ALL).is_empty());
    }

    #[test]
    fn slots_of_a_set_come_from_the_lowest_on() {
        let slots = Turns::of(1 << 63 | 0x8000_8005).collect::<Vec<_>>();
        assert_eq!(slots, [0, 2, 15, 31, 63]);
        assert_eq!(Turns::of(0).next(), None);
    }
}
