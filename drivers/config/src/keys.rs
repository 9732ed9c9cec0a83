//! Where things are in xenstore, relative to the driver domain's home (`/local/domain/D`).
//!
//! A domain may use relative paths for its own home; `vdom` puts the home in front.
//! `vdom` owns everything but [`STATUS`], which the driver domain owns. [`COMMIT`] is written last, in the same
//! transaction as all the rest: who sees it sees everything.

use crate::slot::SlotIndex;

/// The directory of all below. Made by `vdom`; the driver domain may read it.
pub const ROOT: &str = "virtio-domain";
/// [`VERSION_VALUE`] or [`VERSION_SUCCESSOR`].
pub const VERSION: &str = "virtio-domain/version";
/// The version of this layout.
pub const VERSION_VALUE: &str = "1";
/// The version of the same layout for a driver domain that is to take the place of another one, in steps: see
/// [`crate::succession`]. One that does not know these steps refuses it; it would take the guest at once otherwise.
pub const VERSION_SUCCESSOR: &str = "1-successor";
/// Domain id of the guest, decimal; see [`crate::Target`].
pub const TARGET: &str = "virtio-domain/target";
/// See [`crate::TargetType`].
pub const TARGET_TYPE: &str = "virtio-domain/target-type";
/// How each slot is declared to an HVM guest, which does not change: see [`crate::Table`]. Without it, as the devices say
/// that are described when the guest starts.
pub const TABLE: &str = "virtio-domain/table";
/// Directory of the devices: one directory a slot, named by the slot's number, with the keys of
/// [`device`].
pub const DEVICE: &str = "virtio-domain/device";
/// `1` when the description is complete. The driver domain watches it.
pub const COMMIT: &str = "virtio-domain/commit";
/// The value of [`COMMIT`].
pub const COMMIT_VALUE: &str = "1";
/// What the driver domain is to do next, when another one takes its place, or it another's: see
/// [`crate::succession::Order`]. The driver domain watches it.
pub const ORDER: &str = "virtio-domain/order";
/// Directory that the driver domain writes.
pub const STATUS: &str = "virtio-domain/status";
/// See [`crate::State`].
pub const STATUS_STATE: &str = "virtio-domain/status/state";
/// Why the state is `failed`, and what to do.
pub const STATUS_ERROR: &str = "virtio-domain/status/error";
/// How far it is with what [`ORDER`] says: see [`crate::succession::Stage`].
pub const STATUS_STAGE: &str = "virtio-domain/status/stage";
/// Where its memory is that another driver domain has a counterpart of: see [`crate::succession::Piece`].
pub const STATUS_MEMORY: &str = "virtio-domain/status/memory";
/// Directory of counters; see [`CounterPath`].
pub const STATUS_COUNTERS: &str = "virtio-domain/status/counters";

/// Where counters are.
#[derive(Clone, Copy, Debug)]
pub enum CounterPath<'a> {
    /// The one of that name, which is of no device: a decimal number.
    Common(&'a str),
    /// Those of the device in a slot: see [`crate::counters`].
    Device(SlotIndex),
}

/// What the names of devices' counters, and of their nodes, begin with.
pub const OF_DEVICE: &str = "device-";

impl core::fmt::Display for CounterPath<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Common(name) => write!(f, "{STATUS_COUNTERS}/{name}"),
            Self::Device(slot) => write!(f, "{STATUS_COUNTERS}/{OF_DEVICE}{slot}"),
        }
    }
}

/// Counters that `vdom list` shows; there may be others beside them.
pub mod counter {
    /// Doorbells that the guest has rung.
    pub const DOORBELLS: &str = "doorbells";
}

/// Keys of a device.
pub mod device {
    /// Device type.
    pub const TYPE: &str = "type";
    /// Back end.
    pub const BACKEND: &str = "backend";
    /// Serial number.
    pub const SERIAL: &str = "serial";
    /// Whether writes are refused.
    pub const READONLY: &str = "readonly";
    /// Logical block size.
    pub const BLOCK_SIZE: &str = "block-size";
    /// Whether packed rings are offered.
    pub const PACKED: &str = "packed";
    /// Number of queues.
    pub const QUEUES: &str = "queues";
    /// Most entries of a queue.
    pub const QUEUE_SIZE: &str = "queue-size";
    /// Ethernet address.
    pub const MAC: &str = "mac";
    /// Most bytes of a frame behind its Ethernet header.
    pub const MTU: &str = "mtu";
    /// Whether checksums and segmentation may be left to the other side.
    pub const OFFLOADS: &str = "offloads";
    /// Most random bytes a second.
    pub const RATE: &str = "rate";
    /// Names of a console device's ports.
    pub const PORTS: &str = "ports";
    /// How the device interrupts the guest.
    pub const INTERRUPT: &str = "interrupt";
    /// How the guest's driver kicks.
    pub const DOORBELL: &str = "doorbell";
    /// What it costs the driver to read registers.
    pub const REGISTERS: &str = "registers";
    /// How the device gets at the driver's memory.
    pub const MEMORY: &str = "memory";
    /// In configuration strings only: the slot. In xenstore it is the directory's name.
    pub const SLOT: &str = "slot";
    /// All that xenstore has.
    pub const ALL: [&str; 17] = [
        TYPE, BACKEND, SERIAL, READONLY, BLOCK_SIZE, PACKED, QUEUES, QUEUE_SIZE, MAC, MTU,
        OFFLOADS, RATE, PORTS, INTERRUPT, DOORBELL, REGISTERS, MEMORY,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_device_are_in_a_node() {
        let common = CounterPath::Common("doorbells").to_string();
        assert_eq!(common, "virtio-domain/status/counters/doorbells");
        let slot = SlotIndex::parse(b"31").unwrap();
        let device = CounterPath::Device(slot).to_string();
        assert_eq!(device, "virtio-domain/status/counters/device-31");
    }

    /// xenstored takes 2048 bytes a node by default, and keeps the names of its children in it.
    #[test]
    fn all_devices_fit_into_one_directory() {
        let devices: usize = crate::SlotIndex::all()
            .map(|slot| format!("device-{slot}").len() + 1)
            .sum();
        assert!(devices < 400);
    }
}
