//! The rings of one device, mapped while their queues are in use.
//!
//! Each queue has a part of the window for itself, large enough for the largest ring that it may have, so that mapping
//! one takes no search and no memory. What cannot be unmapped stays on record, takes up its part, and is tried again whenever
//! a ring is opened.
//!
//! Invariant: a page of the window is on record exactly while something is mapped there; a place is given out only while
//! its ring is open, and for writing only if its area is mapped for that.

use alloc::boxed::Box;
use alloc::vec;
use core::cell::{Cell, RefCell};

use vd_virtio::{Cause, Gpa, MemError, RingArea};

use super::{Grants, Mapping, PAGE, Platform, Trouble, add, address};

/// Most pages mapped or unmapped by one hypercall.
pub const BATCH: usize = 32;

/// An area of an open ring.
#[derive(Clone, Copy, Debug)]
struct Area {
    start: u64,
    len: u64,
    writable: bool,
    /// Where its first byte is in the window.
    place: u64,
}

impl Area {
    const NONE: Self = Self {
        start: 0,
        len: 0,
        writable: false,
        place: 0,
    };

    fn place(&self, at: u64, len: u64, write: bool) -> Option<u64> {
        let offset = at.checked_sub(self.start)?;
        let fits = offset.checked_add(len)? <= self.len && (self.writable || !write);
        fits.then(|| self.place.saturating_add(offset))
    }
}

/// A queue's part of the window.
#[derive(Debug)]
struct Part {
    /// The ring that is open.
    id: Option<u32>,
    areas: [Area; 3],
    /// Its first page.
    first: u32,
    /// The handle of each page that is mapped.
    handles: Box<[Option<u32>]>,
}

/// The rings of one device.
#[derive(Debug)]
pub struct Rings {
    parts: RefCell<Box<[Part]>>,
    /// Why no request may be shown to the driver.
    poison: Cell<Option<MemError>>,
}

/// Pages of the largest ring of a queue with `size` entries: split rings are larger than packed ones.
const fn pages(size: u16) -> u32 {
    const PAGE: u32 = 4096;
    let n = size as u32;
    let desc = n.saturating_mul(16).div_ceil(PAGE);
    let avail = n.saturating_mul(2).saturating_add(6).div_ceil(PAGE);
    let used = n.saturating_mul(8).saturating_add(6).div_ceil(PAGE);
    // Each area may start anywhere in its first page.
    desc.saturating_add(avail)
        .saturating_add(used)
        .saturating_add(3)
}

impl Rings {
    /// How many pages of the window a device takes.
    #[must_use]
    pub const fn pages(queues: u16, size: u16) -> u32 {
        pages(size).saturating_mul(queues as u32)
    }

    /// For `queues` queues of up to `size` entries; the device's part of the window starts with page `first`.
    #[must_use]
    pub fn new(first: u32, queues: u16, size: u16) -> Self {
        let each = pages(size);
        let part = |queue| Part {
            id: None,
            areas: [Area::NONE; 3],
            first: each.saturating_mul(queue).saturating_add(first),
            handles: vec![None; each as usize].into(),
        };
        Self {
            parts: RefCell::new((0..u32::from(queues)).map(part).collect()),
            poison: Cell::default(),
        }
    }

    /// The first page of the window behind the device's part.
    #[must_use]
    pub fn end(&self) -> u32 {
        let parts = self.parts.borrow();
        let ends = parts
            .iter()
            .map(|part| part.first.saturating_add(part.pages()));
        ends.max().unwrap_or(0)
    }

    /// How many pages are mapped.
    #[must_use]
    pub fn mapped(&self) -> usize {
        let parts = self.parts.borrow();
        let handles = parts.iter().flat_map(|part| part.handles.iter());
        handles.flatten().count()
    }

    /// Where a range is in the window, if an open ring has it.
    pub(super) fn place(&self, at: Gpa, len: u64, write: bool) -> Option<u64> {
        let parts = self.parts.borrow();
        let open = parts.iter().filter(|part| part.id.is_some());
        open.flat_map(|part| &part.areas)
            .find_map(|area| area.place(at.0, len, write))
    }

    /// Something that the device was told is done has failed.
    pub(super) fn poison(&self, error: MemError) {
        self.poison.set(Some(error));
    }

    pub(super) fn poisoned(&self) -> Option<MemError> {
        self.poison.get()
    }

    /// Maps a ring.
    pub(super) fn open<P: Platform>(
        &self,
        grants: &Grants<P>,
        id: u32,
        areas: &[RingArea; 3],
    ) -> Result<(), MemError> {
        let mut parts = self.parts.borrow_mut();
        let [first, ..] = areas;
        let stuck = || {
            grants.trouble.set(Some(Trouble::Stuck));
            MemError::because(Cause::Platform, first.at, first.len)
        };
        for part in parts.iter_mut().filter(|part| part.id.is_none()) {
            part.unmap(grants);
        }
        // One that has a page left over from a former ring is in nobody's way as long as another is free.
        let free = parts.iter_mut().find(|part| part.is_free());
        let part = free.ok_or_else(stuck)?;
        match part.map(grants, areas) {
            Ok(()) => {
                part.id = Some(id);
                Ok(())
            }
            Err(error) => {
                part.unmap(grants);
                Err(error)
            }
        }
    }

