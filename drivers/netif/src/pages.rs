//! The pages that frames pass through, and who may access each.
//!
//! Invariant: a page is this domain's alone, or a back end is let into it by a grant; never both. What a back end has put
//! into a page is looked at only when it can no longer change it.

use alloc::boxed::Box;
use alloc::vec;

use vd_pv::{Access, PAGE_SIZE, Platform};

/// What frames need of the kernel besides.
pub trait FramePages: Platform {
    /// Lets `with` fill a part of a page that nobody is let into.
    fn fill_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&mut [u8]));

    /// Lets `with` see a part of a page that nobody is let into.
    fn drain_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&[u8]));
}

/// Who has a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nobody.
    Free,
    /// The switch: room for what goes out, or what has come in.
    Switch,
    /// The back end, by this grant.
    BackEnd(u32),
}

/// Pages of one use, by number from 0. They can be linked to chains.
#[derive(Debug)]
pub(crate) struct Pages {
    /// The platform's page that is number 0 here.
    first: usize,
    holders: Box<[Holder]>,
    /// The next page of a chain, or of those that are free.
    next: Box<[u16]>,
    free: u16,
}

/// No page.
pub(crate) const NONE: u16 = u16::MAX;

/// A page is not where it should be, or a back end does not let go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOurs;

impl Pages {
    pub(crate) fn new(first: usize, count: u16) -> Self {
        let mut pages = Self {
            first,
            holders: vec![Holder::Free; count.into()].into_boxed_slice(),
            next: vec![NONE; count.into()].into_boxed_slice(),
            free: NONE,
        };
        for page in (0..count).rev() {
            pages.put_free(page);
        }
        pages
    }

    fn put_free(&mut self, page: u16) {
        if let Some(next) = self.next.get_mut(usize::from(page)) {
            *next = self.free;
            self.free = page;
        }
    }

    fn holder(&self, page: u16) -> Option<Holder> {
        self.holders.get(usize::from(page)).copied()
    }

    fn set(&mut self, page: u16, holder: Holder) {
        if let Some(place) = self.holders.get_mut(usize::from(page)) {
            *place = holder;
        }
    }

    /// The platform's number of a page.
    fn number(&self, page: u16) -> usize {
        self.first.saturating_add(page.into())
    }

    /// The next free page, which stays free.
    pub(crate) fn next_free(&self) -> Option<u16> {
        Some(self.free).filter(|&page| page != NONE)
    }

    fn unlink_free(&mut self) -> Option<u16> {
        let page = self.next_free()?;
        self.free = self.after(page);
        self.link(page, NONE);
        Some(page)
    }

    /// Gives the next free page to the switch.
    pub(crate) fn take(&mut self) -> Option<u16> {
        let page = self.unlink_free()?;
        self.set(page, Holder::Switch);
        Some(page)
    }

    /// Lets a back end into the next free page. Gives page and grant.
    pub(crate) fn post<P: Platform>(
        &mut self,
        platform: &mut P,
        domain: u16,
    ) -> Option<(u16, u32)> {
        let gref = platform.grant(domain, self.number(self.next_free()?), Access::Write)?;
        let page = self.unlink_free()?;
        self.set(page, Holder::BackEnd(gref));
        Some((page, gref))
    }

    /// Lets a back end read a page that the switch had.
    pub(crate) fn show<P: Platform>(
        &mut self,
        platform: &mut P,
        domain: u16,
        page: u16,
    ) -> Option<u32> {
        if self.holder(page) != Some(Holder::Switch) {
            return None;
        }
        let gref = platform.grant(domain, self.number(page), Access::Read)?;
        self.set(page, Holder::BackEnd(gref));
        Some(gref)
    }

    /// Takes a page from the back end, for the switch.
    pub(crate) fn recover<P: Platform>(
        &mut self,
        platform: &mut P,
        page: u16,
    ) -> Result<(), NotOurs> {
        match self.holder(page) {
            Some(Holder::BackEnd(gref)) if platform.end_grant(gref) => {
                self.set(page, Holder::Switch);
                Ok(())
            }
            _ => Err(NotOurs),
        }
    }

    /// The switch is done with a chain of pages.
    pub(crate) fn release(&mut self, first: u16) {
        let mut page = first;
        while self.holder(page) == Some(Holder::Switch) {
            let next = self.after(page);
            self.set(page, Holder::Free);
            self.put_free(page);
            page = next;
        }
    }

    /// Links a page to another one, or to [`NONE`].
    pub(crate) fn link(&mut self, page: u16, to: u16) {
        if let Some(next) = self.next.get_mut(usize::from(page)) {
            *next = to;
        }
    }

    fn after(&self, page: u16) -> u16 {
        self.next.get(usize::from(page)).copied().unwrap_or(NONE)
    }

    /// Takes everything back, as far as the back end has let go. Returns whether nothing is left.
    pub(crate) fn revoke<P: Platform>(&mut self, platform: &mut P) -> bool {
        let mut all = true;
        self.free = NONE;
        for (page, holder) in (0u16..).zip(&mut self.holders) {
            if let Holder::BackEnd(gref) = *holder
                && !platform.end_grant(gref)
            {
                all = false;
                continue;
            }
            *holder = Holder::Free;
            if let Some(next) = self.next.get_mut(usize::from(page)) {
                *next = self.free;
                self.free = page;
            }
        }
        all
    }

    /// A page of the switch by its address in own memory: the platform's number, and where in it.
    pub(crate) fn place(&self, at: u32, len: usize) -> Option<(usize, usize)> {
        let at = usize::try_from(at).ok()?;
        let (number, offset) = (at / PAGE_SIZE, at % PAGE_SIZE);
        let page = u16::try_from(number.checked_sub(self.first)?).ok()?;
        let inside = offset.checked_add(len)? <= PAGE_SIZE;
        (inside && self.holder(page) == Some(Holder::Switch)).then_some((number, offset))
    }

    /// The address of a page in own memory.
    pub(crate) fn address(&self, page: u16) -> u32 {
        u32::try_from(self.number(page).saturating_mul(PAGE_SIZE)).unwrap_or(u32::MAX)
    }
}
