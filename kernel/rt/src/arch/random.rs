//! The CPU's random number generators: RDSEED, and RDRAND where there is no other (Intel SDM volume 1, 7.3.17).

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// Attempts before the generator counts as silent. RDSEED may be asked faster than it can answer.
const ATTEMPTS: u32 = 1000;

/// An instruction that gives random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// RDSEED: every word is fresh.
    Seed,
    /// RDRAND: a generator that the CPU seeds from time to time.
    Rand,
}

impl Generator {
    /// The best that this CPU has, as Xen shows it.
    pub fn detect() -> Option<Self> {
        if __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0 {
            Some(Self::Seed)
        } else if __cpuid(1).ecx & 1 << 30 != 0 {
            Some(Self::Rand)
        } else {
            None
        }
    }

    /// A word, unless there is none for a long time.
    pub fn word(self) -> Option<u64> {
        (0..ATTEMPTS).find_map(|_| {
            let word = self.attempt();
            if word.is_none() {
                core::hint::spin_loop();
            }
            word
        })
    }

    fn attempt(self) -> Option<u64> {
        let (word, valid): (u64, u8);
        match self {
            // SAFETY: the CPU has the instruction, which `detect` has found; it changes the register and the flags only.
            Self::Seed => unsafe {
                asm!("rdseed {}", "setc {}", out(reg) word, out(reg_byte) valid, options(nomem, nostack));
            },
            // SAFETY: as above.
            Self::Rand => unsafe {
                asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) valid, options(nomem, nostack));
            },
        }
        (valid != 0).then_some(word)
    }
}
