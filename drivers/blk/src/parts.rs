//! What every block device does alike, however its storage works: taking a request apart, checking its place, answering.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, Features, GuestMemory, Span};

use crate::backend::SECTOR;
use crate::config::{BlkFeatures, MAX_RANGES};
use crate::counters::{Counters, add};
use crate::request::{HEADER, Header, RANGE, RequestStatus, RequestType, SectorRange};

/// Bytes of a serial number on the wire.
const SERIAL: usize = 20;
/// The flag of a range that is its only one with a meaning.
const UNMAP: u32 = 1;

/// Why a request is not served.
pub(crate) enum Failure {
    Status(RequestStatus),
    Fault(FaultKind),
}

impl From<FaultKind> for Failure {
    fn from(kind: FaultKind) -> Self {
        Self::Fault(kind)
    }
}

pub(crate) const IO_ERROR: Failure = Failure::Status(RequestStatus::IoErr);
pub(crate) const UNSUPPORTED: Failure = Failure::Status(RequestStatus::Unsupp);

/// A request, taken apart.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    /// What the driver gives, after the header.
    pub(crate) from: Span<'a>,
    /// What the driver wants filled, before the status byte.
    pub(crate) into: Span<'a>,
    pub(crate) status: Span<'a>,
}

impl<'a> Parts<'a> {
    /// None if there is no byte for the status: there is no way to answer, so nothing is done.
    pub(crate) fn of<M: GuestMemory + ?Sized>(
        mem: &M,
        chain: &'a Chain,
    ) -> Result<Option<Self>, FaultKind> {
        let writable = chain.writable();
        let split = writable.len().checked_sub(1);
        let Some((into, status)) = split.and_then(|len| writable.split_at(len)) else {
            return Ok(None);
        };
        let (header, from) = chain.readable().read_array::<_, HEADER>(mem)?;
        Ok(Some(Self {
            header: Header::decode(header),
            from,
            into,
            status,
        }))
    }
}

/// The used length: it counts the bytes from the start on, so with a gap before the status byte it stops there (2.7.8.2).
/// `len` bytes could have been written before the status byte, `written` were.
pub(crate) fn used_length(written: u64, len: u64) -> u32 {
    let used = if written == len {
        written.saturating_add(1)
    } else {
        written
    };
    u32::try_from(used).unwrap_or(u32::MAX)
}

/// The bytes that a number of sectors from `sector` on stands for, if they are on a disk of `capacity` sectors.
pub(crate) fn bytes(capacity: u64, sector: u64, sectors: u64) -> Result<(u64, u64), Failure> {
    let end = sector.checked_add(sectors).ok_or(IO_ERROR)?;
    if end > capacity {
        return Err(IO_ERROR);
    }
    let offset = sector.checked_mul(SECTOR).ok_or(IO_ERROR)?;
    Ok((offset, sectors.checked_mul(SECTOR).ok_or(IO_ERROR)?))
}

/// How many sectors a transfer of `len` bytes from `sector` on is, if they are on the disk.
pub(crate) fn sectors(capacity: u64, sector: u64, len: u64) -> Result<u64, Failure> {
    if !len.is_multiple_of(SECTOR) {
        return Err(IO_ERROR);
    }
    bytes(capacity, sector, len / SECTOR).map(|_| len / SECTOR)
}

/// The ranges of a DISCARD or WRITE_ZEROES request.
pub(crate) type Ranges = [Option<SectorRange>; MAX_RANGES as usize];

/// Reads the ranges. All are checked before the first is given out: `max` sectors each, and on the disk.
pub(crate) fn ranges<M: GuestMemory + ?Sized>(
    mem: &M,
    kind: RequestType,
    from: Span<'_>,
    capacity: u64,
    max: u32,
) -> Result<Ranges, Failure> {
    let count = from.len().checked_div(RANGE as u64).unwrap_or(0);
    if count == 0 || count > MAX_RANGES.into() || !from.len().is_multiple_of(RANGE as u64) {
        return Err(IO_ERROR);
    }
    // For a discard, which unmaps anyway, the flag is reserved (5.2.6.2).
    let known = if kind == RequestType::WriteZeroes {
        UNMAP
    } else {
        0
    };
    let mut ranges = Ranges::default();
    let mut rest = from;
    for place in &mut ranges {
        if rest.is_empty() {
            break;
        }
        let (encoded, more) = rest.read_array(mem)?;
        rest = more;
        let range = SectorRange::decode(encoded);
        if range.flags & !known != 0 {
            return Err(UNSUPPORTED);
        }
        if range.sectors > max {
            return Err(IO_ERROR);
        }
        bytes(capacity, range.sector, range.sectors.into())?;
        *place = Some(range);
    }
    Ok(ranges)
}

impl SectorRange {
    /// Whether the storage may be given back.
    pub(crate) fn may_unmap(&self) -> bool {
        self.flags & UNMAP != 0
    }
}

/// What a disk is besides its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    serial: [u8; SERIAL],
    pub(crate) queues: u16,
    pub(crate) counters: Counters,
}

impl Identity {
    /// A shorter serial number ends with zeroes.
    pub(crate) fn new(serial: &[u8]) -> Self {
        let mut padded = [0; SERIAL];
        for (place, &byte) in padded.iter_mut().zip(serial) {
            *place = byte;
        }
        Self {
            serial: padded,
            queues: 1,
            counters: Counters::default(),
        }
    }

    /// GET_ID: returns how many bytes were written.
    pub(crate) fn get_id<M: GuestMemory + ?Sized>(
        &self,
        mem: &M,
        into: Span<'_>,
    ) -> Result<u64, Failure> {
        let (first, _) = into.split_at(SERIAL as u64).ok_or(IO_ERROR)?;
        first.write(mem, &self.serial).map_err(FaultKind::from)?;
        Ok(SERIAL as u64)
    }

    /// The features of a disk.
    pub(crate) fn features(&self, readonly: bool, discard: bool) -> Features {
        let mut features = BlkFeatures::SEG_MAX
            | BlkFeatures::BLK_SIZE
            | BlkFeatures::FLUSH
            | BlkFeatures::TOPOLOGY;
        features.set(BlkFeatures::RO, readonly);
        features.set(BlkFeatures::WRITE_ZEROES, !readonly);
        features.set(BlkFeatures::DISCARD, !readonly && discard);
        features.set(BlkFeatures::MQ, self.queues > 1);
        Features::from_bits_retain(features.bits())
    }

    /// Counts a request.
    pub(crate) fn count(&mut self, kind: RequestType) {
        let counters = &mut self.counters;
        let counter = match kind {
            RequestType::In => &mut counters.reads,
            RequestType::Out => &mut counters.writes,
            RequestType::Flush => &mut counters.flushes,
            RequestType::Discard | RequestType::WriteZeroes => &mut counters.zeroings,
            RequestType::GetId | RequestType::Other(_) => &mut counters.others,
        };
        add(counter, 1);
    }
}

/// Fills `into` from a configuration space; what is past its end reads as zeroes.
pub(crate) fn read_space(space: &[u8], offset: usize, into: &mut [u8]) {
    for (at, byte) in (offset..).zip(into) {
        *byte = space.get(at).copied().unwrap_or(0);
    }
}
