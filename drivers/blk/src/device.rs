//! The block device: from a chain to a status byte.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress, Span};

use crate::backend::{Backend, BackendError, SECTOR};
use crate::config::{BlkFeatures, Geometry, MAX_RANGE_SECTORS, MAX_RANGES, config_space};
use crate::counters::{Counters, add};
use crate::request::{HEADER, Header, RANGE, RequestStatus, RequestType, SectorRange};

/// Bytes of a serial number on the wire.
const SERIAL: usize = 20;
/// The flag of a range that is its only one with a meaning.
const UNMAP: u32 = 1;

/// A virtio block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice<B> {
    backend: B,
    geometry: Geometry,
    serial: [u8; SERIAL],
    readonly: bool,
    queues: u16,
    counters: Counters,
}

/// How a request ended: its status, and how many bytes were written before the status byte.
type Outcome = Result<u64, Failure>;

/// Why a request is not served.
enum Failure {
    Status(RequestStatus),
    Fault(FaultKind),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Guest(error) => Self::Fault(error.into()),
            BackendError::Io => IO_ERROR,
        }
    }
}

impl From<FaultKind> for Failure {
    fn from(kind: FaultKind) -> Self {
        Self::Fault(kind)
    }
}

const IO_ERROR: Failure = Failure::Status(RequestStatus::IoErr);
const UNSUPPORTED: Failure = Failure::Status(RequestStatus::Unsupp);

impl<B: Backend> BlockDevice<B> {
    /// A disk on `backend`. A shorter serial number ends with zeroes.
    pub fn new(backend: B, geometry: Geometry, serial: &[u8], readonly: bool) -> Self {
        let mut padded = [0; SERIAL];
        for (place, &byte) in padded.iter_mut().zip(serial) {
            *place = byte;
        }
        Self {
            backend,
            geometry,
            serial: padded,
            readonly,
            queues: 1,
            counters: Counters::default(),
        }
    }

    /// The same with this many queues, one at least: a driver may use one for each of its vCPUs.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Its storage.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Its storage, to change it.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Whether it can be written.
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// The bytes that a number of sectors from `sector` on stands for, if they are on the disk.
    fn bytes(&self, sector: u64, sectors: u64) -> Result<(u64, u64), Failure> {
        let end = sector.checked_add(sectors).ok_or(IO_ERROR)?;
        if end > self.backend.sectors() {
            return Err(IO_ERROR);
        }
        let offset = sector.checked_mul(SECTOR).ok_or(IO_ERROR)?;
        Ok((offset, sectors.checked_mul(SECTOR).ok_or(IO_ERROR)?))
    }

