//! From an operation to requests on a ring.

use vd_blk::later::{OpError, Operation};

use super::transfer::Transfer;
use super::{Disk, Lane, Link, PAGE_SECTORS, Shadow};
use crate::platform::Platform;
use crate::pool::NONE;
use crate::wire::{MAX_SEGMENTS, Op, Request, SEGMENT, Segment};

/// A request's share of an operation's data.
struct Share {
    sectors: u64,
    /// The page after it.
    next: u16,
}

impl<P: Platform> Disk<P> {
    /// Queues an operation that was just started.
    pub(super) fn enqueue(&mut self, index: u16) {
        let Some(transfer) = self.transfers.get(index) else {
            return;
        };
        let number = usize::from(transfer.job.queue).checked_rem(self.queues);
        if self.link != Link::Open {
            return;
        }
        if let Some(number) = number
            && let Some(lane) = self.lanes.get_mut(number)
        {
            lane.waiting.push_back(index);
            self.pump(number);
        }
    }

    pub(super) fn pump_all(&mut self) {
        for number in 0..self.queues {
            self.pump(number);
        }
    }

    /// Puts on a ring what waits for it, as far as there is room.
    fn pump(&mut self, number: usize) {
        while self.link == Link::Open
            && let Some(&index) = self.lane(number).and_then(|lane| lane.waiting.front())
        {
            if !self.issue(number, index) {
                return;
            }
            // If it has ended it is not there any more.
            if let Some(lane) = self.lanes.get_mut(number)
                && lane.waiting.front() == Some(&index)
            {
                lane.waiting.pop_front();
            }
        }
    }

    fn lane(&self, number: usize) -> Option<&Lane> {
        self.lanes.get(number)
    }

    /// Puts an operation on the ring. Returns false if there is no room for all of it.
    fn issue(&mut self, number: usize, index: u16) -> bool {
        while let Some(&transfer) = self.transfers.get(index)
            && transfer.is_live()
            && !transfer.all_sent
            && transfer.error.is_none()
        {
            if let Some(result) = self.verdict(&transfer) {
                self.conclude(index, result);
                return true;
            }
            let full = |lane: &Lane| lane.ring.as_ref().is_none_or(crate::ring::Ring::is_full);
            if self.lane(number).is_none_or(full) {
                return false;
            }
            self.issue_one(number, index, &transfer);
        }
        true
    }

    /// How an operation ends that need not be sent, or cannot be: the disk may be another one than when it was started.
    fn verdict(&self, transfer: &Transfer) -> Option<Result<(), OpError>> {
        let (job, disk) = (&transfer.job, &self.properties);
        let end = job.sector.checked_add(job.sectors);
        if end.is_none_or(|end| end > disk.sectors) {
            return Some(Err(OpError::Io));
        }
        let block = u64::from(disk.sector_size) / 512;
        let whole = |sectors: u64| block == 0 || sectors.is_multiple_of(block);
        if !whole(job.sector) || !whole(job.sectors) {
            return Some(Err(OpError::Io));
        }
        match job.operation {
            operation if operation.is_mutating() && disk.readonly => Some(Err(OpError::Io)),
            Operation::Discard if disk.discard.is_none() => Some(Err(OpError::Unsupported)),
            // A back end that offers neither has nothing that could be lost.
            Operation::Flush if !disk.has_cache() => Some(Ok(())),
            _ => None,
        }
    }

    /// Ends an operation of which nothing more is sent, once all that was sent is answered.
    fn conclude(&mut self, index: u16, result: Result<(), OpError>) {
        if let Some(transfer) = self.transfers.get_mut(index) {
            if transfer.outstanding == 0 {
                self.finish(index, result);
            } else {
                transfer.all_sent = true;
                transfer.error = transfer.error.or(result.err());
            }
        }
    }

