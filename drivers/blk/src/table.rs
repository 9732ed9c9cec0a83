//! Requests under way: what is needed to finish each of them.
//!
//! Invariant: a slot without a head is of a request that the driver does not wait for any more; nothing is written to
//! the guest's memory for it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use vd_virtio::Gpa;
use vd_virtio::queue::Head;

use crate::arena::List;
use crate::later::{Job, OpError, Operation, Ticket};
use crate::parts::Ranges;
use crate::request::SectorRange;

/// Where a request is.
#[derive(Debug)]
pub(crate) enum State {
    /// Nowhere: the slot is free.
    Free,
    /// Its next operation is to be started.
    Pending,
    /// The back end has an operation of it.
    Flying,
    /// An operation of it has ended, or could not be started.
    Landed(Option<Ticket>, Result<(), OpError>),
}

/// A request.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: State,
    pub(crate) head: Option<Head>,
    pub(crate) queue: u16,
    pub(crate) operation: Operation,
    /// Where the status byte goes.
    pub(crate) status: Gpa,
    /// Bytes before the status byte.
    pub(crate) room: u64,
    /// The guest's buffers for the data that has not been moved yet.
    pub(crate) list: List,
    /// The range that is worked on.
    pub(crate) sector: u64,
    pub(crate) left: u64,
    /// Sectors of the operation that the back end has.
    pub(crate) flying: u64,
    /// Bytes that were moved.
    pub(crate) moved: u64,
    /// Ranges that come after this one.
    pub(crate) ranges: Ranges,
}

impl Slot {
    pub(crate) const FREE: Self = Self {
        state: State::Free,
        head: None,
        queue: 0,
        operation: Operation::Flush,
        status: Gpa(0),
        room: 0,
        list: List::EMPTY,
        sector: 0,
        left: 0,
        flying: 0,
        moved: 0,
        ranges: [None; _],
    };

    /// What to ask the back end for next.
    pub(crate) fn job(&self, tag: u16, max: u64) -> Job {
        let sectors = match self.operation {
            Operation::Discard => self.left,
            _ => self.left.min(max),
        };
        Job {
            tag,
            queue: self.queue,
            operation: self.operation,
            sector: self.sector,
            sectors,
        }
    }

    /// An operation has ended well. Returns whether that was all.
    pub(crate) fn advance(&mut self) -> bool {
        self.sector = self.sector.saturating_add(self.flying);
        self.left = self.left.saturating_sub(self.flying);
        self.flying = 0;
        if self.left == 0
            && let Some(range) = self.next_range()
        {
            self.sector = range.sector;
            self.left = range.sectors.into();
        }
        self.left == 0
    }

    /// The next range that is not empty.
    fn next_range(&mut self) -> Option<SectorRange> {
        self.ranges
            .iter_mut()
            .filter_map(Option::take)
            .find(|range| range.sectors != 0)
    }
}

/// All slots, and the orders they stand in.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// Those in [`State::Pending`], the next one first.
    pub(crate) pending: VecDeque<u16>,
    /// Those in [`State::Landed`].
    pub(crate) landed: VecDeque<u16>,
    /// Operations under way of requests that nobody waits for, and that change what is stored.
    pub(crate) draining: usize,
}

impl Table {
    /// Room for so many requests.
    pub(crate) fn new(requests: u16) -> Self {
        let count = usize::from(requests);
        Self {
            slots: (0..count).map(|_| Slot::FREE).collect(),
            free: (0..requests).rev().collect(),
            pending: VecDeque::with_capacity(count),
            landed: VecDeque::with_capacity(count),
            draining: 0,
        }
    }

    pub(crate) fn get_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests under way, those included that nobody waits for.
    pub(crate) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Puts a request into a free slot, to be started after those that wait already.
    pub(crate) fn insert(&mut self, slot: Slot) -> Option<u16> {
        let index = self.free.pop()?;
        *self.get_mut(index)? = slot;
        self.pending.push_back(index);
        Some(index)
    }

    /// Frees a slot; gives what was in it.
    pub(crate) fn remove(&mut self, index: u16) -> Option<Slot> {
        let slot = core::mem::replace(self.get_mut(index)?, Slot::FREE);
        if matches!(slot.state, State::Free) {
            return None;
        }
        self.free.push(index);
        Some(slot)
    }

    /// The numbers of all slots.
    pub(crate) fn indices(&self) -> core::ops::Range<u16> {
        0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// The first request of this queue that has landed.
    pub(crate) fn take_landed(&mut self, queue: u16) -> Option<u16> {
        let slots = &self.slots;
        let at = self.landed.iter().position(|&index| {
            slots
                .get(usize::from(index))
                .is_some_and(|slot| slot.queue == queue)
        })?;
        self.landed.remove(at)
    }
}
