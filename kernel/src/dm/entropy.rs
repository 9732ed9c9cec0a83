//! Entropy devices: from the CPU's generator to a device.

use alloc::string::{String, ToString};

use vd_config::DeviceDescription;
use vd_rng::{Allowance, EntropyDevice, Pool, Source};

use crate::arch::random::Generator;

/// RDRAND is reseeded after 511 outputs of 128 bits at the latest (Intel's guide to its generator, 5.2.6): so many
/// words hold a seed.
const RDRAND_WORDS: u32 = 1024;

/// The CPU's generator.
pub struct Cpu(Generator);

impl Source for Cpu {
    fn word(&mut self) -> Option<u64> {
        self.0.word()
    }

    fn words_for_64_bits(&self) -> u32 {
        match self.0 {
            Generator::Seed => 1,
            Generator::Rand => RDRAND_WORDS,
        }
    }
}

/// The device of a description.
///
/// # Errors
/// The CPU has no generator that works, and what to do.
pub fn device(device: &DeviceDescription) -> Result<EntropyDevice<Cpu>, String> {
    let generator = Generator::detect().ok_or(
        "this CPU shows neither RDSEED nor RDRAND, which type=rng needs: see cpuid= in the driver domain's configuration",
    )?;
    let pool = Pool::new(Cpu(generator)).map_err(|trouble| trouble.to_string())?;
    log::info!("entropy from {generator:?}");
    Ok(EntropyDevice::new(pool, Allowance::new(device.rate())))
}
