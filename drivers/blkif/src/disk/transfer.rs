//! Operations, from their start to their release.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use vd_blk::later::{Job, OpError};

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// It has ended; the asker has not released it yet.
    Ended(Result<(), OpError>),
}

/// An operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) state: State,
    pub(super) job: Job,
    /// The how-manyth it is.
    pub(super) number: u64,
    /// Its pages.
    pub(super) first: u16,
    /// What is to be sent next: sectors before it, and the page.
    pub(super) sent: u64,
    pub(super) page: u16,
    pub(super) all_sent: bool,
    /// Requests that were not answered.
    pub(super) outstanding: u32,
    pub(super) error: Option<OpError>,
    /// For a flush: how many writes had ended when it was sent.
    pub(super) mark: u64,
}

impl Transfer {
    pub(super) fn new(job: Job, number: u64, first: u16) -> Self {
        Self {
            state: State::Live,
            job,
            number,
            first,
            sent: 0,
            page: first,
            all_sent: false,
            outstanding: 0,
            error: None,
            mark: 0,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether anything of it was sent.
    pub(super) fn is_begun(&self) -> bool {
        self.all_sent || self.sent > 0
    }

    /// It is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.page = self.first;
        self.all_sent = false;
        self.outstanding = 0;
        self.mark = 0;
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Transfers {
    slots: Box<[Option<Transfer>]>,
    free: Vec<u16>,
    ended: VecDeque<u16>,
    started: u64,
    /// For putting them in order.
    scratch: Vec<u16>,
}

impl Transfers {
    pub(super) fn new(count: u16) -> Self {
        Self {
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            ended: VecDeque::with_capacity(count.into()),
            started: 0,
            scratch: Vec::with_capacity(count.into()),
        }
    }

    pub(super) fn get(&self, index: u16) -> Option<&Transfer> {
        self.slots.get(usize::from(index))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Transfer> {
        self.slots.get_mut(usize::from(index))?.as_mut()
    }

    pub(super) fn indices(&self) -> core::ops::Range<u16> {
        0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Transfer> {
        self.slots.iter().flatten().filter(|t| t.is_live())
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn insert(&mut self, job: Job, first: u16) -> Option<u16> {
        let index = self.free.pop()?;
        self.started = self.started.saturating_add(1);
        *self.slots.get_mut(usize::from(index))? = Some(Transfer::new(job, self.started, first));
        Some(index)
    }

    /// Notes the end of one.
    pub(super) fn end(&mut self, index: u16, result: Result<(), OpError>) {
        if let Some(transfer) = self.get_mut(index).filter(|t| t.is_live()) {
            transfer.state = State::Ended(result);
            self.ended.push_back(index);
        }
    }

    /// The next one that has ended.
    pub(super) fn next_ended(&mut self) -> Option<u16> {
        self.ended.pop_front()
    }

    /// Forgets one that has ended; gives its pages.
    pub(super) fn remove(&mut self, index: u16) -> Option<u16> {
        let slot = self.slots.get_mut(usize::from(index))?;
        let ended = slot.filter(|t| matches!(t.state, State::Ended(_)))?;
        *slot = None;
        self.free.push(index);
        Some(ended.first)
    }

    /// Calls `with` for each live one, the oldest first.
    pub(super) fn in_order(&mut self, mut with: impl FnMut(u16, &mut Transfer)) {
        let mut order = core::mem::take(&mut self.scratch);
        order.clear();
        let live = |index: &u16| self.get(*index).is_some_and(Transfer::is_live);
        order.extend(self.indices().filter(live));
        vd_pv::sort_by_key(&mut order, |&index| self.get(index).map(|t| t.number));
        for &index in &order {
            if let Some(transfer) = self.get_mut(index) {
                with(index, transfer);
            }
        }
        self.scratch = order;
    }
}
