//! Maps the guest's memory on first touch, and unmaps all of it: the decisions; the calls are behind [`Physmap`].
//!
//! Invariants: [`Mapper::is_mapped`] says yes only for what Xen said that it has mapped, and that nobody has unmapped
//! since; what Xen refuses to unmap is offered to it again with the next [`Mapper::unmap_all`], as a guest that is destroyed
//! stays a zombie that long.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use vd_virtio::mem::{Cause, Gpa, MemError};
use xen_hypercall::Errno;

use crate::foreign::{CHUNK_FRAMES, ChunkBits, ForeignMap, TooLarge, bit, set_bit};

/// Most frames of one call of [`Physmap::unmap`].
pub const UNMAP_BATCH: usize = 64;
/// How often Xen is asked to unmap a frame.
const TRIES: u32 = 3;
/// Most frames that Xen may refuse to unmap before some are lost.
const MOST_STUCK: usize = 1024;

/// This domain's physmap, where the guest's frames appear in a window: frame 0 at its start.
pub trait Physmap {
    /// The guest's highest frame number.
    ///
    /// # Errors
    /// What Xen says.
    fn highest(&self) -> Result<u64, Errno>;

    /// Makes the window long enough for frames up to this one; returns whether it is.
    fn extend(&self, highest: u64) -> bool;

    /// Maps frames of the guest. Where that fails, `errors` has a negative number.
    ///
    /// # Errors
    /// To the call as a whole; nothing is mapped then.
    fn map(&self, frames: &[u64], errors: &mut [i32]) -> Result<(), Errno>;

    /// Unmaps up to [`UNMAP_BATCH`] frames of the guest.
    ///
    /// # Errors
    /// To the call as a whole; nothing is unmapped then.
    fn unmap(
        &self,
        frames: &[u64],
        results: &mut [Result<(), Errno>; UNMAP_BATCH],
    ) -> Result<(), Errno>;

    /// So many frames were mapped.
    fn count_mapped(&self, frames: u64);

    /// So many frames were unmapped.
    fn count_unmapped(&self, frames: u64);
}

/// Why memory of the guest was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Xen said no.
    Xen(Errno),
    /// The guest's memory has more holes, or more of it, than can be kept track of.
    TooLarge,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xen(error) => error.fmt(f),
            Self::TooLarge => f.write_str("too much of it, or too many holes in it"),
        }
    }
}

/// What is mapped.
#[derive(Debug)]
pub struct Mapper {
    map: ForeignMap,
    /// Room for one batch: kept, so that mapping never allocates.
    frames: Box<[u64]>,
    errors: Box<[i32]>,
    /// Frames that Xen did not unmap.
    stuck: Vec<u64>,
    /// Why memory was not mapped the last time that this was nobody's fault but the operator's.
    refused: Option<Refusal>,
}

