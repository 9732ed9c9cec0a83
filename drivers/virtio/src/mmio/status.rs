//! The device status field (virtio 1.3, 2.1 and 3.1.1): which step may follow which.

bitflags::bitflags! {
    /// Device status.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Status: u32 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// The features are settled.
        const FEATURES_OK = 8;
        /// The device is broken until it is reset. Set by the device.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
    }
}

/// What a write to the register Status asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start over.
    Reset,
    /// Add these bits, which may be none.
    Add(Status),
    /// It means nothing: it is ignored.
    Illegal,
}

/// The bits that must be there before a bit may be set.
const NEEDS: [(Status, Status); 3] = [
    (Status::DRIVER, Status::ACKNOWLEDGE),
    (
        Status::FEATURES_OK,
        Status::ACKNOWLEDGE.union(Status::DRIVER),
    ),
    (
        Status::DRIVER_OK,
        Status::ACKNOWLEDGE
            .union(Status::DRIVER)
            .union(Status::FEATURES_OK),
    ),
];

impl Status {
    /// What writing `value` asks for. Bits are only ever added, save by a reset; the device's own bit is not the
    /// driver's to change, and after FAILED there is only a reset.
    pub fn step(self, value: u32) -> Step {
        if value == 0 {
            return Step::Reset;
        }
        let Some(wanted) = Status::from_bits(value) else {
            return Step::Illegal;
        };
        let driver = self.difference(Status::NEEDS_RESET);
        let wanted = wanted.difference(Status::NEEDS_RESET);
        if !wanted.contains(driver) {
            return Step::Illegal;
        }
        let added = wanted.difference(driver);
        let allowed = NEEDS.iter().all(|&(bit, needed)| {
            // Several bits in one write are taken in their order.
            !added.contains(bit) || wanted.contains(needed)
        });
        if !allowed || (self.contains(Status::FAILED) && !added.is_empty()) {
            return Step::Illegal;
        }
        Step::Add(added)
    }
}

#[cfg(test)]
mod tests {
    use super::{Status, Step};

    /// Attack case 18: every step from every state, against the rules in other words.
    #[test]
    fn row18_every_transition() {
        let states = (0..=255u32).filter_map(Status::from_bits);
        for from in states {
            for value in 0..=0x1ffu32 {
                let step = from.step(value);
                let Some(to) = Status::from_bits(value).filter(|_| value != 0) else {
                    assert_eq!(
                        step,
                        if value == 0 {
                            Step::Reset
                        } else {
                            Step::Illegal
                        }
                    );
                    continue;
                };
                let added = to - from - Status::NEEDS_RESET;
                let removed = from - to - Status::NEEDS_RESET;
                let order = [
                    Status::ACKNOWLEDGE,
                    Status::DRIVER,
                    Status::FEATURES_OK,
                    Status::DRIVER_OK,
                ];
                let first_missing = order.iter().position(|&bit| !to.contains(bit)).unwrap_or(4);
                let skips = order
                    .get(first_missing..)
                    .is_some_and(|rest| rest.iter().any(|&bit| added.contains(bit)));
                let dead = from.contains(Status::FAILED) && !added.is_empty();
                let expected = if !removed.is_empty() || skips || dead {
                    Step::Illegal
                } else {
                    Step::Add(added)
                };
                assert_eq!(step, expected, "{from:?} then {to:?}");
            }
        }
    }
}
