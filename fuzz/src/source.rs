//! Choices, read from a fuzzer's input one after the other.
//!
//! Invariant: an input that has run out only gives zeroes, the tamest of all choices, so that every run ends and a
//! short input is a short story.

use arbitrary::{Arbitrary, Unstructured};

/// The input that is left.
#[derive(Debug)]
pub struct Source<'a>(Unstructured<'a>);

impl<'a> Source<'a> {
    /// All of an input.
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Any value.
    pub fn any<T: Arbitrary<'a> + Default>(&mut self) -> T {
        self.0.arbitrary().unwrap_or_default()
    }

    /// One of `n` numbers from 0 on.
    pub fn below(&mut self, n: usize) -> usize {
        match n {
            0 | 1 => 0,
            2..=256 => usize::from(self.any::<u8>()) % n,
            257..=0x1_0000 => usize::from(self.any::<u16>()) % n,
            _ => usize::try_from(self.any::<u64>()).unwrap_or(0) % n,
        }
    }

    /// A number from `low` to `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = usize::try_from(high - low).unwrap_or(usize::MAX);
        low + self.below(span.saturating_add(1)) as u64
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// True once in a while: something is to go wrong.
    pub fn rarely(&mut self) -> bool {
        self.any::<u8>() & 15 == 15
    }

    /// True every other time.
    pub fn coin(&mut self) -> bool {
        self.any::<u8>() & 1 == 1
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = self.below(most + 1).min(self.0.len());
        self.0.bytes(len).unwrap_or(&[])
    }

    /// Exactly this many bytes, zeroes if there are not enough.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.0.fill_buffer(&mut bytes);
        bytes
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let len = self.0.len();
        self.0.bytes(len).unwrap_or(&[])
    }

    /// A number that is likely to be a limit of something.
    pub fn edge(&mut self) -> u64 {
        let power = 1u64 << self.below(64);
        match self.below(6) {
            0 => power,
            1 => power.wrapping_sub(1),
            2 => power + 1,
            3 => 0u64.wrapping_sub(power),
            4 => u64::MAX,
            _ => self.any(),
        }
    }
}
