//! This domain's grant table: pages are lent to the driver domain, and taken back.
//!
//! Entries of version 1, in pages that Xen maps here. An entry is filled in before its flags are set, and taken back by
//! setting them to zero while Xen does not use it: it marks those that it reads or writes.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use spin::Once;
use vd_kernel_core::frames::{FrameSet, bitmap_words};
use vd_kernel_core::granted::address::GRANTED;
use vd_rt::arch::IrqLock;
use vd_rt::mem::frames::FRAME;
use vd_rt::mem::space;
use vd_rt::xen::XEN;
use xen_hypercall::grant_table::entry_flags::{INVALID, PERMIT_ACCESS, READING, READONLY, WRITING};
use xen_hypercall::{DomId, Gfn, memory};

/// Pages of the table.
const PAGES: u64 = 8;
/// Entries in a page.
const ENTRIES: u64 = FRAME / 8;
/// References that belong to the toolstack.
const RESERVED: u64 = 8;

/// Where the table is, and to whom everything is granted.
struct Table {
    start: u64,
    driver: DomId,
}

static TABLE: Once<Table> = Once::new();
static FREE: IrqLock<Option<FrameSet<'static>>> = IrqLock::new(None);
/// Pages that Xen still used when they were to be taken back.
static STUCK: AtomicU64 = AtomicU64::new(0);

impl Table {
    fn entry<T>(&self, reference: u64, offset: u64) -> *mut T {
        assert!(reference < PAGES * ENTRIES);
        (self.start + reference * 8 + offset) as *mut T
    }

    fn flags(&self, reference: u64) -> &AtomicU16 {
        // SAFETY: inside of the table, which stays mapped; aligned, as entries are of eight bytes.
        unsafe { AtomicU16::from_ptr(self.entry(reference, 0)) }
    }

    fn grant(&self, reference: u64, frame: u64, readonly: bool) {
        // SAFETY: as above.
        let (domid, place) = unsafe {
            (
                AtomicU16::from_ptr(self.entry(reference, 2)),
                AtomicU32::from_ptr(self.entry(reference, 4)),
            )
        };
        domid.store(self.driver.0, Ordering::Relaxed);
        place.store(frame as u32, Ordering::Relaxed);
        let flags = PERMIT_ACCESS | if readonly { READONLY } else { 0 };
        self.flags(reference).store(flags, Ordering::Release);
    }

    /// Takes a page back; false if Xen still uses it.
    fn end(&self, reference: u64) -> bool {
        let taken =
            self.flags(reference)
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| {
                    (flags & (READING | WRITING) == 0).then_some(INVALID)
                });
        taken.is_ok()
    }
}

/// Makes the table. Everything is granted to `driver` from then on.
///
/// # Errors
/// What is missing.
pub fn start(driver: DomId) -> Result<(), String> {
    let first = space::special_frames(PAGES).map_err(|_| "no frames for the grant table")?;
    for page in 0..PAGES {
        // SAFETY: nothing is at these frames.
        unsafe { memory::add_to_physmap_grant_table(&XEN, page, Gfn(first + page)) }
            .map_err(|error| error.to_string())?;
    }
    let entries = PAGES * ENTRIES;
    let bits = vec![0; bitmap_words(entries) as usize];
    let mut free = FrameSet::all_taken(0, entries, Box::leak(bits.into()));
    free.release(RESERVED..entries - 1);
    FREE.with(|set| *set = Some(free));
    let start = first * FRAME;
    TABLE.call_once(|| Table { start, driver });
    Ok(())
}

/// Whether memory is shared by grant.
pub fn are_used() -> bool {
    TABLE.get().is_some()
}

/// The address by which the driver domain knows `len` bytes at `at`: as that is, if nothing is shared by grant.
pub fn share(at: u64, len: u64, readonly: bool) -> u64 {
    let Some(table) = TABLE.get() else { return at };
    let pages = pages(at, len);
    let first = FREE.with(|set| set.as_mut()?.allocate(pages, 1, u64::MAX));
    let first = first.expect("a grant reference is free");
    for page in 0..pages {
        table.grant(first + page, at / FRAME + page, readonly);
    }
    GRANTED | (first * FRAME + at % FRAME)
}

/// Takes back what was shared as `address`; false if some of it is still used.
pub fn unshare(address: u64, len: u64) -> bool {
    let Some(table) = TABLE.get() else {
        return true;
    };
    let first = (address & !GRANTED) / FRAME;
    let references = first..first + pages(address, len);
    let stuck = references
        .clone()
        .filter(|&reference| !table.end(reference))
        .count();
    if stuck == 0 {
        FREE.with(|set| set.as_mut().map(|set| set.release(references)));
    }
    STUCK.fetch_add(stuck as u64, Ordering::AcqRel);
    stuck == 0
}

/// Whether every page could be taken back when the device had said that it was done with it.
///
/// # Errors
/// How many could not.
pub fn check_all_back() -> Result<(), String> {
    match STUCK.load(Ordering::Acquire) {
        0 => Ok(()),
        stuck => Err(format!(
            "{stuck} pages were still in use when they were taken back"
        )),
    }
}

/// The address of the last grant in the table, which is never made.
pub fn never() -> u64 {
    GRANTED | ((PAGES * ENTRIES - 1) * FRAME)
}

fn pages(at: u64, len: u64) -> u64 {
    (at % FRAME + len).div_ceil(FRAME)
}
