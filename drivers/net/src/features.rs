//! Feature bits of virtio-net (virtio 1.3, 5.1.3), and what a driver's choice comes to.

use vd_virtio::Features;

bitflags::bitflags! {
    /// Feature bits of virtio-net that are offered here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct NetFeatures: u64 {
        /// The driver may leave checksums to the device.
        const CSUM = 1 << 0;
        /// The device may leave checksums to the driver.
        const GUEST_CSUM = 1 << 1;
        /// The configuration has an MTU.
        const MTU = 1 << 3;
        /// The configuration has an address.
        const MAC = 1 << 5;
        /// The driver takes large TCP segments over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes large TCP segments over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// The driver may send large TCP segments over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The driver may send large TCP segments over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// A frame may take several receive buffers.
        const MRG_RXBUF = 1 << 15;
        /// The configuration has the link's status.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// There are several pairs of queues.
        const MQ = 1 << 22;
        /// The driver may change the address.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Bits of the transport, and others.
        const _ = !0;
    }
}

impl NetFeatures {
    /// What lets each side leave checksums and segmentation to the other.
    pub const OFFLOADS: Self = Self::CSUM
        .union(Self::GUEST_CSUM)
        .union(Self::GUEST_TSO4)
        .union(Self::GUEST_TSO6)
        .union(Self::HOST_TSO4)
        .union(Self::HOST_TSO6);

    /// What a device with so many pairs of queues offers. The switch can do for a receiver whatever that one cannot, so
    /// that no offer depends on another port.
    pub(crate) fn offered(pairs: u16) -> Self {
        let mut features = Self::OFFLOADS
            | Self::MTU
            | Self::MAC
            | Self::MRG_RXBUF
            | Self::STATUS
            | Self::CTRL_VQ
            | Self::CTRL_MAC_ADDR;
        features.set(Self::MQ, pairs > 1);
        features
    }

    /// What the driver's choice comes to: a feature without those that it requires (5.1.3.1) does not count.
    pub(crate) fn effective(chosen: Features) -> Self {
        let mut features = Self::from_bits_retain(chosen.bits());
        let requirements = [
            (Self::CSUM, Self::HOST_TSO4 | Self::HOST_TSO6),
            (Self::GUEST_CSUM, Self::GUEST_TSO4 | Self::GUEST_TSO6),
            (Self::CTRL_VQ, Self::MQ | Self::CTRL_MAC_ADDR),
        ];
        for (required, dependent) in requirements {
            if !features.contains(required) {
                features.remove(dependent);
            }
        }
        features
    }
}
