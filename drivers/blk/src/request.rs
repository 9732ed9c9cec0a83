//! Requests on the wire (virtio 1.3, 5.2.6).

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    /// Read.
    In,
    /// Write.
    Out,
    /// Make what was written durable.
    Flush,
    /// Tell the serial number.
    GetId,
    /// The content is not needed any more.
    Discard,
    /// Make ranges read as zeroes.
    WriteZeroes,
    /// Something that is not served here.
    Other(u32),
}

impl From<u32> for RequestType {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::In,
            1 => Self::Out,
            4 => Self::Flush,
            8 => Self::GetId,
            11 => Self::Discard,
            13 => Self::WriteZeroes,
            other => Self::Other(other),
        }
    }
}

/// The header of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked for.
    pub kind: RequestType,
    /// Where, in sectors.
    pub sector: u64,
}

/// Bytes of a [`Header`].
pub const HEADER: usize = 16;

impl Header {
    /// From its bytes.
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        Self {
            kind: u32::from_le_bytes([t0, t1, t2, t3]).into(),
            sector: u64::from_le_bytes(sector),
        }
    }
}

/// The status byte at the end of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// Done.
    Ok = 0,
    /// Not done, or only in part.
    IoErr = 1,
    /// Not understood.
    Unsupp = 2,
}

/// One range of a DISCARD or WRITE_ZEROES request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectorRange {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u32,
    /// Bit 0: the storage may be given back; other bits are reserved.
    pub flags: u32,
}

/// Bytes of a [`SectorRange`].
pub const RANGE: usize = 16;

impl SectorRange {
    /// From its bytes.
    pub fn decode(bytes: [u8; RANGE]) -> Self {
        let [s @ .., n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
        Self {
            sector: u64::from_le_bytes(s),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        }
    }
}
