//! From the CPU's words to bytes for the driver: a ChaCha20 generator that is seeded and reseeded from a tested source.

use core::fmt;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::health::{Health, Sickness};

/// Bytes of output after which the generator gets fresh entropy.
pub const RESEED_BYTES: u32 = 1 << 16;
/// Words of a start-up test: 1024 samples of one byte (SP 800-90B, 4.3).
const START_UP_WORDS: u32 = 128;
const SEED_BYTES: usize = 32;

/// An entropy source, such as the instruction RDSEED.
pub trait Source {
    /// The next word, or `None` if the source does not answer after as many attempts as its documentation asks for.
    fn word(&mut self) -> Option<u64>;

    /// How many words have to be drawn for 64 bits of entropy. RDSEED: one. RDRAND is itself a generator, which is
    /// reseeded at the latest after 511 outputs of 128 bits.
    fn words_for_64_bits(&self) -> u32 {
        1
    }
}

/// Why there is no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The source does not answer.
    Silent,
    /// It has failed a test.
    Sick(Sickness),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the CPU's random number generator does not answer",
            Self::Sick(Sickness::Repetition) => "the CPU's random numbers repeat themselves",
            Self::Sick(Sickness::Proportion) => "the CPU's random numbers are not evenly spread",
        })
    }
}

/// A generator with its source.
pub struct Pool<S> {
    source: S,
    health: Health,
    generator: ChaCha20Rng,
    /// Bytes until it gets fresh entropy; none at all while there is trouble.
    left: u32,
    trouble: Option<Trouble>,
}

impl<S: Source> Pool<S> {
    /// Tests the source and seeds a generator.
    ///
    /// # Errors
    /// What is wrong with the source.
    pub fn new(source: S) -> Result<Self, Trouble> {
        let mut pool = Self {
            source,
            health: Health::default(),
            generator: ChaCha20Rng::from_seed([0; SEED_BYTES]),
            left: 0,
            trouble: Some(Trouble::Silent),
        };
        pool.start()?;
        Ok(pool)
    }

    /// Why there is no output at present.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Tries to overcome trouble: tests the source from the beginning, and mixes a fresh seed in.
    ///
    /// # Errors
    /// What is wrong now.
    pub fn recover(&mut self) -> Result<(), Trouble> {
        match self.trouble {
            None => Ok(()),
            Some(_) => self.start(),
        }
    }

    /// Makes sure that so many bytes, of [`RESEED_BYTES`] at most, can be had without the source.
    ///
    /// # Errors
    /// The source is in trouble.
    pub fn prepare(&mut self, bytes: u32) -> Result<(), Trouble> {
        match self.trouble {
            Some(trouble) => Err(trouble),
            None if self.left < bytes => self.noting(Self::reseed),
            None => Ok(()),
        }
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// The source is in trouble; `into` is untouched.
    pub fn fill(&mut self, into: &mut [u8]) -> Result<(), Trouble> {
        let bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
        self.prepare(bytes)?;
        self.left = self.left.saturating_sub(bytes);
        self.generator.fill_bytes(into);
        Ok(())
    }

    fn start(&mut self) -> Result<(), Trouble> {
        self.noting(|pool| {
            pool.health = Health::default();
            for _ in 0..START_UP_WORDS {
                pool.tested_word()?;
            }
            pool.reseed()
        })
    }

    /// Runs `step`, and remembers how it went.
    fn noting(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let outcome = step(self);
        self.trouble = outcome.err();
        if outcome.is_err() {
            self.left = 0;
        }
        outcome
    }

    /// Mixes the generator's own output with fresh entropy into a new seed: it is no weaker than the better of the two,
    /// and what was output before does not follow from it.
    fn reseed(&mut self) -> Result<(), Trouble> {
        let mut seed = [0; SEED_BYTES];
        self.generator.fill_bytes(&mut seed);
        for chunk in seed.chunks_exact_mut(8) {
            for (byte, fresh) in chunk.iter_mut().zip(self.fresh()?.to_le_bytes()) {
                *byte ^= fresh;
            }
        }
        self.generator = ChaCha20Rng::from_seed(seed);
        self.left = RESEED_BYTES;
        Ok(())
    }

    /// 64 bits of entropy, of as many words as that takes.
    fn fresh(&mut self) -> Result<u64, Trouble> {
        let mut fresh = 0_u64;
        for _ in 0..self.source.words_for_64_bits().max(1) {
            fresh = fresh.rotate_left(1) ^ self.tested_word()?;
        }
        Ok(fresh)
    }

    fn tested_word(&mut self) -> Result<u64, Trouble> {
        let word = self.source.word().ok_or(Trouble::Silent)?;
        self.health.check(word).map_err(Trouble::Sick)?;
        Ok(word)
    }
}