    /// Where a transfer of `len` bytes is on the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        if !len.is_multiple_of(SECTOR) {
            return Err(IO_ERROR);
        }
        self.bytes(sector, len / SECTOR).map(|(offset, _)| offset)
    }

    fn execute<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        header: Header,
        from: Span<'_>,
        into: Span<'_>,
    ) -> Outcome {
        match header.kind {
            RequestType::In => {
                add(&mut self.counters.reads, 1);
                let offset = self.place(header.sector, into.len())?;
                self.backend.read(mem, offset, into)?;
                add(&mut self.counters.bytes_read, into.len());
                Ok(into.len())
            }
            RequestType::Out => {
                add(&mut self.counters.writes, 1);
                self.check_writable()?;
                let offset = self.place(header.sector, from.len())?;
                self.backend.write(mem, offset, from)?;
                add(&mut self.counters.bytes_written, from.len());
                Ok(0)
            }
            RequestType::Flush => {
                add(&mut self.counters.flushes, 1);
                self.backend.flush()?;
                Ok(0)
            }
            RequestType::GetId => {
                add(&mut self.counters.others, 1);
                self.get_id(mem, into)
            }
            RequestType::Discard | RequestType::WriteZeroes => {
                add(&mut self.counters.zeroings, 1);
                self.check_writable()?;
                self.zero(mem, header.kind, from)
            }
            RequestType::Other(_) => {
                add(&mut self.counters.others, 1);
                Err(UNSUPPORTED)
            }
        }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.readonly { Err(IO_ERROR) } else { Ok(()) }
    }

    fn get_id<M: GuestMemory + ?Sized>(&self, mem: &M, into: Span<'_>) -> Outcome {
        let (first, _) = into.split_at(SERIAL as u64).ok_or(IO_ERROR)?;
        first.write(mem, &self.serial).map_err(FaultKind::from)?;
        Ok(SERIAL as u64)
    }

    /// All ranges are checked before the first is changed.
    fn zero<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        kind: RequestType,
        from: Span<'_>,
    ) -> Outcome {
        let count = from.len().checked_div(RANGE as u64).unwrap_or(0);
        if count == 0 || count > MAX_RANGES.into() || !from.len().is_multiple_of(RANGE as u64) {
            return Err(IO_ERROR);
        }
        let mut ranges = [None; MAX_RANGES as usize];
        let mut rest = from;
        for range in &mut ranges {
            if rest.is_empty() {
                break;
            }
            let (bytes, more) = rest.read_array(mem)?;
            rest = more;
            *range = Some(self.check_range(kind, SectorRange::decode(bytes))?);
        }
        for (offset, len, unmap) in ranges.into_iter().flatten() {
            match kind {
                RequestType::Discard => self.backend.discard(offset, len)?,
                _ => self.backend.write_zeroes(offset, len, unmap)?,
            }
        }
        Ok(0)
    }

    /// The range in bytes, and whether it may be unmapped. For a discard, which does that anyway, the flag is
    /// reserved (5.2.6.2).
    fn check_range(
        &self,
        kind: RequestType,
        range: SectorRange,
    ) -> Result<(u64, u64, bool), Failure> {
        let known = if kind == RequestType::WriteZeroes {
            UNMAP
        } else {
            0
        };
        if range.flags & !known != 0 {
            return Err(UNSUPPORTED);
        }
        if range.sectors > MAX_RANGE_SECTORS {
            return Err(IO_ERROR);
        }
        let (offset, len) = self.bytes(range.sector, range.sectors.into())?;
        Ok((offset, len, range.flags & UNMAP != 0))
    }
}

impl<B: Backend> Device for BlockDevice<B> {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn features(&self) -> Features {
        let writable = BlkFeatures::DISCARD | BlkFeatures::WRITE_ZEROES;
        let other = if self.readonly {
            BlkFeatures::RO
        } else {
            writable
        };
        let several = if self.queues > 1 {
            BlkFeatures::MQ
        } else {
            BlkFeatures::empty()
        };
        let always = BlkFeatures::SEG_MAX
            | BlkFeatures::BLK_SIZE
            | BlkFeatures::FLUSH
            | BlkFeatures::TOPOLOGY;
        // A request is finished before the next one is looked at.
        Features::from_bits_retain((always | other | several).bits()) | Features::IN_ORDER
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let space = config_space(self.backend.sectors(), &self.geometry, self.queues);
        for (at, byte) in (offset..).zip(into) {
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        pass.serve_each(chain, |mem, chain| self.serve(mem, chain))
    }
}

impl<B: Backend> BlockDevice<B> {
    /// Serves one request; returns how many bytes were written into its buffers.
    ///
    /// # Errors
    /// A fault of the driver. Trouble of the storage is told in the status byte.
    pub fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        chain: &Chain,
    ) -> Result<u32, FaultKind> {
        // Without a byte for the status there is no way to answer: nothing is done, nothing was written.
        let Some(len) = chain.writable().len().checked_sub(1) else {
            add(&mut self.counters.errors, 1);
            return Ok(0);
        };
        let Some((into, status)) = chain.writable().split_at(len) else {
            return Ok(0);
        };
        let (header, from) = chain.readable().read_array::<_, HEADER>(mem)?;
        let outcome = self.execute(mem, Header::decode(header), from, into);
        let (code, written) = match outcome {
            Ok(written) => (RequestStatus::Ok, written),
            Err(Failure::Status(code)) => {
                add(&mut self.counters.errors, 1);
                (code, 0)
            }
            Err(Failure::Fault(kind)) => return Err(kind),
        };
        status.write(mem, &[code as u8])?;
        // The used length counts the bytes from the start on: with a gap before the status byte it stops there
        // (2.7.8.2).
        let written = if written == len {
            written.saturating_add(1)
        } else {
            written
        };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }
}
