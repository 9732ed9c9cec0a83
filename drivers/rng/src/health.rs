//! Continuous health tests of an entropy source (NIST SP 800-90B, section 4.4), so that a generator that is stuck or
//! badly skewed is noticed.
//!
//! They find what is broken, not what is predictable: a source that lies well passes.

/// Samples of a window of the adaptive proportion test (4.4.2, for samples of more than one bit).
const WINDOW: u32 = 512;
/// How often the first sample of a window may come in it. For 4 bits of entropy in each byte, of the 8 that the CPU's
/// documentation promises, a healthy source exceeds this once in 2^40 windows.
const MOST_IN_WINDOW: u32 = 78;

/// What a test has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sickness {
    /// The same word twice in a row (4.4.1). Of 64 healthy bits: once in 2^64 words.
    Repetition,
    /// One byte value comes far too often (4.4.2).
    Proportion,
}

/// The state of the tests.
#[derive(Clone, Debug, Default)]
pub struct Health {
    last: Option<u64>,
    /// The byte that this window counts.
    sample: u8,
    seen: u32,
    /// Bytes of this window so far.
    at: u32,
}

impl Health {
    /// Tests a word.
    ///
    /// # Errors
    /// What is wrong with it and those before it. The state goes on from there.
    pub fn check(&mut self, word: u64) -> Result<(), Sickness> {
        if self.last.replace(word) == Some(word) {
            return Err(Sickness::Repetition);
        }
        for byte in word.to_le_bytes() {
            self.count(byte)?;
        }
        Ok(())
    }

    fn count(&mut self, byte: u8) -> Result<(), Sickness> {
        if self.at == 0 {
            self.sample = byte;
            self.seen = 0;
        }
        self.at = self.at.wrapping_add(1).checked_rem(WINDOW).unwrap_or(0);
        if byte == self.sample {
            self.seen = self.seen.saturating_add(1);
        }
        if self.seen > MOST_IN_WINDOW {
            return Err(Sickness::Proportion);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that is good enough to be healthy.
    fn noise() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn noise_is_healthy() {
        let (mut health, mut noise) = (Health::default(), noise());
        for _ in 0..1_000_000 {
            assert_eq!(health.check(noise()), Ok(()));
        }
    }

    #[test]
    fn a_word_that_comes_twice_is_found() {
        for word in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut health = Health::default();
            assert_eq!(health.check(word), Ok(()));
            assert_eq!(health.check(word), Err(Sickness::Repetition));
            assert_eq!(health.check(word), Err(Sickness::Repetition));
            assert_eq!(health.check(!word), Ok(()));
        }
    }

    /// A byte of each word is stuck: 64 of 512 are the same, and as many of the others as chance has it. Two are too
    /// many for chance.
    #[test]
    fn bytes_that_are_stuck_are_found() {
        let (mut health, mut noise) = (Health::default(), noise());
        let stuck = |word: u64| word & !0xffff | 0x4242;
        let found = (0..64).map(|_| health.check(stuck(noise())));
        assert!(found.into_iter().any(|it| it == Err(Sickness::Proportion)));
    }

    /// The last that is allowed, and the first that is not.
    #[test]
    fn the_proportion_is_exact() {
        for (most, healthy) in [(MOST_IN_WINDOW, true), (MOST_IN_WINDOW + 1, false)] {
            let mut health = Health::default();
            let mut bytes = vec![7; most as usize];
            // The rest of the window, and a window of other bytes, in which 7 does not count.
            bytes.extend((0..WINDOW - most).map(|n| 8 + (n % 200) as u8));
            bytes.extend((0..WINDOW).map(|n| if n == 0 { 9 } else { 7 }));
            let found = bytes.iter().try_for_each(|byte| health.count(*byte));
            assert_eq!(found.is_ok(), healthy, "{most}");
        }
    }
}
