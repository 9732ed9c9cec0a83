//! Feature bits that belong to no device type (virtio 1.3, section 6), and what can be wrong with a driver's choice.

use core::fmt;

bitflags::bitflags! {
    /// Feature bits; device types add their own in bits 0 to 23 and 50 to 127 (only the first 64 are used here).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Descriptors may point to tables of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// used_event and avail_event instead of flags.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// Addresses are those that the platform gives a device, not guest-physical ones: grants, say.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed rings instead of split ones.
        const RING_PACKED = 1 << 34;
        /// The device gives buffers back in the order in which it got them.
        const IN_ORDER = 1 << 35;
        /// The driver orders its memory accesses for devices that are not as coherent as another CPU.
        const ORDER_PLATFORM = 1 << 36;
        /// A kick says how far the driver is.
        const NOTIFICATION_DATA = 1 << 38;
        /// One queue can be reset while the others go on.
        const RING_RESET = 1 << 40;
        /// Bits of the device type.
        const _ = !0;
    }
}

impl Features {
    /// What the transport and the rings offer, whatever the device.
    ///
    /// Not among them: [`Features::IN_ORDER`], which a device offers that keeps the order; [`Features::ACCESS_PLATFORM`],
    /// which means something only where the platform translates addresses; [`Features::ORDER_PLATFORM`], which costs the
    /// driver stronger barriers for nothing, as the device side is a CPU like its own.
    pub const CORE: Features = Features::INDIRECT_DESC
        .union(Features::EVENT_IDX)
        .union(Features::VERSION_1)
        .union(Features::RING_PACKED)
        .union(Features::NOTIFICATION_DATA)
        .union(Features::RING_RESET);
}

/// Why a driver's choice of features was refused: FEATURES_OK does not stick, and the driver finds that out
/// (3.1.1, step 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A driver for legacy devices only.
    Legacy,
    /// Features that were not offered; none of them may be below 64.
    NotOffered(Features),
    /// Features without which the device cannot be used.
    Missing(Features),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str(
                "the driver is for legacy devices: it needs one that knows VIRTIO_F_VERSION_1",
            ),
            Self::NotOffered(features) => {
                write!(
                    f,
                    "the driver chose features that were not offered: {:#x}",
                    features.bits()
                )
            }
            Self::Missing(features) => {
                write!(
                    f,
                    "the driver lacks features that are needed: {:#x}",
                    features.bits()
                )
            }
        }
    }
}
