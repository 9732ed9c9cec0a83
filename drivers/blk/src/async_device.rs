//! The block device whose storage answers later, with many requests under way at once.
//!
//! Invariants:
//! - after a reset nothing is written to the guest's memory for a request from before;
//! - a request from after a reset is not started while one from before may still change what is stored;
//! - requests that found no room are started before later ones are looked at;
//! - a FLUSH is started at once: everything that was answered before it has been finished by the back end before, and
//!   that is what it covers (virtio 1.3, 5.2.6.2).

use vd_virtio::chain::MAX_SEGMENTS;
use vd_virtio::fault::FaultKind;
use vd_virtio::queue::Head;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use crate::arena::{Arena, List};
use crate::backend::SECTOR;
use crate::config::{Limits, MAX_RANGE_SECTORS, config_space};
use crate::counters::{Counters, add};
use crate::later::{AsyncBackend, NotStarted, OpError, Operation, Properties};
use crate::parts::{self, Failure, IO_ERROR, Identity, Parts, Ranges, UNSUPPORTED, used_length};
use crate::request::{RequestStatus, RequestType};
use crate::table::{Slot, State, Table};

/// Most sectors of a range of a DISCARD request, which is one operation of the back end: 2 GiB.
const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Most queues.
pub const MAX_QUEUES: u16 = 64;

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Requests.
    pub requests: u16,
    /// Pieces of buffers of all of them together: with more, none is taken. There is room for the longest chain besides.
    pub pieces: u16,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            requests: 128,
            pieces: 4096,
        }
    }
}

/// Queues, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues(u64);

impl Queues {
    fn bit(queue: u16) -> u64 {
        1u64.checked_shl(queue.into()).unwrap_or(0)
    }

    fn insert(&mut self, queue: u16) {
        self.0 |= Self::bit(queue);
    }

    fn remove(&mut self, queue: u16) {
        self.0 &= !Self::bit(queue);
    }

    fn contains(self, queue: u16) -> bool {
        self.0 & Self::bit(queue) != 0
    }

    /// Adds all of `other`, and empties it.
    fn absorb(&mut self, other: &mut Self) {
        self.0 |= core::mem::take(&mut other.0);
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..MAX_QUEUES).filter(move |&queue| self.contains(queue))
    }
}

/// What there is to do for the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// These queues have something to do: [`vd_virtio::MmioTransport::wake`].
    pub queues: Queues,
    /// Configuration space has changed: [`vd_virtio::MmioTransport::reconfigure`].
    pub reconfigured: bool,
}

/// A virtio block device.
#[derive(Debug)]
pub struct AsyncBlockDevice<B> {
    backend: B,
    readonly: bool,
    identity: Identity,
    table: Table,
    arena: Arena,
    /// Queues that are to be run.
    wake: Queues,
    /// Queues that were left because there was no room.
    waiting: Queues,
    /// What the driver was told last.
    told: Properties,
    dropped: u64,
}

/// What to do with a request.
enum Plan {
    /// Nothing more: so many bytes were written.
    Answer(u64),
    Work {
        operation: Operation,
        sector: u64,
        sectors: u64,
        ranges: Ranges,
    },
}

impl<B: AsyncBackend> AsyncBlockDevice<B> {
    /// A disk on `backend`. A shorter serial number ends with zeroes.
    pub fn new(backend: B, serial: &[u8], readonly: bool, room: Room) -> Self {
        Self {
            told: backend.properties(),
            backend,
            readonly,
            identity: Identity::new(serial),
            table: Table::new(room.requests.max(1)),
            arena: Arena::new(usize::from(room.pieces).saturating_add(MAX_SEGMENTS)),
            wake: Queues::default(),
            waiting: Queues::default(),
            dropped: 0,
        }
    }

