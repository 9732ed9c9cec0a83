//! Requests and responses on the ring, as the x86_64 ABI lays them out (public/io/blkif.h).
//!
//! Bytes at fixed offsets: a request is put together here and copied to the ring, a response is copied from it and taken
//! apart here. Numbers of sectors are in units of 512 bytes, whatever the size of the disk's blocks.

/// Bytes of a slot of the ring: the larger of a request and a response.
pub const SLOT: usize = 112;
/// Bytes of a response.
pub const RESPONSE: usize = 16;
/// Bytes of a segment.
pub const SEGMENT: usize = 8;
/// Most segments of a request that carries them itself.
pub const MAX_SEGMENTS: usize = 11;
/// Most segments on one page, for a request that points to them.
pub const SEGMENTS_PER_PAGE: usize = 512;
/// The value of the node `protocol` for this layout.
pub const PROTOCOL: &str = "x86_64-abi";

/// `BLKIF_OP_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Read.
    Read = 0,
    /// Write.
    Write = 1,
    /// Everything before it is durable before anything after it is begun.
    WriteBarrier = 2,
    /// Everything that was finished is made durable.
    FlushDiskcache = 3,
    /// The content is not needed any more.
    Discard = 5,
    /// A read or a write whose segments are on a page of their own.
    Indirect = 6,
}

/// A piece of a request's data: a part of a granted page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: u32,
    /// First sector in it.
    pub first: u8,
    /// Last sector in it.
    pub last: u8,
}

impl Segment {
    /// Its bytes.
    pub fn encode(self) -> [u8; SEGMENT] {
        let [a, b, c, d] = self.gref.to_le_bytes();
        [a, b, c, d, self.first, self.last, 0, 0]
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// One that carries its segments: a read, a write, or a flush or barrier with none.
    Direct {
        /// What.
        op: Op,
        /// First sector.
        sector: u64,
        /// At most [`MAX_SEGMENTS`].
        segments: &'a [Segment],
    },
    /// One whose segments are on a page.
    Indirect {
        /// A read or a write.
        op: Op,
        /// First sector.
        sector: u64,
        /// How many segments.
        segments: u16,
        /// The page; more than [`SEGMENTS_PER_PAGE`] are never asked for at once.
        page: u32,
    },
    /// A discard.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

impl Request<'_> {
    /// Its bytes. `handle` is the number of the virtual device, `id` what the response will name.
    pub fn encode(&self, handle: u16, id: u64) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        let mut put = |at: usize, bytes: &[u8]| {
            let place = slot.get_mut(at..).and_then(|s| s.get_mut(..bytes.len()));
            if let Some(place) = place {
                place.copy_from_slice(bytes);
            }
        };
        put(8, &id.to_le_bytes());
        match *self {
            Self::Direct {
                op,
                sector,
                segments,
            } => {
                let count = segments.len().min(MAX_SEGMENTS);
                put(0, &[op as u8, u8::try_from(count).unwrap_or(0)]);
                put(2, &handle.to_le_bytes());
                put(16, &sector.to_le_bytes());
                for (at, segment) in (24..).step_by(SEGMENT).zip(segments.iter().take(count)) {
                    put(at, &segment.encode());
                }
            }
            Self::Indirect {
                op,
                sector,
                segments,
                page,
            } => {
                put(0, &[Op::Indirect as u8, op as u8]);
                put(2, &segments.to_le_bytes());
                put(16, &sector.to_le_bytes());
                put(24, &handle.to_le_bytes());
                put(28, &page.to_le_bytes());
            }
            Self::Discard { sector, sectors } => {
                put(0, &[Op::Discard as u8]);
                put(2, &handle.to_le_bytes());
                put(16, &sector.to_le_bytes());
                put(24, &sectors.to_le_bytes());
            }
        }
        slot
    }

    /// The operations that a response to it may name: back ends answer a request that points to its segments with either.
    pub fn answers(&self) -> [u8; 2] {
        match *self {
            Self::Direct { op, .. } => [op as u8; 2],
            Self::Indirect { op, .. } => [op as u8, Op::Indirect as u8],
            Self::Discard { .. } => [Op::Discard as u8; 2],
        }
    }
}

/// `BLKIF_RSP_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Okay,
    /// Failed; also for numbers that have no meaning.
    Error,
    /// Not known to the back end.
    Unsupported,
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Of the request.
    pub id: u64,
    /// Of the request.
    pub operation: u8,
    /// How it went.
    pub status: Status,
}

impl Response {
    /// From its bytes.
    pub fn decode(bytes: [u8; RESPONSE]) -> Self {
        let [i0, i1, i2, i3, i4, i5, i6, i7, operation, _, s0, s1, ..] = bytes;
        Self {
            id: u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            operation,
            status: match i16::from_le_bytes([s0, s1]) {
                0 => Status::Okay,
                -2 => Status::Unsupported,
                _ => Status::Error,
            },
        }
    }
}
