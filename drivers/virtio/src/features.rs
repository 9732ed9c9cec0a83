//! Feature bits that belong to no device type (virtio 1.3, section 6).

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
        /// Packed rings instead of split ones.
        const RING_PACKED = 1 << 34;
        /// One queue can be reset while the others go on.
        const RING_RESET = 1 << 40;
        /// Bits of the device type.
        const _ = !0;
    }
}

impl Features {
    /// What the transport and the rings offer, whatever the device.
    pub const CORE: Features = Features::INDIRECT_DESC
        .union(Features::EVENT_IDX)
        .union(Features::VERSION_1)
        .union(Features::RING_PACKED)
        .union(Features::RING_RESET);
}
