//! The block device whose storage answers at once: from a chain to a status byte.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress, Span};

use crate::backend::{Backend, BackendError, SECTOR};
use crate::config::{Geometry, Limits, MAX_RANGE_SECTORS, config_space};
use crate::counters::{Counters, add};
use crate::parts::{self, Failure, IO_ERROR, Identity, Parts, UNSUPPORTED, used_length};
use crate::request::{Header, RequestStatus, RequestType};

/// A virtio block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice<B> {
    backend: B,
    geometry: Geometry,
    readonly: bool,
    identity: Identity,
}

/// How a request ended: its status, and how many bytes were written before the status byte.
type Outcome = Result<u64, Failure>;

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Guest(error) => Self::Fault(error.into()),
            BackendError::Io => IO_ERROR,
        }
    }
}

impl<B: Backend> BlockDevice<B> {
    /// A disk on `backend`. A shorter serial number ends with zeroes.
    pub fn new(backend: B, geometry: Geometry, serial: &[u8], readonly: bool) -> Self {
        Self {
            backend,
            geometry,
            readonly,
            identity: Identity::new(serial),
        }
    }

    /// The same with this many queues, one at least: a driver may use one for each of its vCPUs.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.identity.queues = queues.max(1);
        self
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.identity.counters
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

    /// Where a transfer of `len` bytes is on the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let capacity = self.backend.sectors();
        let sectors = parts::sectors(capacity, sector, len)?;
        parts::bytes(capacity, sector, sectors).map(|(offset, _)| offset)
    }

    fn execute<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        header: Header,
        from: Span<'_>,
        into: Span<'_>,
    ) -> Outcome {
        self.identity.count(header.kind);
        match header.kind {
            RequestType::In => {
                let offset = self.place(header.sector, into.len())?;
                self.backend.read(mem, offset, into)?;
                add(&mut self.identity.counters.bytes_read, into.len());
                Ok(into.len())
            }
            RequestType::Out => {
                self.check_writable()?;
                let offset = self.place(header.sector, from.len())?;
                self.backend.write(mem, offset, from)?;
                add(&mut self.identity.counters.bytes_written, from.len());
                Ok(0)
            }
            RequestType::Flush => {
                self.backend.flush()?;
                Ok(0)
            }
            RequestType::GetId => self.identity.get_id(mem, into),
            RequestType::Discard | RequestType::WriteZeroes => {
                self.check_writable()?;
                self.zero(mem, header.kind, from)
            }
            RequestType::Other(_) => Err(UNSUPPORTED),
        }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.readonly { Err(IO_ERROR) } else { Ok(()) }
    }

    fn zero<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        kind: RequestType,
        from: Span<'_>,
    ) -> Outcome {
        let ranges = parts::ranges(mem, kind, from, self.backend.sectors(), MAX_RANGE_SECTORS)?;
        for range in ranges.into_iter().flatten() {
            let (offset, len) = (
                range.sector.saturating_mul(SECTOR),
                u64::from(range.sectors).saturating_mul(SECTOR),
            );
            match kind {
                RequestType::Discard => self.backend.discard(offset, len)?,
                _ => self.backend.write_zeroes(offset, len, range.may_unmap())?,
            }
        }
        Ok(0)
    }
}

impl<B: Backend> Device for BlockDevice<B> {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn features(&self) -> Features {
        // A request is finished before the next one is looked at.
        self.identity.features(self.readonly, true) | Features::IN_ORDER
    }

    fn queues(&self) -> u16 {
        self.identity.queues
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let limits = Limits::of_blocks(self.geometry.block_size);
        let queues = self.identity.queues;
        let space = config_space(self.backend.sectors(), &self.geometry, queues, &limits);
        parts::read_space(&space, offset, into);
    }

    /// Each is given back before the next is taken.
    fn keeps_order(&self, _: u16) -> bool {
        true
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
        let Some(request) = Parts::of(mem, chain)? else {
            add(&mut self.identity.counters.errors, 1);
            return Ok(0);
        };
        let Parts {
            header,
            from,
            into,
            status,
        } = request;
        let outcome = self.execute(mem, header, from, into);
        let (code, written) = match outcome {
            Ok(written) => (RequestStatus::Ok, written),
            Err(Failure::Status(code)) => {
                add(&mut self.identity.counters.errors, 1);
                (code, 0)
            }
            Err(Failure::Fault(kind)) => return Err(kind),
        };
        status.write(mem, &[code as u8])?;
        Ok(used_length(written, into.len()))
    }
}
