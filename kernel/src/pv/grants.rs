//! This domain's own grant table: which of its pages the back ends of its devices may use.
//!
//! The table grows when it has to, a page at a time, up to [`MAX_PAGES`]; Xen may allow fewer. Which entries are free is
//! in `vd_kernel_core::grants`.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use vd_kernel_core::grants::{Entries, Grants, PER_FRAME};
use xen_hypercall::{Gfn, grant_table, memory};

use crate::arch::IrqLock;
use crate::mem::frames::FRAME;
use crate::mem::space;
use crate::xen::XEN;

/// Most pages of the table: 10240 grants, more than the disks and network interfaces of one guest take.
const MAX_PAGES: usize = 20;
/// The layout that is used.
const VERSION: u32 = 1;

static TABLE: IrqLock<Table> = IrqLock::new(Table {
    grants: Grants::new(),
    pages: Pages([0; MAX_PAGES]),
});

struct Table {
    grants: Grants,
    pages: Pages,
}

/// Addresses of the table's pages, as many as `Table::grants` knows of.
struct Pages([u64; MAX_PAGES]);

impl Pages {
    /// A word of an entry: 0 = flags and domain, 1 = frame.
    fn word(&self, entry: u32, word: u64) -> &AtomicU32 {
        let page = self.0[(entry / PER_FRAME) as usize];
        assert!(
            page != 0,
            "only entries of pages that are there are given out"
        );
        let at = page + u64::from(entry % PER_FRAME) * 8 + word * 4;
        // SAFETY: aligned and inside of a page of the table, which is mapped until the domain ends; Xen and this program
        // access it as atomic words.
        unsafe { AtomicU32::from_ptr(at as *mut u32) }
    }
}

impl Entries for Pages {
    fn set_frame(&self, entry: u32, frame: u32) {
        self.word(entry, 1).store(frame, Ordering::Relaxed);
    }

    fn publish(&self, entry: u32, head: u32) {
        self.word(entry, 0).store(head, Ordering::Release);
    }

    fn revoke(&self, entry: u32, head: u32) -> Result<(), u32> {
        let word = self.word(entry, 0);
        let revoked = word.compare_exchange(head, 0, Ordering::SeqCst, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        revoked.map(drop)
    }

    fn head(&self, entry: u32) -> u32 {
        self.word(entry, 0).load(Ordering::Acquire)
    }
}

impl Table {
    /// Asks Xen for one more page.
    fn grow(&mut self) -> Option<()> {
        let index = self.grants.frames();
        let place = self.pages.0.get_mut(index as usize)?;
        if index == 0 {
            let version = grant_table::set_version(&XEN, VERSION);
            if version != Ok(VERSION) {
                log::error!("grant table: version {VERSION} is refused: {version:?}");
                return None;
            }
        }
        let gfn = space::special_frames(1).ok()?;
        // SAFETY: nothing is at this frame number, by the allocator.
        let added = unsafe { memory::add_to_physmap_grant_table(&XEN, index.into(), Gfn(gfn)) };
        if let Err(error) = added {
            log::error!(
                "grant table: page {index}: {error}; raise max_grant_frames= of this domain"
            );
            space::release_special(gfn, 1);
            return None;
        }
        *place = gfn * FRAME;
        self.grants.grow();
        Some(())
    }
}

/// Lets a domain into a frame of this one. None if there is no room.
pub fn give(domain: u16, frame: u64, readonly: bool) -> Option<u32> {
    TABLE.with(|table| {
        if table.grants.available() == 0 {
            table.grow()?;
        }
        table.grants.give(&table.pages, domain, frame, readonly)
    })
}

/// Takes a grant back, and gives the frame that it was for. None if the domain still has it mapped.
pub fn end(gref: u32) -> Option<u64> {
    TABLE.with(|table| {
        // Only this program writes it, before the grant is there.
        let frame = table.pages.word(gref, 1).load(Ordering::Relaxed);
        let ended = table.grants.end(&table.pages, gref);
        ended.then_some(frame.into())
    })
}
