//! Feature bits and configuration space (virtio 1.3, 5.2.3 and 5.2.4).

bitflags::bitflags! {
    /// Feature bits of block devices.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BlkFeatures: u64 {
        /// `seg_max` is valid.
        const SEG_MAX = 1 << 2;
        /// The disk cannot be written.
        const RO = 1 << 5;
        /// `blk_size` is valid.
        const BLK_SIZE = 1 << 6;
        /// Requests of type FLUSH.
        const FLUSH = 1 << 9;
        /// The topology is valid.
        const TOPOLOGY = 1 << 10;
        /// `num_queues` is valid.
        const MQ = 1 << 12;
        /// Requests of type DISCARD.
        const DISCARD = 1 << 13;
        /// Requests of type WRITE_ZEROES.
        const WRITE_ZEROES = 1 << 14;
    }
}

/// Most data segments of a request. Drivers keep to it whatever the size of the queue; with header and status it fills a
/// queue of 256 entries, and is 1 MiB in pages.
pub const SEG_MAX: u32 = 254;
/// Most ranges of a DISCARD or WRITE_ZEROES request.
pub const MAX_RANGES: u32 = 4;
/// Most sectors of such a range where it is work for the device: the work of one request is bounded.
pub const MAX_RANGE_SECTORS: u32 = 2 * 1024 * 1024 / 512;

/// How a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block: a power of two, 512 at least.
    pub block_size: u32,
    /// Bytes of a physical block: a power of two, `block_size` at least.
    pub physical_block_size: u32,
    /// Bytes that are best moved at once.
    pub optimal_io_size: u32,
}

impl Geometry {
    /// A disk of blocks of this size, of which several fit a page.
    pub const fn of_blocks(block_size: u32) -> Self {
        Self {
            block_size,
            physical_block_size: 4096,
            optimal_io_size: 64 * 1024,
        }
    }
}

/// How much a DISCARD or WRITE_ZEROES request may ask for, and in what steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sectors of a range of a DISCARD request.
    pub discard_sectors: u32,
    /// What the ranges of a DISCARD request are best aligned to, in sectors.
    pub discard_alignment: u32,
    /// Most sectors of a range of a WRITE_ZEROES request.
    pub zeroes_sectors: u32,
    /// Whether zeroed ranges may be given back.
    pub may_unmap: bool,
}

impl Limits {
    /// For storage that does all of this itself, while the driver waits.
    pub const fn of_blocks(block_size: u32) -> Self {
        Self {
            discard_sectors: MAX_RANGE_SECTORS,
            discard_alignment: block_size / 512,
            zeroes_sectors: MAX_RANGE_SECTORS,
            may_unmap: true,
        }
    }
}

/// Bytes of the configuration space, to the end of `write_zeroes_may_unmap` and its padding.
pub const SIZE: usize = 60;

/// Configuration space.
pub fn config_space(sectors: u64, geometry: &Geometry, queues: u16, limits: &Limits) -> [u8; SIZE] {
    let blocks = |bytes: u32| bytes.checked_div(geometry.block_size).unwrap_or(0);
    let physical = blocks(geometry.physical_block_size).max(1).trailing_zeros();
    let mut space = [0; SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        let place = space
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &geometry.block_size.to_le_bytes());
    // Topology: the exponent of logical blocks in a physical one, the offset of the first aligned block, then sizes
    // in logical blocks.
    put(24, &[u8::try_from(physical).unwrap_or(0), 0]);
    put(26, &1u16.to_le_bytes());
    put(28, &blocks(geometry.optimal_io_size).to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &limits.discard_sectors.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &limits.discard_alignment.to_le_bytes());
    put(48, &limits.zeroes_sectors.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[limits.may_unmap.into()]);
    space
}
