//! Physical frames and free guest frame numbers: a bitmap with first fit.
//!
//! Used twice: for the domain's own RAM, and for guest frame numbers that have
//! no RAM behind them, into which Xen maps what is not ours (shared info, ioreq
//! pages). Only set-up and the control plane allocate, so that a linear search
//! is good enough; nothing on the data path does.
//!
//! Invariant: a bit is set exactly while its frame is taken; a frame is handed
//! out at most once until it is given back.

use core::ops::Range;

/// A run of frame numbers, each free or taken.
#[derive(Debug)]
pub struct FrameSet<'b> {
    first: u64,
    frames: u64,
    /// One bit a frame, set = taken. Bits past the end are set.
    bitmap: &'b mut [u64],
}

/// Words of bitmap that `frames` frames need.
#[must_use]
pub const fn bitmap_words(frames: u64) -> u64 {
    frames.div_ceil(64)
}

impl<'b> FrameSet<'b> {
    /// Covers the frames that `bitmap` has bits for, at most `frames`, from `first`
    /// on; all taken.
    #[must_use]
    pub fn all_taken(first: u64, frames: u64, bitmap: &'b mut [u64]) -> Self {
        bitmap.fill(u64::MAX);
        let bits = (bitmap.len() as u64).saturating_mul(64);
        Self {
            first,
            frames: frames.min(bits),
            bitmap,
        }
    }

    /// Number of free frames.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.bitmap
            .iter()
            .map(|word| u64::from(word.count_zeros()))
            .sum()
    }

    /// Frees every frame of `range` that this set covers.
    pub fn release(&mut self, range: Range<u64>) {
        self.each(range, |word, bit| *word &= !bit);
    }

    /// Takes every frame of `range` that this set covers, free or not.
    pub fn reserve(&mut self, range: Range<u64>) {
        self.each(range, |word, bit| *word |= bit);
    }

    /// Takes `count` consecutive frames, the first a multiple of `align` (a power of
    /// two), all below frame `limit`. `None` when there is no such run.
    pub fn allocate(&mut self, count: u64, align: u64, limit: u64) -> Option<u64> {
        let end = self.first.checked_add(self.frames)?.min(limit);
        let mut start = self.first.checked_next_multiple_of(align.max(1))?;
        while count != 0 && start.checked_add(count)? <= end {
            match (start..start.checked_add(count)?)
                .rev()
                .find(|&frame| self.is_taken(frame))
            {
                None => {
                    self.reserve(start..start.checked_add(count)?);
                    return Some(start);
                }
                // Nothing that contains the last taken frame can work.
                Some(taken) => {
                    start = taken
                        .checked_add(1)?
                        .checked_next_multiple_of(align.max(1))?;
                }
            }
        }
        None
    }

    fn is_taken(&self, frame: u64) -> bool {
        let Some(index) = frame.checked_sub(self.first) else {
            return true;
        };
        let word = usize::try_from(index / 64)
            .ok()
            .and_then(|at| self.bitmap.get(at));
        word.is_none_or(|word| word & (1 << (index % 64)) != 0)
    }

    fn each(&mut self, range: Range<u64>, mut change: impl FnMut(&mut u64, u64)) {
        let end = self.first.saturating_add(self.frames).min(range.end);
        for frame in range.start.max(self.first)..end {
            let index = frame.saturating_sub(self.first);
            let at = usize::try_from(index / 64).unwrap_or(usize::MAX);
            if let Some(word) = self.bitmap.get_mut(at) {
                change(word, 1 << (index % 64));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_aligned_and_bounded() {
        let mut bits = vec![0; 4];
        let mut set = FrameSet::all_taken(100, 200, &mut bits);
        assert_eq!(set.free(), 0);
        assert_eq!(set.allocate(1, 1, u64::MAX), None);
        set.release(0..u64::MAX);
        assert_eq!(set.free(), 200, "bits past the end stay taken");
        assert_eq!(set.allocate(8, 16, u64::MAX), Some(112));
        assert_eq!(set.allocate(12, 1, u64::MAX), Some(100));
        assert_eq!(set.allocate(1, 1, 120), None, "the limit holds");
        assert_eq!(set.allocate(180, 1, u64::MAX), Some(120));
        assert_eq!(set.allocate(1, 1, u64::MAX), None);
        assert_eq!(set.allocate(0, 1, u64::MAX), None);
        assert_eq!(set.allocate(u64::MAX, 1, u64::MAX), None);
    }

    #[test]
    fn a_small_bitmap_shrinks_the_set() {
        let mut bits = vec![0; 1];
        let mut set = FrameSet::all_taken(0, 1000, &mut bits);
        set.release(0..1000);
        assert_eq!(set.free(), 64);
        assert_eq!(bitmap_words(65), 2);
    }

    proptest! {
        #[test]
        fn no_frame_is_handed_out_twice(
            sizes in prop::collection::vec((1u64..20, 0u32..5), 1..60),
            back in prop::collection::vec(any::<bool>(), 60),
        ) {
            let mut bits = vec![0; 5];
            let mut set = FrameSet::all_taken(7, 300, &mut bits);
            set.release(7..307);
            let mut taken = BTreeSet::new();
            let mut runs: Vec<Range<u64>> = Vec::new();
            for ((count, align), give_back) in sizes.into_iter().zip(back) {
                let align = 1u64 << align;
                if let Some(first) = set.allocate(count, align, 300) {
                    prop_assert!(first % align == 0 && first >= 7 && first + count <= 300);
                    for frame in first..first + count {
                        prop_assert!(taken.insert(frame), "frame {} was taken already", frame);
                    }
                    runs.push(first..first + count);
                }
                if give_back && let Some(run) = runs.pop() {
                    run.clone().for_each(|frame| { taken.remove(&frame); });
                    set.release(run);
                }
                prop_assert_eq!(set.free(), 300 - taken.len() as u64);
            }
        }
    }
}
