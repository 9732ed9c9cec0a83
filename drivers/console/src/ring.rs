//! Bytes on their way from one side to the other: first in, first out, in a piece of memory that is made once.

use alloc::boxed::Box;
use alloc::vec;

/// A ring of bytes.
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    /// Where the oldest byte is.
    start: usize,
    len: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into_boxed_slice(),
            start: 0,
            len: 0,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit.
    pub(crate) fn free(&self) -> usize {
        self.capacity().saturating_sub(self.len)
    }

    /// Where the byte is that is `offset` bytes behind the oldest.
    fn place(&self, offset: usize) -> usize {
        let at = self.start.saturating_add(offset);
        at.checked_rem(self.capacity()).unwrap_or(0)
    }

    /// Free memory in one piece, to be filled from its start; [`Ring::filled`] says how far it was.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        let at = self.place(self.len);
        let straight = self.capacity().saturating_sub(at).min(self.free());
        let end = at.saturating_add(straight);
        self.bytes.get_mut(at..end).unwrap_or(&mut [])
    }

    /// So many bytes of [`Ring::spare`] were filled.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.len = self.len.saturating_add(bytes).min(self.capacity());
    }

    /// The oldest bytes, and those that follow them at the start of the memory.
    pub(crate) fn pieces(&self) -> (&[u8], &[u8]) {
        let straight = self.capacity().saturating_sub(self.start).min(self.len);
        let end = self.start.saturating_add(straight);
        let first = self.bytes.get(self.start..end).unwrap_or(&[]);
        let rest = self.bytes.get(..self.len.saturating_sub(straight));
        (first, rest.unwrap_or(&[]))
    }

    /// Forgets the oldest bytes.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len);
        self.start = self.place(bytes);
        self.len = self.len.saturating_sub(bytes);
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.skip(self.len);
    }

    /// Adds as many as fit, and says how many.
    pub(crate) fn push(&mut self, from: &[u8]) -> usize {
        let mut done = 0_usize;
        while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
            let spare = self.spare();
            let len = spare.len().min(rest.len());
            match (spare.get_mut(..len), rest.get(..len)) {
                (Some(to), Some(piece)) if len > 0 => to.copy_from_slice(piece),
                _ => break,
            }
            self.filled(len);
            done = done.saturating_add(len);
        }
        done
    }

    /// Takes as many as there are and `into` holds, and says how many.
    pub(crate) fn pop(&mut self, into: &mut [u8]) -> usize {
        let mut done = 0_usize;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let (piece, _) = self.pieces();
            let len = piece.len().min(rest.len());
            match (rest.get_mut(..len), piece.get(..len)) {
                (Some(to), Some(piece)) if len > 0 => to.copy_from_slice(piece),
                _ => break,
            }
            self.skip(len);
            done = done.saturating_add(len);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::Ring;

    proptest! {
        /// Whatever is pushed, popped and skipped, the ring is a queue.
        #[test]
        fn a_ring_is_a_queue(
            capacity in 1..20_usize,
            steps in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..30)), 0..60),
        ) {
            let (mut ring, mut model) = (Ring::new(capacity), VecDeque::new());
            for (what, bytes) in steps {
                match what {
                    0 => {
                        let done = ring.push(&bytes);
                        prop_assert_eq!(done, bytes.len().min(capacity - model.len()));
                        model.extend(&bytes[..done]);
                    }
                    1 => {
                        let mut into = vec![0; bytes.len()];
                        let done = ring.pop(&mut into);
                        prop_assert_eq!(done, bytes.len().min(model.len()));
                        let expected: Vec<u8> = model.drain(..done).collect();
                        prop_assert_eq!(&into[..done], expected);
                    }
                    _ => {
                        ring.skip(bytes.len());
                        model.drain(..bytes.len().min(model.len()));
                    }
                }
                let (first, rest) = ring.pieces();
                prop_assert_eq!([first, rest].concat(), model.iter().copied().collect::<Vec<u8>>());
                prop_assert_eq!(ring.len() + ring.free(), capacity);
                prop_assert_eq!(ring.is_empty(), model.is_empty());
            }
        }
    }
}