    /// Puts the next request of an operation on the ring, which has room.
    fn issue_one(&mut self, number: usize, index: u16, transfer: &Transfer) {
        let job = &transfer.job;
        let sector = job.sector.saturating_add(transfer.sent);
        let left = job.sectors.saturating_sub(transfer.sent);
        let mut segments = [Segment::default(); MAX_SEGMENTS];
        let mut list = NONE;
        let op = match job.operation {
            Operation::Read => Op::Read,
            Operation::Write | Operation::Zero => Op::Write,
            Operation::Discard => Op::Discard,
            Operation::Flush if self.properties.flush => Op::FlushDiskcache,
            Operation::Flush => Op::WriteBarrier,
        };
        let (request, share) = match op {
            Op::Discard => {
                let sectors = job.sectors;
                let next = NONE;
                (
                    Request::Discard { sector, sectors },
                    Share { sectors, next },
                )
            }
            Op::Read | Op::Write if left > PAGE_SECTORS.saturating_mul(MAX_SEGMENTS as u64) => {
                match self.make_list(transfer.page, left) {
                    Some((page, count, share)) => {
                        list = page;
                        let page = self.config.first_list_page().saturating_add(page.into());
                        let request = Request::Indirect {
                            op,
                            sector,
                            segments: count,
                            page: self.gref(page),
                        };
                        (request, share)
                    }
                    None => self.direct(op, sector, transfer.page, left, &mut segments),
                }
            }
            _ => self.direct(op, sector, transfer.page, left, &mut segments),
        };
        self.put(number, index, &request, list);
        let written = self.written;
        if let Some(transfer) = self.transfers.get_mut(index) {
            transfer.sent = transfer.sent.saturating_add(share.sectors);
            transfer.page = share.next;
            transfer.all_sent = transfer.sent >= transfer.job.sectors;
            transfer.outstanding = transfer.outstanding.saturating_add(1);
            transfer.mark = written;
        }
    }

    /// A request that carries its segments.
    fn direct<'a>(
        &self,
        op: Op,
        sector: u64,
        first: u16,
        left: u64,
        segments: &'a mut [Segment; MAX_SEGMENTS],
    ) -> (Request<'a>, Share) {
        let mut share = Share {
            sectors: 0,
            next: first,
        };
        let mut count = 0usize;
        for place in segments.iter_mut() {
            let Some(segment) = self.segment(&mut share, left) else {
                break;
            };
            *place = segment;
            count = count.saturating_add(1);
        }
        let segments = segments.get(..count).unwrap_or(&[]);
        let request = Request::Direct {
            op,
            sector,
            segments,
        };
        (request, share)
    }

    /// A page with segments, if the back end can use one and there is one: its number, how many segments, for what.
    fn make_list(&mut self, first: u16, left: u64) -> Option<(u16, u16, Share)> {
        let most = self.indirect()?;
        let list = self.lists.take(1)?;
        let page = self.config.first_list_page().saturating_add(list.into());
        let mut share = Share {
            sectors: 0,
            next: first,
        };
        let mut count = 0u16;
        while usize::from(count) < most
            && let Some(segment) = self.segment(&mut share, left)
        {
            let at = usize::from(count).saturating_mul(SEGMENT);
            self.platform.write_bytes(page, at, &segment.encode());
            count = count.saturating_add(1);
        }
        Some((list, count, share))
    }

    /// The next page of a share.
    fn segment(&self, share: &mut Share, left: u64) -> Option<Segment> {
        let sectors = left.saturating_sub(share.sectors).min(PAGE_SECTORS);
        let last = u8::try_from(sectors).ok()?.checked_sub(1)?;
        let gref = self.gref(self.data_page(share.next));
        share.next = self.data.after(share.next);
        share.sectors = share.sectors.saturating_add(sectors);
        Some(Segment {
            gref,
            first: 0,
            last,
        })
    }

    /// Puts a request on the ring. There are as many shadows as slots, so there is one.
    fn put(&mut self, number: usize, index: u16, request: &Request<'_>, list: u16) {
        let Some(lane) = self.lanes.get_mut(number) else {
            return;
        };
        let Some((ring, shadow_index)) = lane.ring.as_mut().zip(lane.free.pop()) else {
            return;
        };
        // An id is never used twice, so that an answer cannot be counted for a later request.
        self.serial = self.serial.wrapping_add(1);
        let id = self.serial << 16 | u64::from(shadow_index);
        if let Some(shadow) = lane.shadows.get_mut(usize::from(shadow_index)) {
            *shadow = Shadow {
                id: Some(id),
                transfer: index,
                answers: request.answers(),
                list,
            };
        }
        ring.put(
            &mut self.platform,
            &request.encode(self.config.handle(), id),
        );
        let counters = &mut self.counters;
        counters.requests = counters.requests.saturating_add(1);
        counters.indirect = counters.indirect.saturating_add((list != NONE).into());
    }

    /// Shows the back end what was put on its rings.
    pub(super) fn send(&mut self) {
        if !matches!(self.link, Link::Open | Link::Draining) {
            return;
        }
        for lane in &mut self.lanes {
            if let Some((ring, port)) = lane.ring.as_mut().zip(lane.port) {
                let news = ring.has_news();
                if ring.show(&mut self.platform) {
                    self.platform.notify(port);
                    self.counters.notified = self.counters.notified.saturating_add(1);
                } else if news {
                    self.counters.suppressed = self.counters.suppressed.saturating_add(1);
                }
            }
        }
    }
}