    /// The same with this many queues, from one to [`MAX_QUEUES`].
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.identity.queues = queues.clamp(1, MAX_QUEUES);
        self
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.identity.counters
    }

    /// Requests from before a reset that ended after it: nobody was told.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.table.len()
    }

    /// Its storage.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Its storage, to change it. [`AsyncBlockDevice::poll`] finds out what has become of that.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Whether it can be written.
    pub fn readonly(&self) -> bool {
        self.readonly || self.backend.properties().readonly
    }

    /// Takes what the back end has finished. To be called after its events, and before the platform sleeps.
    pub fn poll(&mut self) -> Wake {
        self.collect();
        self.backend.kick();
        let properties = self.backend.properties();
        let reconfigured = properties != self.told;
        self.told = properties;
        Wake {
            queues: core::mem::take(&mut self.wake),
            reconfigured,
        }
    }

    fn collect(&mut self) {
        while let Some(done) = self.backend.next_done() {
            match self.table.get_mut(done.tag) {
                Some(slot) if matches!(slot.state, State::Flying) => {
                    if slot.head.is_some() {
                        self.wake.insert(slot.queue);
                        slot.state = State::Landed(Some(done.ticket), done.result);
                        self.table.landed.push_back(done.tag);
                        continue;
                    }
                    if slot.operation.is_mutating() {
                        self.table.draining = self.table.draining.saturating_sub(1);
                    }
                    self.free(done.tag);
                    add(&mut self.dropped, 1);
                }
                _ => {}
            }
            self.backend.release(done.ticket);
            self.wake.absorb(&mut self.waiting);
        }
    }

    /// Frees a slot, and whatever it holds.
    fn free(&mut self, index: u16) {
        if let Some(slot) = self.table.remove(index) {
            self.arena.clear(slot.list);
            if let State::Landed(Some(ticket), _) = slot.state {
                self.backend.release(ticket);
            }
        }
    }

    /// The driver does not wait any more for what it has asked for, in this queue or in all.
    fn forget(&mut self, queue: Option<u16>) {
        for index in self.table.indices() {
            let Some(slot) = self.table.get_mut(index) else {
                continue;
            };
            if queue.is_some_and(|queue| queue != slot.queue) || slot.head.is_none() {
                continue;
            }
            slot.head = None;
            if matches!(slot.state, State::Flying) {
                // Only the back end can end it. Its buffers are not needed.
                let list = core::mem::replace(&mut slot.list, List::EMPTY);
                if slot.operation.is_mutating() {
                    self.table.draining = self.table.draining.saturating_add(1);
                }
                self.arena.clear(list);
            } else {
                self.table.pending.retain(|&other| other != index);
                self.table.landed.retain(|&other| other != index);
                self.free(index);
                add(&mut self.dropped, 1);
            }
        }
        self.wake.absorb(&mut self.waiting);
    }

    /// Whether a request can be taken, however long its chain is.
    fn has_room(&self) -> bool {
        self.table.has_room() && self.arena.available() >= MAX_SEGMENTS
    }

    /// Starts what waits for it, in order. Returns false if the back end has no room for all.
    fn start_pending<M: GuestMemory + ?Sized>(&mut self, mem: &M) -> Result<bool, FaultKind> {
        while let Some(&index) = self.table.pending.front() {
            let max = self.backend.max_sectors();
            let Some(slot) = self.table.get_mut(index) else {
                return Ok(false);
            };
            let job = slot.job(index, max);
            let (arena, list) = (&mut self.arena, &mut slot.list);
            let started = self.backend.start(job, |into| arena.read(list, mem, into));
            match started {
                Ok(_ticket) => {
                    slot.state = State::Flying;
                    slot.flying = job.sectors;
                }
                Err(NotStarted::Full) => return Ok(false),
                Err(NotStarted::Failed(error)) => {
                    slot.state = State::Landed(None, Err(error));
                    self.wake.insert(slot.queue);
                    self.table.landed.push_back(index);
                }
                Err(NotStarted::Data(error)) => {
                    self.table.pending.pop_front();
                    self.free(index);
                    return Err(FaultKind::from(error));
                }
            }
            self.table.pending.pop_front();
        }
        Ok(true)
    }

    /// Goes on with what has landed of this queue.
    fn settle<M: GuestMemory + ?Sized>(&mut self, pass: &mut Pass<'_, M>) -> Result<(), FaultKind> {
        while let Some(index) = self.table.take_landed(pass.number()) {
            let Some(slot) = self.table.get_mut(index) else {
                return Ok(());
            };
            let State::Landed(ticket, result) = core::mem::replace(&mut slot.state, State::Pending)
            else {
                return Ok(());
            };
            let copied = match (&ticket, result, slot.operation) {
                (Some(ticket), Ok(()), Operation::Read) => {
                    let (arena, list) = (&mut self.arena, &mut slot.list);
                    let mem = pass.mem();
                    self.backend
                        .data(ticket, |from| arena.write(list, mem, from))
                }
                _ => Ok(()),
            };
            if let Some(ticket) = ticket {
                self.backend.release(ticket);
            }
            if let Err(error) = copied {
                self.free(index);
                return Err(FaultKind::from(error));
            }
            let moved = slot.flying.saturating_mul(SECTOR);
            if result.is_ok() {
                slot.moved = slot.moved.saturating_add(moved);
                if !slot.advance() {
                    // The next part of it, before requests that came later.
                    self.table.pending.push_front(index);
                    continue;
                }
            }
            self.finish(index, result, pass)?;
            self.wake.absorb(&mut self.waiting);
        }
        Ok(())
    }

    /// Answers a request that was in the table.
    fn finish<M: GuestMemory + ?Sized>(
        &mut self,
        index: u16,
        result: Result<(), OpError>,
        pass: &mut Pass<'_, M>,
    ) -> Result<(), FaultKind> {
        let Some(slot) = self.table.remove(index) else {
            return Ok(());
        };
        self.arena.clear(slot.list);
        let counters = &mut self.identity.counters;
        let (code, written) = match (result, slot.operation) {
            (Ok(()), Operation::Read) => {
                add(&mut counters.bytes_read, slot.moved);
                (RequestStatus::Ok, slot.moved)
            }
            (Ok(()), Operation::Write) => {
                add(&mut counters.bytes_written, slot.moved);
                (RequestStatus::Ok, 0)
            }
            (Ok(()), _) => (RequestStatus::Ok, 0),
            (Err(error), _) => {
                add(&mut counters.errors, 1);
                (status_of(error), 0)
            }
        };
        pass.mem().write(slot.status, &[code as u8])?;
        match slot.head {
            Some(head) => pass.give_back(head, used_length(written, slot.room)),
            None => Ok(()),
        }
    }

    /// Looks at a request that was just taken: answers it, or puts it into the table.
    fn accept<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &Chain,
        head: Head,
    ) -> Result<(), FaultKind> {
        let mem = pass.mem();
        let Some(parts) = Parts::of(mem, chain)? else {
            add(&mut self.identity.counters.errors, 1);
            return pass.give_back(head, 0);
        };
        self.identity.count(parts.header.kind);
        let room = parts.into.len();
        let (code, written) = match self.plan(mem, &parts) {
            Ok(Plan::Answer(written)) => (RequestStatus::Ok, written),
            Ok(Plan::Work {
                operation,
                sector,
                sectors,
                ranges,
            }) => {
                let data = match operation {
                    Operation::Read => self.arena.store(parts.into),
                    Operation::Write => self.arena.store(parts.from),
                    _ => List::EMPTY,
                };
                let slot = Slot {
                    state: State::Pending,
                    head: Some(head),
                    queue: pass.number(),
                    operation,
                    status: address(&parts)?,
                    room,
                    list: data,
                    sector,
                    left: sectors,
                    flying: 0,
                    moved: 0,
                    ranges,
                };
                self.table.insert(slot);
                return Ok(());
            }
            Err(Failure::Status(code)) => {
                add(&mut self.identity.counters.errors, 1);
                (code, 0)
            }
            Err(Failure::Fault(kind)) => return Err(kind),
        };
        parts.status.write(mem, &[code as u8])?;
        pass.give_back(head, used_length(written, room))
    }

    fn plan<M: GuestMemory + ?Sized>(&self, mem: &M, parts: &Parts<'_>) -> Result<Plan, Failure> {
        let properties = self.backend.properties();
        let (kind, sector) = (parts.header.kind, parts.header.sector);
        let (operation, sectors, mut ranges) = match kind {
            RequestType::In | RequestType::Out => {
                let (operation, len) = match kind {
                    RequestType::In => (Operation::Read, parts.into.len()),
                    _ => (Operation::Write, parts.from.len()),
                };
                let sectors = parts::sectors(properties.sectors, sector, len)?;
                (operation, sectors, Ranges::default())
            }
            RequestType::Flush => {
                return Ok(Plan::Work {
                    operation: Operation::Flush,
                    sector: 0,
                    sectors: 0,
                    ranges: Ranges::default(),
                });
            }
            RequestType::GetId => return self.identity.get_id(mem, parts.into).map(Plan::Answer),
            RequestType::Discard | RequestType::WriteZeroes => {
                let (operation, max) = match kind {
                    RequestType::Discard => (Operation::Discard, MAX_DISCARD_SECTORS),
                    _ => (Operation::Zero, MAX_RANGE_SECTORS),
                };
                self.check_writable()?;
                let ranges = parts::ranges(mem, kind, parts.from, properties.sectors, max)?;
                (operation, 0, ranges)
            }
            RequestType::Other(_) => return Err(UNSUPPORTED),
        };
        if operation.is_mutating() {
            self.check_writable()?;
        }
        check_alignment(&properties, sector, sectors, &ranges)?;
        let first = ranges
            .iter_mut()
            .filter_map(Option::take)
            .find(|range| range.sectors != 0);
        let (sector, sectors) = match first {
            Some(range) => (range.sector, range.sectors.into()),
            None => (sector, sectors),
        };
        Ok(if sectors == 0 {
            Plan::Answer(0)
        } else {
            Plan::Work {
                operation,
                sector,
                sectors,
                ranges,
            }
        })
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.readonly() {
            Err(IO_ERROR)
        } else {
            Ok(())
        }
    }

    /// Takes requests until there are none, or no room. The last completions of this queue are settled.
    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        loop {
            self.settle(pass)?;
            if self.table.draining > 0 || !self.start_pending(pass.mem())? {
                return Ok(Progress::Waiting);
            }
            self.settle(pass)?;
            if !self.table.pending.is_empty() {
                continue;
            }
            if !self.has_room() {
                return Ok(Progress::Waiting);
            }
            match pass.take(chain)? {
                Some(head) => self.accept(pass, chain, head)?,
                None => return Ok(Progress::Drained),
            }
        }
    }
}

