//! Which frames of the guest are mapped, and which to map next.
//!
//! Guest frame `g` is always mapped at window frame `base + g`, so that a
//! guest-physical address becomes a pointer by one addition. What is kept is only
//! *whether* a frame is mapped, by chunks of 512 frames (2 MiB, one page-table page
//! of Xen's p2m): a whole chunk is mapped by one batch the first time that
//! anything in it is touched, and stays until everything is dropped.
//!
//! Chunks that are RAM from end to end, which is nearly all, cost four bytes.
//! A chunk with holes gets a bitmap.
//!
//! Invariant: [`ForeignMap::is_mapped`] says yes only for ranges every frame of
//! which the caller has reported as mapped since the last [`ForeignMap::clear`].

use alloc::vec::Vec;
use core::fmt;

/// Frames in a chunk.
pub const CHUNK_FRAMES: usize = 512;
/// The last frame of a chunk.
const LAST_FRAME: u64 = CHUNK_FRAMES as u64 - 1;
/// log2 of the bytes in a chunk.
const CHUNK_SHIFT: u32 = 21;
/// log2 of the bytes in a frame.
const FRAME_SHIFT: u32 = 12;

/// Most chunks: 256 GiB of guest-physical address space.
pub const MAX_CHUNKS: usize = 1 << 17;
/// Most chunks with holes that can be mapped at a time.
pub const MAX_PARTIAL: usize = 1 << 13;

/// One bit a frame of a chunk, set = mapped.
pub type ChunkBits = [u64; CHUNK_FRAMES / 64];

/// The mapped frames of one guest.
#[derive(Debug)]
pub struct ForeignMap {
    /// `UNTOUCHED`, `FULL`, or the index of its bitmap plus `FIRST_PARTIAL`.
    chunks: Vec<u32>,
    partial: Vec<ChunkBits>,
    mapped: u64,
}

const UNTOUCHED: u32 = 0;
const FULL: u32 = 1;
const FIRST_PARTIAL: u32 = 2;

/// The guest's highest frame number needs more bookkeeping than there is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the guest is too large: 256 GiB of address space can be served"
        )
    }
}

impl ForeignMap {
    /// Bookkeeping for a guest whose highest frame number is `max_gfn`: four bytes a
    /// 2 MiB of guest-physical address space, and room for the bitmaps of chunks with holes, all of it taken now.
    ///
    /// # Errors
    /// [`TooLarge`] beyond [`MAX_CHUNKS`], or when there is not enough heap.
    pub fn new(max_gfn: u64) -> Result<Self, TooLarge> {
        let mut map = Self {
            chunks: Vec::new(),
            partial: Vec::new(),
            mapped: 0,
        };
        map.grow(max_gfn)?;
        Ok(map)
    }

