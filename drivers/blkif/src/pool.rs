//! The pages that data passes through: taken and given back in chains.
//!
//! The page that was given back last is taken first, so that a back end that keeps mappings sees the same few.

use alloc::boxed::Box;

/// No page.
pub(crate) const NONE: u16 = u16::MAX;

/// All pages, by number from 0.
#[derive(Debug)]
pub(crate) struct Pool {
    next: Box<[u16]>,
    free: u16,
    available: usize,
}

impl Pool {
    /// Pages 0 to `pages` - 1.
    pub(crate) fn new(pages: u16) -> Self {
        let last = pages.saturating_sub(1);
        let follow = |page: u16| {
            if page == last {
                NONE
            } else {
                page.saturating_add(1)
            }
        };
        Self {
            next: (0..pages).map(follow).collect(),
            free: if pages == 0 { NONE } else { 0 },
            available: usize::from(pages),
        }
    }

    /// Free pages.
    pub(crate) fn available(&self) -> usize {
        self.available
    }

    /// Takes a chain of pages, all or none; gives the first.
    pub(crate) fn take(&mut self, count: usize) -> Option<u16> {
        if count > self.available {
            return None;
        }
        let mut first = NONE;
        for _ in 0..count {
            let page = self.free;
            let next = self.next.get_mut(usize::from(page))?;
            self.free = core::mem::replace(next, first);
            first = page;
        }
        self.available = self.available.saturating_sub(count);
        Some(first)
    }

    /// Gives a chain back.
    pub(crate) fn give_back(&mut self, first: u16) {
        let mut page = first;
        while let Some(next) = self.next.get_mut(usize::from(page)) {
            let following = core::mem::replace(next, self.free);
            self.free = page;
            self.available = self.available.saturating_add(1);
            page = following;
        }
    }

    /// The page after this one in its chain.
    pub(crate) fn after(&self, page: u16) -> u16 {
        self.next.get(usize::from(page)).copied().unwrap_or(NONE)
    }
}
