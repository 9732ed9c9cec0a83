//! Register offsets (virtio 1.3, 4.2.2).

/// One register of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Register {
    MagicValue,
    Version,
    DeviceId,
    VendorId,
    DeviceFeatures,
    DeviceFeaturesSel,
    DriverFeatures,
    DriverFeaturesSel,
    QueueSel,
    QueueSizeMax,
    QueueSize,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAck,
    Status,
    QueueDescLow,
    QueueDescHigh,
    QueueDriverLow,
    QueueDriverHigh,
    QueueDeviceLow,
    QueueDeviceHigh,
    ShmSel,
    /// SHMLenLow, SHMLenHigh, SHMBaseLow, SHMBaseHigh.
    Shm,
    QueueReset,
    ConfigGeneration,
}

/// Where the register QueueNotify is.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Where configuration space starts.
pub const CONFIG: u64 = 0x100;
/// The value of MagicValue: "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// The value of Version: not the legacy interface.
pub const VERSION: u32 = 2;
/// The value of VendorID: nobody in particular ("VDOM").
pub const VENDOR: u32 = 0x4d4f_4456;

impl Register {
    /// Where the register Status is.
    pub const STATUS: u64 = 0x70;

    /// The register at an offset.
    pub fn at(offset: u64) -> Option<Self> {
        Some(match offset {
            0x000 => Self::MagicValue,
            0x004 => Self::Version,
            0x008 => Self::DeviceId,
            0x00c => Self::VendorId,
            0x010 => Self::DeviceFeatures,
            0x014 => Self::DeviceFeaturesSel,
            0x020 => Self::DriverFeatures,
            0x024 => Self::DriverFeaturesSel,
            0x030 => Self::QueueSel,
            0x034 => Self::QueueSizeMax,
            0x038 => Self::QueueSize,
            0x044 => Self::QueueReady,
            QUEUE_NOTIFY => Self::QueueNotify,
            0x060 => Self::InterruptStatus,
            0x064 => Self::InterruptAck,
            Self::STATUS => Self::Status,
            0x080 => Self::QueueDescLow,
            0x084 => Self::QueueDescHigh,
            0x090 => Self::QueueDriverLow,
            0x094 => Self::QueueDriverHigh,
            0x0a0 => Self::QueueDeviceLow,
            0x0a4 => Self::QueueDeviceHigh,
            0x0ac => Self::ShmSel,
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => Self::Shm,
            0x0c0 => Self::QueueReset,
            0x0fc => Self::ConfigGeneration,
            _ => return None,
        })
    }
}
