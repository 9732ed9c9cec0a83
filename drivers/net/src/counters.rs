//! What a port has done, and why it did not do more.

use crate::packet::Bad;

/// Counters of one port; they only grow, also over resets. A frame that the driver sends is counted in exactly one of
/// the first group of counters, and for every receiver in one of the second group of that one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken from the driver and forwarded, if only to a port that dropped them.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames shorter than an Ethernet header.
    pub tx_short: u64,
    /// Frames longer than the MTU allows.
    pub tx_long: u64,
    /// Frames whose virtio header lies, or asks for what was not negotiated.
    pub tx_bad_offload: u64,
    /// Frames with a source that is a group, nobody, or another port's address.
    pub tx_spoofed: u64,
    /// Frames to the group addresses that no bridge forwards (802.1D, 7.12.6).
    pub tx_reserved: u64,
    /// Frames to a port without a driver or with its link down, to the sender itself, or to nobody.
    pub tx_unreachable: u64,

    /// Frames given to the driver; each part of one that was cut counts.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that waited for buffers until there was no room, or for too long.
    pub rx_no_room: u64,
    /// Frames longer than this port's MTU allows or than the driver's buffers are.
    pub rx_long: u64,
    /// Frames that could not be cut into parts for a driver that does not take large ones, or have too many for an uplink.
    pub rx_uncut: u64,

    /// Frames sent to all ports.
    pub flooded: u64,
    /// Frames of this port that had to wait.
    pub parked: u64,
    /// Checksums computed for this port's driver, which does not take frames without.
    pub checksums: u64,
    /// Large frames that were cut for this port's driver.
    pub cut: u64,
    /// Commands carried out.
    pub commands: u64,
    /// Commands refused.
    pub bad_commands: u64,
}

impl Counters {
    /// All of them, by name.
    pub fn named(&self) -> [(&'static str, u64); 19] {
        [
            ("tx-frames", self.tx_frames),
            ("tx-bytes", self.tx_bytes),
            ("tx-short", self.tx_short),
            ("tx-long", self.tx_long),
            ("tx-bad-offload", self.tx_bad_offload),
            ("tx-spoofed", self.tx_spoofed),
            ("tx-reserved", self.tx_reserved),
            ("tx-unreachable", self.tx_unreachable),
            ("rx-frames", self.rx_frames),
            ("rx-bytes", self.rx_bytes),
            ("rx-no-room", self.rx_no_room),
            ("rx-long", self.rx_long),
            ("rx-uncut", self.rx_uncut),
            ("flooded", self.flooded),
            ("parked", self.parked),
            ("checksums", self.checksums),
            ("cut", self.cut),
            ("commands", self.commands),
            ("bad-commands", self.bad_commands),
        ]
    }
}

impl Counters {
    /// The one for a frame that is refused.
    pub(crate) fn bad(&mut self, why: Bad) -> &mut u64 {
        match why {
            Bad::Short => &mut self.tx_short,
            Bad::Long => &mut self.tx_long,
            Bad::Offload => &mut self.tx_bad_offload,
        }
    }
}

/// Adds one.
pub(crate) fn bump(counter: &mut u64) {
    add(counter, 1);
}

/// Adds some. 64 bits do not overflow.
pub(crate) fn add(counter: &mut u64, more: usize) {
    *counter = counter.wrapping_add(u64::try_from(more).unwrap_or(u64::MAX));
}
