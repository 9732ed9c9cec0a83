//! Where things are in xenstore, relative to the driver domain's home (`/local/domain/D`).
//!
//! A domain may use relative paths for its own home; `vdom` puts the home in front.
//! `vdom` owns everything but [`STATUS`], which the driver domain owns. [`COMMIT`] is written last, in the same
//! transaction as all the rest: who sees it sees everything.

/// The directory of all below. Made by `vdom`; the driver domain may read it.
pub const ROOT: &str = "virtio-domain";
/// [`VERSION_VALUE`].
pub const VERSION: &str = "virtio-domain/version";
/// The version of this layout.
pub const VERSION_VALUE: &str = "1";
/// Domain id of the guest, decimal; see [`crate::Target`].
pub const TARGET: &str = "virtio-domain/target";
/// See [`crate::TargetType`].
pub const TARGET_TYPE: &str = "virtio-domain/target-type";
/// Directory of the devices: one directory a slot, named by the slot's number, with the keys of
/// [`device`].
pub const DEVICE: &str = "virtio-domain/device";
/// `1` when the description is complete. The driver domain watches it.
pub const COMMIT: &str = "virtio-domain/commit";
/// The value of [`COMMIT`].
pub const COMMIT_VALUE: &str = "1";
/// Directory that the driver domain writes.
pub const STATUS: &str = "virtio-domain/status";
/// See [`crate::State`].
pub const STATUS_STATE: &str = "virtio-domain/status/state";
/// Why the state is `failed`, and what to do.
pub const STATUS_ERROR: &str = "virtio-domain/status/error";
/// Directory of counters: decimal numbers.
pub const STATUS_COUNTERS: &str = "virtio-domain/status/counters";

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
    /// How the device interrupts the guest.
    pub const INTERRUPT: &str = "interrupt";
    /// How the guest's driver kicks.
    pub const DOORBELL: &str = "doorbell";
    /// In configuration strings only: the slot. In xenstore it is the directory's name.
    pub const SLOT: &str = "slot";
    /// All that xenstore has.
    pub const ALL: [&str; 10] = [
        TYPE, BACKEND, SERIAL, READONLY, BLOCK_SIZE, PACKED, QUEUES, QUEUE_SIZE, INTERRUPT,
        DOORBELL,
    ];
}
