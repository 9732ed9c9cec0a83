//! Data that says where it belongs, and numbers that look random.

use alloc::vec;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Xorshift: fast, and the same in every run.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}

/// Fills whole sectors with what belongs there from sector `first` on.
pub fn fill(data: &mut [u8], first: u64, seed: u64) {
    for (sector, bytes) in (first..).zip(data.chunks_mut(SECTOR)) {
        let mut random = Random::new(seed ^ sector.rotate_left(20));
        for word in bytes.chunks_mut(8) {
            let random = random.number().to_le_bytes();
            word.copy_from_slice(&random[..word.len()]);
        }
    }
}

/// The first sector, counted from the start of `data`, that does not hold what [`fill`] put there.
#[must_use]
pub fn first_wrong(data: &[u8], first: u64, seed: u64) -> Option<u64> {
    let mut expected = vec![0; data.len()];
    fill(&mut expected, first, seed);
    let wrong = |(a, b): (&[u8], &[u8])| a != b;
    data.chunks(SECTOR)
        .zip(expected.chunks(SECTOR))
        .position(wrong)
        .map(|at| first + at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_told_apart_and_changes_found() {
        let mut data = [0; 4 * SECTOR];
        fill(&mut data, 8, 1);
        assert_eq!(first_wrong(&data, 8, 1), None);
        assert_eq!(first_wrong(&data[SECTOR..], 9, 1), None, "any piece of it");
        assert_eq!(first_wrong(&data, 8, 2), Some(8), "another seed");
        assert_eq!(first_wrong(&data, 9, 1), Some(9), "another place");
        for at in [0, SECTOR - 1, 2 * SECTOR + 7, 4 * SECTOR - 1] {
            data[at] ^= 1;
            assert_eq!(first_wrong(&data, 8, 1), Some(8 + (at / SECTOR) as u64));
            data[at] ^= 1;
        }
    }

    #[test]
    fn numbers_differ() {
        let mut random = Random::new(0);
        let numbers: alloc::collections::BTreeSet<u64> =
            (0..1000).map(|_| random.number()).collect();
        assert_eq!(numbers.len(), 1000);
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}