    pub(super) fn close<P: Platform>(&self, grants: &Grants<P>, id: u32) {
        let mut parts = self.parts.borrow_mut();
        for part in parts.iter_mut().filter(|part| part.id == Some(id)) {
            part.id = None;
            part.unmap(grants);
        }
        // As long as a ring is open a request could be shown in it.
        if parts.iter().all(|part| part.id.is_none()) {
            self.poison.set(None);
        }
    }

    pub(super) fn close_all<P: Platform>(&self, grants: &Grants<P>) {
        for part in &mut *self.parts.borrow_mut() {
            part.id = None;
            part.unmap(grants);
        }
        self.poison.set(None);
    }
}

impl Part {
    fn map<P: Platform>(
        &mut self,
        grants: &Grants<P>,
        areas: &[RingArea; 3],
    ) -> Result<(), MemError> {
        let mut batch = Batch::new();
        let mut page = self.first;
        for (area, place) in areas.iter().zip(0..) {
            let blame = |cause| MemError::because(cause, area.at, area.len);
            let Some(parts) = address::split(area.at, area.len) else {
                add_refused(grants);
                return Err(blame(Cause::NotGranted));
            };
            if let Some(known) = self.areas.get_mut::<usize>(place) {
                *known = Area {
                    start: area.at.0,
                    len: area.len,
                    writable: area.writable,
                    place: u64::from(page)
                        .saturating_mul(PAGE)
                        .saturating_add(area.at.0 & (PAGE - 1)),
                };
            }
            for part in parts {
                batch.push(Mapping {
                    page,
                    grant: part.grant,
                    writable: area.writable,
                    ..Mapping::NONE
                });
                page = page.saturating_add(1);
                if batch.is_full() {
                    self.map_batch(grants, &mut batch).map_err(blame)?;
                }
            }
            // Each area by itself, so that the one is named that is at fault.
            self.map_batch(grants, &mut batch).map_err(blame)?;
        }
        Ok(())
    }

    fn map_batch<P: Platform>(
        &mut self,
        grants: &Grants<P>,
        batch: &mut Batch,
    ) -> Result<(), Cause> {
        let mappings = batch.take();
        if mappings.is_empty() {
            return Ok(());
        }
        let room = |mapping: &Mapping| mapping.page.wrapping_sub(self.first) < self.pages();
        if !mappings.iter().all(room) {
            // No ring is larger than its queue allows; that would be a mistake of this program's.
            grants.trouble.set(Some(Trouble::Stuck));
            return Err(Cause::Platform);
        }
        grants
            .platform
            .map(mappings)
            .map_err(|error| grants.failed(error))?;
        let mut result = Ok(());
        for mapping in mappings.iter() {
            match mapping.status.check() {
                Ok(()) => {
                    if let Some(handle) = self.handle(mapping.page) {
                        *handle = Some(mapping.handle);
                    }
                    grants.count(|counters| add(&mut counters.maps, 1));
                }
                Err(status) => result = result.and(Err(grants.refused(status))),
            }
        }
        result
    }

    /// Whether no ring is open here, and nothing is mapped.
    fn is_free(&self) -> bool {
        self.id.is_none() && self.handles.iter().all(Option::is_none)
    }

    fn pages(&self) -> u32 {
        u32::try_from(self.handles.len()).unwrap_or(0)
    }

    fn handle(&mut self, page: u32) -> Option<&mut Option<u32>> {
        let index = page.checked_sub(self.first)?;
        self.handles.get_mut(usize::try_from(index).ok()?)
    }

    /// Unmaps everything that is mapped; what Xen refuses to unmap stays on record.
    fn unmap<P: Platform>(&mut self, grants: &Grants<P>) {
        let mut batch = Batch::new();
        for (page, at) in (self.first..).zip(0..self.handles.len()) {
            if let Some(&Some(handle)) = self.handles.get(at) {
                batch.push(Mapping {
                    page,
                    handle,
                    ..Mapping::NONE
                });
                if batch.is_full() {
                    self.unmap_batch(grants, &mut batch);
                }
            }
        }
        self.unmap_batch(grants, &mut batch);
    }

    fn unmap_batch<P: Platform>(&mut self, grants: &Grants<P>, batch: &mut Batch) {
        let mappings = batch.take();
        if mappings.is_empty() {
            return;
        }
        if let Err(error) = grants.platform.unmap(mappings) {
            grants.failed(error);
            return;
        }
        for mapping in mappings.iter() {
            match mapping.status.check() {
                Ok(()) => {
                    if let Some(handle) = self.handle(mapping.page) {
                        *handle = None;
                    }
                    grants.count(|counters| add(&mut counters.unmaps, 1));
                }
                Err(status) => grants.trouble.set(Some(Trouble::Status(status))),
            }
        }
    }
}

fn add_refused<P: Platform>(grants: &Grants<P>) {
    grants.count(|counters| add(&mut counters.refused, 1));
}

/// Entries of one hypercall.
struct Batch {
    mappings: [Mapping; BATCH],
    used: usize,
}

impl Batch {
    const fn new() -> Self {
        Self {
            mappings: [Mapping::NONE; BATCH],
            used: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.used >= BATCH
    }

    fn push(&mut self, mapping: Mapping) {
        if let Some(place) = self.mappings.get_mut(self.used) {
            *place = mapping;
            self.used = self.used.saturating_add(1);
        }
    }

    /// The entries; none are left.
    fn take(&mut self) -> &mut [Mapping] {
        let used = core::mem::take(&mut self.used);
        self.mappings.get_mut(..used).unwrap_or_default()
    }
}
