//! One request's buffers: validated copies of its descriptors.
//!
//! Invariants: device-readable segments come before device-writable ones, no segment is empty or wraps, all of them
//! together are at most 2^32 bytes. That a segment is RAM is found out when it is accessed.

use heapless::Vec;

use crate::fault::FaultKind;
use crate::mem::{Gpa, GuestMemory, MemError};

/// Longest chain that is taken, whether of a queue's own descriptors or of a table's. A chain may be as long as its queue
/// (virtio 1.3, 2.7.5.3.1), up to 32768; no driver makes one this long for any device type, as each has a limit of its
/// own (a disk's seg_max, say).
pub const MAX_SEGMENTS: usize = 1024;
/// Most bytes of a chain (2.7.5.2).
const MAX_BYTES: u64 = 1 << 32;

/// A contiguous piece of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub addr: Gpa,
    /// How many bytes.
    pub len: u32,
}

/// The buffers of one request. It is large: keep one and use it again.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    segments: Vec<Segment, MAX_SEGMENTS>,
    /// How many of the segments are device-readable.
    readable: usize,
    bytes: u64,
}

impl Chain {
    /// No buffers.
    pub const fn new() -> Self {
        Self {
            segments: Vec::new(),
            readable: 0,
            bytes: 0,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.readable = 0;
        self.bytes = 0;
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Number of bytes in all segments together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there are no segments.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn push(&mut self, segment: Segment, writable: bool) -> Result<(), FaultKind> {
        let len = u64::from(segment.len);
        let last = match len.checked_sub(1) {
            None => return Err(FaultKind::EmptyDescriptor),
            Some(last) => segment.addr.checked_add(last),
        };
        if last.is_none() {
            return Err(MemError::new(segment.addr, len).into());
        }
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > MAX_BYTES {
            return Err(FaultKind::TooManyBytes);
        }
        if !writable {
            if self.readable != self.segments.len() {
                return Err(FaultKind::Order);
            }
            self.readable = self.readable.saturating_add(1);
        }
        self.segments
            .push(segment)
            .map_err(|_| FaultKind::ChainTooLong)
    }

    /// What the driver gives.
    pub fn readable(&self) -> Span<'_> {
        Span::new(self.segments.get(..self.readable).unwrap_or(&[]))
    }

    /// What the driver wants filled.
    pub fn writable(&self) -> Span<'_> {
        Span::new(self.segments.get(self.readable..).unwrap_or(&[]))
    }
}

/// A run of bytes over several segments.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that do not belong to it.
    skip: u32,
    len: u64,
}

impl<'a> Span<'a> {
    fn new(segments: &'a [Segment]) -> Self {
        let len = segments
            .iter()
            .fold(0u64, |sum, s| sum.saturating_add(u64::from(s.len)));
        Self {
            segments,
            skip: 0,
            len,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not a byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `at` bytes and the rest, or `None` if there are fewer.
    pub fn split_at(self, at: u64) -> Option<(Self, Self)> {
        let rest_len = self.len.checked_sub(at)?;
        let first = Self { len: at, ..self };
        let mut rest = Self {
            len: rest_len,
            ..self
        };
        let mut left = at;
        while let Some((segment, more)) = rest.segments.split_first() {
            let here = u64::from(segment.len.saturating_sub(rest.skip));
            if left < here {
                break;
            }
            left = left.saturating_sub(here);
            rest.segments = more;
            rest.skip = 0;
        }
        // What is left is less than a segment, so it fits.
        rest.skip = rest
            .skip
            .saturating_add(u32::try_from(left).unwrap_or(u32::MAX));
        Some((first, rest))
    }

    /// The pieces, in order: where, and how many bytes.
    pub fn pieces(self) -> impl Iterator<Item = (Gpa, usize)> + Clone + 'a {
        let mut skip = self.skip;
        let mut left = self.len;
        self.segments.iter().map_while(move |segment| {
            let here = u64::from(segment.len.saturating_sub(skip)).min(left);
            // A segment does not wrap, so no address inside of it does.
            let addr = Gpa(segment.addr.0.saturating_add(u64::from(skip)));
            skip = 0;
            left = left.saturating_sub(here);
            (here != 0).then_some((addr, usize::try_from(here).unwrap_or(0)))
        })
    }

    /// Copies all of it out, if it is as long as `into`.
    ///
    /// # Errors
    /// [`MemError`] if a piece is not RAM.
    pub fn read<M: GuestMemory + ?Sized>(self, mem: &M, into: &mut [u8]) -> Result<(), MemError> {
        mem.read_span(self, into)
    }

    /// Copies all of `from` in, if it is as long as the span.
    ///
    /// # Errors
    /// [`MemError`] if a piece is not RAM; a part may have been written.
    pub fn write<M: GuestMemory + ?Sized>(self, mem: &M, from: &[u8]) -> Result<(), MemError> {
        mem.write_span(self, from)
    }

    /// Copies a fixed number of bytes out from its start.
    ///
    /// # Errors
    /// [`FaultKind::Header`] if it is shorter, [`FaultKind::Memory`] if a piece is not RAM.
    pub fn read_array<M: GuestMemory + ?Sized, const N: usize>(
        self,
        mem: &M,
    ) -> Result<([u8; N], Self), FaultKind> {
        let mut bytes = [0; N];
        let (first, rest) = self.split_at(N as u64).ok_or(FaultKind::Header)?;
        first.read(mem, &mut bytes)?;
        Ok((bytes, rest))
    }
}

#[cfg(test)]
mod tests;