impl Mapper {
    /// For a guest with this highest frame number. Nothing is mapped yet.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new(highest: u64) -> Result<Self, TooLarge> {
        let mut stuck = Vec::new();
        stuck.try_reserve_exact(MOST_STUCK).map_err(|_| TooLarge)?;
        Ok(Self {
            map: ForeignMap::new(highest)?,
            frames: vec![0; CHUNK_FRAMES].into(),
            errors: vec![0; CHUNK_FRAMES].into(),
            stuck,
            refused: None,
        })
    }

    /// Whether every frame of these bytes is mapped.
    #[must_use]
    #[inline]
    pub fn is_mapped(&self, gpa: Gpa, len: u64) -> bool {
        self.map.is_mapped(gpa.0, len)
    }

    /// Number of frames that are mapped.
    #[must_use]
    pub fn mapped_frames(&self) -> u64 {
        self.map.mapped_frames()
    }

    /// Why memory was not mapped, once.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    /// Maps these bytes, and what is around them.
    ///
    /// # Errors
    /// They are no RAM; or Xen did not map them, and then there is a refusal to take.
    #[cold]
    pub fn map_range(
        &mut self,
        physmap: &impl Physmap,
        gpa: Gpa,
        len: u64,
    ) -> Result<(), MemError> {
        let earlier = self.refused.take();
        if self.map.is_beyond(gpa.0, len) {
            self.grow(physmap);
        }
        while let Some((chunk, mapped)) = self.map.next_to_map(gpa.0, len) {
            let now = self.map_chunk(physmap, chunk, &mapped);
            if now == mapped {
                break;
            }
            if self.map.set_mapped(chunk, &now).is_err() {
                self.refused = Some(Refusal::TooLarge);
                let new = |&frame: &u64| bit(&now, frame) != bit(&mapped, frame);
                let first = first_frame(chunk);
                let mut unmapper = Unmapper::new(physmap, &mut self.stuck);
                for frame in (0..CHUNK_FRAMES as u64).filter(new) {
                    unmapper.push(first.saturating_add(frame));
                }
                unmapper.flush();
                break;
            }
        }
        let cause = match self.refused {
            Some(_) => Cause::Platform,
            None => Cause::NotRam,
        };
        self.refused = self.refused.or(earlier);
        if self.is_mapped(gpa, len) {
            return Ok(());
        }
        Err(MemError::because(cause, gpa, len))
    }

    /// Looks whether the guest has got memory beyond what it had.
    fn grow(&mut self, physmap: &impl Physmap) {
        match physmap.highest() {
            Ok(highest) => {
                // The window first: what the map knows of may be mapped.
                if !physmap.extend(highest) || self.map.grow(highest).is_err() {
                    self.refused = Some(Refusal::TooLarge);
                }
            }
            Err(error) => self.refused = Some(Refusal::Xen(error)),
        }
    }

    /// Maps the frames of a chunk that are not; returns which are then.
    fn map_chunk(&mut self, physmap: &impl Physmap, chunk: u64, mapped: &ChunkBits) -> ChunkBits {
        let first = first_frame(chunk);
        let missing = (0..CHUNK_FRAMES as u64).filter(|&frame| !bit(mapped, frame));
        let mut count = 0_usize;
        for (place, frame) in self.frames.iter_mut().zip(missing) {
            *place = first.saturating_add(frame);
            count = count.saturating_add(1);
        }
        let mut now = *mapped;
        let (Some(frames), Some(errors)) = (self.frames.get(..count), self.errors.get_mut(..count))
        else {
            return now;
        };
        errors.fill(0);
        if let Err(error) = physmap.map(frames, errors) {
            self.refused = Some(Refusal::Xen(error));
            return now;
        }
        let mut new = 0_u64;
        for (&frame, &error) in frames.iter().zip(&*errors) {
            match error.saturating_neg() {
                0 => {
                    set_bit(&mut now, frame.saturating_sub(first));
                    new = new.saturating_add(1);
                }
                // There is no RAM, which is for the guest to know.
                error if Errno(error) == Errno::EINVAL => {}
                error => self.refused = Some(Refusal::Xen(Errno(error))),
            }
        }
        physmap.count_mapped(new);
        now
    }

    /// Unmaps everything; what is touched afterwards is mapped again. Returns how many frames Xen did not unmap.
    pub fn unmap_all(&mut self, physmap: &impl Physmap) -> usize {
        let Self { map, stuck, .. } = self;
        let mut unmapper = Unmapper::new(physmap, stuck);
        unmapper.retry();
        map.clear(|frame| unmapper.push(frame));
        unmapper.flush();
        unmapper.lost.saturating_add(stuck.len())
    }
}

fn first_frame(chunk: u64) -> u64 {
    chunk.saturating_mul(CHUNK_FRAMES as u64)
}

/// Collects frames to be unmapped into batches.
struct Unmapper<'a, P> {
    physmap: &'a P,
    frames: heapless::Vec<u64, UNMAP_BATCH>,
    stuck: &'a mut Vec<u64>,
    /// Frames that Xen did not unmap, and for which there was no place among those that are stuck.
    lost: usize,
}

impl<'a, P: Physmap> Unmapper<'a, P> {
    fn new(physmap: &'a P, stuck: &'a mut Vec<u64>) -> Self {
        Self {
            physmap,
            frames: heapless::Vec::new(),
            stuck,
            lost: 0,
        }
    }

    /// Offers to Xen once more what it has not unmapped before.
    fn retry(&mut self) {
        for _ in 0..self.stuck.len() {
            // What is refused again goes to the end.
            let frame = self.stuck.remove(0);
            self.push(frame);
        }
        self.flush();
    }

    fn push(&mut self, frame: u64) {
        let _ = self.frames.push(frame);
        if self.frames.is_full() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for _ in 0..TRIES {
            let before = self.frames.len();
            if before == 0 {
                return;
            }
            let mut results = [Ok(()); UNMAP_BATCH];
            if self.physmap.unmap(&self.frames, &mut results).is_ok() {
                let mut results = results.iter();
                // Where nothing is, nothing is left.
                let is_gone = |result| matches!(result, Some(Ok(()) | Err(Errno::ENOENT)));
                self.frames.retain(|_| !is_gone(results.next().copied()));
            }
            let unmapped = before.saturating_sub(self.frames.len());
            self.physmap.count_unmapped(unmapped as u64);
        }
        for &frame in &self.frames {
            if self.stuck.len() < MOST_STUCK {
                self.stuck.push(frame);
            } else {
                self.lost = self.lost.saturating_add(1);
            }
        }
        self.frames.clear();
    }
}

#[cfg(test)]
mod tests;