    /// The guest has got memory beyond its former highest frame number.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn grow(&mut self, max_gfn: u64) -> Result<(), TooLarge> {
        let chunks =
            usize::try_from(max_gfn >> (CHUNK_SHIFT - FRAME_SHIFT)).map_err(|_| TooLarge)?;
        let chunks = chunks
            .checked_add(1)
            .filter(|&chunks| chunks <= MAX_CHUNKS)
            .ok_or(TooLarge)?;
        if chunks > self.chunks.len() {
            let more = chunks.saturating_sub(self.chunks.len());
            self.chunks.try_reserve_exact(more).map_err(|_| TooLarge)?;
            self.chunks.resize(chunks, UNTOUCHED);
        }
        let wanted = chunks.min(MAX_PARTIAL).saturating_sub(self.partial.len());
        self.partial.try_reserve_exact(wanted).map_err(|_| TooLarge)
    }

    /// Whether the `len` bytes at `gpa` end beyond the highest frame number.
    #[must_use]
    pub fn is_beyond(&self, gpa: u64, len: u64) -> bool {
        let Some(last) = gpa.checked_add(len.saturating_sub(1)) else {
            return true;
        };
        usize::try_from(last >> CHUNK_SHIFT).map_or(true, |chunk| chunk >= self.chunks.len())
    }

    /// Number of frames that are mapped.
    #[must_use]
    pub fn mapped_frames(&self) -> u64 {
        self.mapped
    }

    /// Whether every frame of the `len` bytes at `gpa` is mapped. `len` 0 counts as 1.
    /// Constant time for up to a chunk.
    #[must_use]
    pub fn is_mapped(&self, gpa: u64, len: u64) -> bool {
        let Some(last) = gpa.checked_add(len.saturating_sub(1)) else {
            return false;
        };
        let mut chunk = gpa >> CHUNK_SHIFT;
        while chunk <= last >> CHUNK_SHIFT {
            let state = usize::try_from(chunk)
                .ok()
                .and_then(|at| self.chunks.get(at));
            match state {
                Some(&FULL) => {}
                Some(&state) if state >= FIRST_PARTIAL => {
                    if !self.frames_mapped(state, chunk, gpa, last) {
                        return false;
                    }
                }
                _ => return false,
            }
            chunk = chunk.saturating_add(1);
        }
        true
    }

    fn frames_mapped(&self, state: u32, chunk: u64, gpa: u64, last: u64) -> bool {
        let Some(bits) = self.bits(state) else {
            return false;
        };
        let start = chunk << (CHUNK_SHIFT - FRAME_SHIFT);
        let from = (gpa >> FRAME_SHIFT).saturating_sub(start);
        let to = (last >> FRAME_SHIFT).saturating_sub(start).min(LAST_FRAME);
        (from..=to).all(|frame| bit(bits, frame))
    }

    fn bits(&self, state: u32) -> Option<&ChunkBits> {
        let index = state.checked_sub(FIRST_PARTIAL)?;
        usize::try_from(index)
            .ok()
            .and_then(|at| self.partial.get(at))
    }

    /// The first chunk of the `len` bytes at `gpa` with a frame that is not mapped,
    /// and which of its frames are mapped already. `None` when all are mapped, or the
    /// address is beyond the guest's highest frame: check with [`Self::is_mapped`].
    #[must_use]
    pub fn next_to_map(&self, gpa: u64, len: u64) -> Option<(u64, ChunkBits)> {
        let last = gpa.checked_add(len.saturating_sub(1))?;
        for chunk in gpa >> CHUNK_SHIFT..=last >> CHUNK_SHIFT {
            let &state = self.chunks.get(usize::try_from(chunk).ok()?)?;
            if state == UNTOUCHED {
                return Some((chunk, [0; CHUNK_FRAMES / 64]));
            }
            if state != FULL && !self.frames_mapped(state, chunk, gpa, last) {
                return Some((chunk, *self.bits(state)?));
            }
        }
        None
    }

    /// Records that the frames of `bits` in chunk `chunk` are mapped now.
    ///
    /// # Errors
    /// [`TooLarge`] when there is no memory for one more bitmap: the caller must
    /// unmap what it just mapped.
    pub fn set_mapped(&mut self, chunk: u64, bits: &ChunkBits) -> Result<(), TooLarge> {
        let at = usize::try_from(chunk).map_err(|_| TooLarge)?;
        let state = *self.chunks.get(at).ok_or(TooLarge)?;
        let before = self.bits(state).map_or(0, count);
        let new = if bits.iter().all(|&word| word == u64::MAX) {
            FULL
        } else if state >= FIRST_PARTIAL {
            state
        } else {
            self.new_partial()?
        };
        if let Some(index) = new.checked_sub(FIRST_PARTIAL)
            && let Some(slot) = self.partial.get_mut(index as usize)
        {
            *slot = *bits;
        }
        if let Some(slot) = self.chunks.get_mut(at) {
            *slot = new;
        }
        self.mapped = self
            .mapped
            .saturating_sub(before)
            .saturating_add(count(bits));
        Ok(())
    }

    fn new_partial(&mut self) -> Result<u32, TooLarge> {
        if self.partial.len() >= self.partial.capacity() || self.partial.len() >= MAX_PARTIAL {
            return Err(TooLarge);
        }
        let index = u32::try_from(self.partial.len()).map_err(|_| TooLarge)?;
        self.partial.push([0; CHUNK_FRAMES / 64]);
        index.checked_add(FIRST_PARTIAL).ok_or(TooLarge)
    }

    /// Calls `unmap` with every mapped frame number, then forgets them all.
    pub fn clear(&mut self, mut unmap: impl FnMut(u64)) {
        for (chunk, &state) in self.chunks.iter().enumerate() {
            let start = (chunk as u64) << (CHUNK_SHIFT - FRAME_SHIFT);
            let bits = match state {
                UNTOUCHED => continue,
                FULL => &[u64::MAX; CHUNK_FRAMES / 64],
                _ => match self.bits(state) {
                    Some(bits) => bits,
                    None => continue,
                },
            };
            for frame in (0..CHUNK_FRAMES as u64).filter(|&frame| bit(bits, frame)) {
                unmap(start.saturating_add(frame));
            }
        }
        self.chunks.fill(UNTOUCHED);
        self.partial.clear();
        self.mapped = 0;
    }
}

