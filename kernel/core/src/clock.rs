//! pvclock: from a TSC reading to nanoseconds of Xen's clock.
//!
//! Xen publishes `vcpu_time_info` (public/xen.h): nanoseconds at a TSC stamp and
//! the factor from then on. A copy is consistent when its version is even and
//! did not change while it was copied; the reader in the kernel sees to that.

/// A consistent copy of `vcpu_time_info`'s scaling fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds of Xen's clock, at that TSC.
    pub system_time: u64,
    /// 32-bit binary fraction of nanoseconds a (shifted) cycle.
    pub tsc_to_system_mul: u32,
    /// Left shift of the cycle count before the multiplication; negative = right.
    pub tsc_shift: i8,
}

impl TimeInfo {
    /// Nanoseconds of Xen's clock, at TSC value `tsc`.
    ///
    /// A domain's TSC starts at 0, but Xen may have taken the stamp before that: then the stamp is a negative number,
    /// and the difference has to wrap. A TSC that is really before the stamp (another CPU's) gives the stamp's time:
    /// time never runs backwards by the size of the TSC.
    #[must_use]
    pub fn nanoseconds(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        let delta = if delta.cast_signed() < 0 {
            0
        } else {
            u128::from(delta)
        };
        let shift = u32::from(self.tsc_shift.unsigned_abs()).min(63);
        let shifted = if self.tsc_shift < 0 {
            delta >> shift
        } else {
            // 64 bits shifted by up to 63 fit 128 bits.
            delta.checked_shl(shift).unwrap_or(u128::MAX)
        };
        let scaled = shifted.saturating_mul(u128::from(self.tsc_to_system_mul)) >> 32;
        self.system_time
            .saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mul: u32, shift: i8) -> TimeInfo {
        TimeInfo {
            tsc_timestamp: 1_000,
            system_time: 5_000_000,
            tsc_to_system_mul: mul,
            tsc_shift: shift,
        }
    }

    #[test]
    fn a_2_5_ghz_clock_scales_by_0_4() {
        let info = at(0xCCCC_CCCD, -1);
        assert_eq!(info.nanoseconds(1_000), 5_000_000);
        assert_eq!(
            info.nanoseconds(1_000 + 2_500_000_000),
            5_000_000 + 1_000_000_000
        );
    }

    #[test]
    fn a_slow_clock_shifts_left() {
        // 500 MHz: 2 ns a cycle = shift 2, factor 0.5.
        assert_eq!(
            at(0x8000_0000, 2).nanoseconds(1_000 + 500),
            5_000_000 + 1_000
        );
    }

    #[test]
    fn a_tsc_before_the_stamp_does_not_wrap() {
        assert_eq!(at(0x8000_0000, 0).nanoseconds(0), 5_000_000);
    }

    #[test]
    fn a_stamp_from_before_the_domain_started() {
        let mut info = at(0x8000_0000, 1);
        info.tsc_timestamp = 0u64.wrapping_sub(400);
        assert_eq!(info.nanoseconds(100), 5_000_000 + 500);
    }

    #[test]
    fn extremes_saturate() {
        let far = 1_000 + i64::MAX as u64;
        assert_eq!(at(u32::MAX, 127).nanoseconds(far), u64::MAX);
        assert_eq!(at(u32::MAX, -128).nanoseconds(far), 5_000_000);
        assert_eq!(
            at(u32::MAX, 127).nanoseconds(far + 1),
            5_000_000,
            "that is before the stamp"
        );
    }
}