/// Where the status byte goes.
fn address(parts: &Parts<'_>) -> Result<vd_virtio::Gpa, FaultKind> {
    let place = parts.status.pieces().next();
    place.map(|(addr, _)| addr).ok_or(FaultKind::Header)
}

fn status_of(error: OpError) -> RequestStatus {
    match error {
        OpError::Io => RequestStatus::IoErr,
        OpError::Unsupported => RequestStatus::Unsupp,
    }
}

/// Whole blocks only: the back end has no smaller ones.
fn check_alignment(
    properties: &Properties,
    sector: u64,
    sectors: u64,
    ranges: &Ranges,
) -> Result<(), Failure> {
    let block = u64::from(properties.geometry.block_size) / SECTOR;
    let whole = |number: u64| block <= 1 || number.is_multiple_of(block);
    let ranges_whole = ranges
        .iter()
        .flatten()
        .all(|range| whole(range.sector) && whole(range.sectors.into()));
    if (sectors == 0 || whole(sector)) && whole(sectors) && ranges_whole {
        Ok(())
    } else {
        Err(IO_ERROR)
    }
}

impl<B: AsyncBackend> Device for AsyncBlockDevice<B> {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn features(&self) -> Features {
        let discard = self.backend.properties().discard.is_some();
        self.identity.features(self.readonly(), discard)
    }

    fn queues(&self) -> u16 {
        self.identity.queues
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let Properties {
            sectors,
            geometry,
            discard,
            ..
        } = self.backend.properties();
        let block = geometry.block_size / 512;
        let limits = Limits {
            discard_sectors: MAX_DISCARD_SECTORS,
            discard_alignment: discard.unwrap_or(block).max(block),
            // Zeroes are written like other data: nothing is given back.
            may_unmap: false,
            ..Limits::of_blocks(geometry.block_size)
        };
        let space = config_space(sectors, &geometry, self.identity.queues, &limits);
        parts::read_space(&space, offset, into);
    }

    fn reset(&mut self) {
        self.forget(None);
    }

    fn reset_queue(&mut self, queue: u16) {
        self.forget(Some(queue));
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        let queue = pass.number();
        loop {
            self.waiting.remove(queue);
            self.collect();
            self.wake.remove(queue);
            let progress = self.serve(pass, chain);
            self.backend.kick();
            let progress = progress?;
            if progress == Progress::Waiting {
                self.waiting.insert(queue);
            }
            // What ended at once must not wait for an event that does not come.
            self.collect();
            if !self.wake.contains(queue) {
                return Ok(progress);
            }
        }
    }
}