/// Whether bit `frame` (below 512) of a chunk's bitmap is set.
#[must_use]
pub fn bit(bits: &ChunkBits, frame: u64) -> bool {
    usize::try_from(frame / 64)
        .ok()
        .and_then(|at| bits.get(at))
        .is_some_and(|word| word & (1 << (frame % 64)) != 0)
}

/// Sets bit `frame` (below 512) of a chunk's bitmap.
pub fn set_bit(bits: &mut ChunkBits, frame: u64) {
    if let Some(word) = usize::try_from(frame / 64)
        .ok()
        .and_then(|at| bits.get_mut(at))
    {
        *word |= 1 << (frame % 64);
    }
}

fn count(bits: &ChunkBits) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ALL: ChunkBits = [u64::MAX; 8];
    const MIB2: u64 = 1 << 21;

    /// Maps whatever is missing for a range; frames in `holes` cannot be mapped.
    fn touch(map: &mut ForeignMap, gpa: u64, len: u64, holes: &BTreeSet<u64>) -> bool {
        while let Some((chunk, mut bits)) = map.next_to_map(gpa, len) {
            let before = bits;
            for frame in 0..512 {
                if !holes.contains(&(chunk * 512 + frame)) {
                    set_bit(&mut bits, frame);
                }
            }
            map.set_mapped(chunk, &bits).unwrap();
            if bits == before {
                break;
            }
        }
        map.is_mapped(gpa, len)
    }

    #[test]
    fn nothing_is_mapped_at_first_and_nothing_beyond_the_end() {
        let mut map = ForeignMap::new(1023).unwrap();
        assert!(!map.is_mapped(0, 1));
        assert_eq!(map.next_to_map(5, 1), Some((0, [0; 8])));
        assert_eq!(map.next_to_map(2 * MIB2, 1), None);
        assert!(!map.is_mapped(2 * MIB2, 1));
        assert_eq!(map.set_mapped(2, &ALL), Err(TooLarge));
        map.set_mapped(1, &ALL).unwrap();
        assert!(map.is_mapped(MIB2, MIB2) && !map.is_mapped(MIB2 - 1, 2));
        assert!(!map.is_mapped(MIB2, MIB2 + 1));
    }

    #[test]
    fn row04_ranges_that_wrap_are_never_mapped() {
        let mut map = ForeignMap::new(1023).unwrap();
        map.set_mapped(0, &ALL).unwrap();
        assert!(!map.is_mapped(u64::MAX, 2));
        assert!(!map.is_mapped(1, u64::MAX));
        assert_eq!(map.next_to_map(u64::MAX, 2), None);
        assert!(!map.is_mapped(u64::MAX, 1));
    }

    #[test]
    fn holes_stay_holes_and_their_neighbours_work() {
        let holes = BTreeSet::from([700]);
        let mut map = ForeignMap::new(2047).unwrap();
        assert!(!touch(&mut map, 700 << 12, 1, &holes));
        assert!(map.is_mapped(699 << 12, 4096) && map.is_mapped(701 << 12, 4096));
        assert!(
            !map.is_mapped((700 << 12) - 1, 2),
            "straddling into the hole"
        );
        assert_eq!(map.mapped_frames(), 511);
        // The guest gets the page after all (ballooning up).
        assert!(touch(&mut map, 700 << 12, 1, &BTreeSet::new()));
        assert_eq!(map.mapped_frames(), 512);
    }

    #[test]
    fn row32_clear_reports_every_frame_once() {
        let holes = BTreeSet::from([3, 511, 600]);
        let mut map = ForeignMap::new(4095).unwrap();
        touch(&mut map, 0, 1, &holes);
        touch(&mut map, MIB2, 1, &holes);
        touch(&mut map, 4 * MIB2, MIB2, &holes);
        let mut frames = BTreeSet::new();
        map.clear(|frame| assert!(frames.insert(frame)));
        let touched = (0..1024).chain(2048..2560);
        assert_eq!(
            frames,
            touched.filter(|frame| !holes.contains(frame)).collect()
        );
        assert_eq!(map.mapped_frames(), 0);
        assert!(!map.is_mapped(0, 1) && !map.is_mapped(4 * MIB2, 1));
        map.clear(|_| panic!("nothing is left"));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_frames(
            ranges in prop::collection::vec((0u64..4096 * 4096, 1u64..3 * MIB2), 1..30),
            holes in prop::collection::btree_set(0u64..4096, 0..20),
        ) {
            let mut map = ForeignMap::new(4095).unwrap();
            let mut chunks = BTreeSet::new();
            for (gpa, len) in ranges {
                let ok = touch(&mut map, gpa, len, &holes);
                let (first, last) = (gpa >> 12, (gpa + len - 1) >> 12);
                let expect = last < 4096 && (first..=last).all(|frame| !holes.contains(&frame));
                prop_assert_eq!(ok, expect);
                if expect {
                    chunks.extend(first / 512..=last / 512);
                }
                prop_assert!(map.mapped_frames() + holes.len() as u64 >= chunks.len() as u64 * 512);
            }
        }
    }

    #[test]
    fn a_guest_that_grows_is_served_and_the_limits_hold() {
        let mut map = ForeignMap::new(511).unwrap();
        assert!(
            !map.is_beyond(0, 1 << 21) && map.is_beyond(1 << 21, 1) && map.is_beyond(u64::MAX, 2)
        );
        assert_eq!(map.next_to_map(1 << 21, 1), None);
        map.grow(1024).unwrap();
        assert_eq!(map.next_to_map(1 << 21, 1).unwrap().0, 1);
        map.grow(0).unwrap();
        assert!(!map.is_beyond(2 << 21, 1), "it never shrinks");
        let most = (MAX_CHUNKS as u64) << 9;
        assert!(ForeignMap::new(most - 1).is_ok());
        assert_eq!(ForeignMap::new(most).err(), Some(TooLarge));
    }

    #[test]
    fn row29_chunks_with_holes_are_bounded() {
        let mut map = ForeignMap::new((MAX_PARTIAL as u64 + 10) << 9).unwrap();
        let capacity = map.partial.capacity();
        for chunk in 0..MAX_PARTIAL as u64 {
            map.set_mapped(chunk, &[1; 8]).unwrap();
        }
        assert_eq!(map.set_mapped(MAX_PARTIAL as u64, &[1; 8]), Err(TooLarge));
        assert_eq!(
            map.partial.capacity(),
            capacity,
            "nothing was allocated since the start"
        );
        map.set_mapped(MAX_PARTIAL as u64, &[u64::MAX; 8]).unwrap();
    }

    #[test]
    fn row29_a_small_guest_has_room_for_its_chunks_and_no_more() {
        let mut map = ForeignMap::new(0).unwrap();
        map.set_mapped(0, &[1; 8]).unwrap();
        map.set_mapped(0, &ALL).unwrap();
        let capacity = map.partial.capacity();
        for _ in 0..10 {
            if map.set_mapped(0, &[1; 8]) == Err(TooLarge) {
                assert_eq!(map.partial.capacity(), capacity);
                return;
            }
            map.set_mapped(0, &ALL).unwrap();
        }
        panic!("memory was taken after the start");
    }
}
