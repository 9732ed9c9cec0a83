//! Room for copies that wait, for what they copy, and for a table of descriptors: taken once, used by all requests.

use alloc::boxed::Box;
use alloc::vec;

use vd_virtio::chain::MAX_SEGMENTS;
use xen_hypercall::grant_table::GrantStatus;

use super::{Copy, Own};

/// Most copies of one hypercall.
pub const COPIES: usize = 64;
/// Most bytes that are put by.
const STAGED: usize = 1024;
/// Most bytes of one write that is put by: a status, a serial number, a header.
const SMALL: usize = 64;
/// Most bytes of a table of descriptors.
const TABLE: usize = MAX_SEGMENTS * 16;

pub(super) struct Scratch {
    copies: Box<[Copy]>,
    used: usize,
    staging: Box<[u8]>,
    staged: usize,
    table: Box<[u8]>,
    /// The address and the length of what is in the table.
    fetched: Option<(u64, usize)>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        const NONE: Copy = Copy {
            grant: 0,
            offset: 0,
            len: 0,
            own: Own::Staged(0),
            status: GrantStatus::OKAY,
        };
        Self {
            copies: vec![NONE; COPIES].into(),
            used: 0,
            staging: vec![0; STAGED].into(),
            staged: 0,
            table: vec![0; TABLE].into(),
            fetched: None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.used >= self.copies.len()
    }

    /// How many more copies there is room for.
    pub(super) fn room(&self) -> usize {
        self.copies.len().saturating_sub(self.used)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds a copy; there has to be room.
    pub(super) fn push(&mut self, copy: Copy) {
        if let Some(place) = self.copies.get_mut(self.used) {
            *place = copy;
            self.used = self.used.saturating_add(1);
        }
    }

    /// The copies that wait, and what was put by for them.
    pub(super) fn waiting(&mut self) -> (&mut [Copy], &[u8]) {
        let copies = self.copies.get_mut(..self.used).unwrap_or_default();
        let staged = self.staging.get(..self.staged).unwrap_or_default();
        (copies, staged)
    }

    /// None wait any more.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.staged = 0;
    }

    /// Whether bytes are few enough to be put by.
    pub(super) fn is_small(bytes: &[u8]) -> bool {
        bytes.len() <= SMALL
    }

    /// Puts bytes by. Returns where, or None if there is no room.
    pub(super) fn stage(&mut self, bytes: &[u8]) -> Option<usize> {
        let start = self.staged;
        let end = start.checked_add(bytes.len())?;
        self.staging.get_mut(start..end)?.copy_from_slice(bytes);
        self.staged = end;
        Some(start)
    }

    /// Where put-by bytes are in memory.
    pub(super) fn staging_address(&self) -> u64 {
        self.staging.as_ptr().addr() as u64
    }

    /// Lends the table out; what was in it is forgotten. None if it is too small.
    pub(super) fn take_table(&mut self, len: u64) -> Option<(Box<[u8]>, usize)> {
        self.fetched = None;
        let len = usize::try_from(len).ok()?;
        (len <= self.table.len()).then(|| (core::mem::take(&mut self.table), len))
    }

    /// Takes the table back, and remembers what is in it.
    pub(super) fn return_table(&mut self, table: Box<[u8]>, fetched: Option<(u64, usize)>) {
        self.table = table;
        self.fetched = fetched;
    }

    /// Forgets the table.
    pub(super) fn forget_table(&mut self) {
        self.fetched = None;
    }

    /// The bytes of that address, if they are in the table.
    pub(super) fn in_table(&self, at: u64, len: usize) -> Option<&[u8]> {
        let (start, fetched) = self.fetched?;
        let from = usize::try_from(at.checked_sub(start)?).ok()?;
        let to = from.checked_add(len)?;
        self.table.get(..fetched)?.get(from..to)
    }
}
