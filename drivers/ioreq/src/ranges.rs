//! Which addresses are device registers.
//!
//! Invariant: ranges are not empty, do not wrap and do not overlap.

use crate::types::Space;

/// Ranges that can be held.
pub const MAX_RANGES: usize = 32;

/// Why a range was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// Empty, or runs over the end of its address space.
    Invalid,
    /// Overlaps a range that is there.
    Busy,
    /// No room for another one.
    Full,
    /// No such range.
    NoDevice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    space: Space,
    first: u64,
    last: u64,
}

/// A small set of address ranges.
#[derive(Clone, Debug)]
pub struct Ranges {
    entries: [Option<Range>; MAX_RANGES],
}

impl Ranges {
    /// No range.
    pub const fn new() -> Self {
        Ranges {
            entries: [None; MAX_RANGES],
        }
    }

    /// Adds `len` addresses from `base`.
    pub fn add(&mut self, space: Space, base: u64, len: u64) -> Result<(), RangeError> {
        let range = Range::new(space, base, len)?;
        if self.overlaps(space, range.first, range.last) {
            return Err(RangeError::Busy);
        }
        let free = self
            .entries
            .iter_mut()
            .find(|entry| entry.is_none())
            .ok_or(RangeError::Full)?;
        *free = Some(range);
        Ok(())
    }

    /// Takes out a range that was added with the same numbers.
    pub fn remove(&mut self, space: Space, base: u64, len: u64) -> Result<(), RangeError> {
        let range = Range::new(space, base, len)?;
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| **entry == Some(range))
            .ok_or(RangeError::NoDevice)?;
        *entry = None;
        Ok(())
    }

    /// Whether any address of `first..=last` is in a range.
    pub fn overlaps(&self, space: Space, first: u64, last: u64) -> bool {
        self.entries
            .iter()
            .flatten()
            .any(|r| r.space == space && first <= r.last && r.first <= last)
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

impl Range {
    fn new(space: Space, base: u64, len: u64) -> Result<Self, RangeError> {
        let last = len
            .checked_sub(1)
            .and_then(|rest| base.checked_add(rest))
            .ok_or(RangeError::Invalid)?;
        if space.limit().is_some_and(|limit| last >= limit) {
            return Err(RangeError::Invalid);
        }
        Ok(Range {
            space,
            first: base,
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_empty_wraps_or_overlaps() {
        let mut ranges = Ranges::new();
        assert_eq!(
            ranges.add(Space::Memory, 0x1000, 0),
            Err(RangeError::Invalid)
        );
        assert_eq!(
            ranges.add(Space::Memory, u64::MAX, 2),
            Err(RangeError::Invalid)
        );
        assert_eq!(ranges.add(Space::Memory, u64::MAX, 1), Ok(()));
        assert_eq!(ranges.add(Space::Port, 0xffff, 2), Err(RangeError::Invalid));
        assert_eq!(ranges.add(Space::Port, 0xffff, 1), Ok(()));
        assert_eq!(ranges.add(Space::Memory, 0x1000, 0x200), Ok(()));
        assert_eq!(ranges.add(Space::Memory, 0x11ff, 1), Err(RangeError::Busy));
        assert_eq!(
            ranges.add(Space::Port, 0x1100, 1),
            Ok(()),
            "the other address space is apart"
        );
        assert!(ranges.overlaps(Space::Memory, 0xfff, 0x1000));
        assert!(!ranges.overlaps(Space::Memory, 0x1200, 0x1203));
        assert_eq!(
            ranges.remove(Space::Memory, 0x1000, 0x100),
            Err(RangeError::NoDevice)
        );
        assert_eq!(ranges.remove(Space::Memory, 0x1000, 0x200), Ok(()));
        assert!(!ranges.overlaps(Space::Memory, 0x1000, 0x1000));
    }

    #[test]
    fn holds_as_many_as_it_says() {
        let mut ranges = Ranges::new();
        for n in 0..MAX_RANGES as u64 {
            assert_eq!(ranges.add(Space::Memory, n * 0x1000, 0x200), Ok(()));
        }
        assert_eq!(
            ranges.add(Space::Memory, 0x100_0000, 1),
            Err(RangeError::Full)
        );
    }
}
