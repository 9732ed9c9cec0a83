//! The guest's memory as far as it is granted, and no further.
//!
//! A guest whose driver has to share memory by grant gives out addresses with bit 63 set, a grant reference in place of
//! the frame's number ([`address`]); that is how Linux does it for virtio, too. Here:
//!
//! - *rings* are mapped while their queue is in use ([`rings`]), because each of them is read and written several times
//!   a request;
//! - *everything else* is copied by Xen, straight between the guest's page and where the data comes from or goes to
//!   ([`view`]). Nothing of it is ever mapped, so that nothing has to be unmapped when a request is done. Many pieces go
//!   into one hypercall, and what is written for the guest waits until the driver is about to be shown that its requests
//!   are done, or for the next hypercall.
//!
//! Invariants: only what the guest has granted is accessed, and only as it was granted; a request of the device is in
//! the guest's memory before the driver sees that it is done; whatever fails leaves no mapping behind that is not kept
//! track of; nothing here allocates after it was made.

pub mod address;
pub mod rings;
mod scratch;
pub mod view;

use core::cell::{Cell, RefCell};
use core::fmt;

use vd_virtio::Cause;
use xen_hypercall::Errno;
use xen_hypercall::grant_table::GrantStatus;

pub use rings::Rings;
pub use view::View;

pub use rings::BATCH as MAPPINGS;
pub use scratch::COPIES;
use scratch::Scratch;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// One page to map, or to unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Which page of the window it appears at.
    pub page: u32,
    /// Which grant.
    pub grant: u32,
    /// Whether it is mapped for writing too.
    pub writable: bool,
    /// What Xen knows the mapping by.
    pub handle: u32,
    /// What became of it.
    pub status: GrantStatus,
}

impl Mapping {
    const NONE: Self = Self {
        page: 0,
        grant: 0,
        writable: false,
        handle: 0,
        status: GrantStatus::OKAY,
    };
}

/// One piece to copy: inside of one page of the guest's, and of one of this domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Which grant.
    pub grant: u32,
    /// How many bytes into its page.
    pub offset: u16,
    /// How many bytes.
    pub len: u16,
    /// The other end, which says in what direction as well.
    pub own: Own,
    /// What became of it.
    pub status: GrantStatus,
}

/// This domain's end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// To the buffer that is filled, from this byte on.
    Into(usize),
    /// From the buffer, from this byte on.
    From(usize),
    /// From what was put by, from this byte on.
    Staged(usize),
    /// From memory that stays where it is ([`Platform::lasting`]), at this address.
    Lasting(u64),
}

impl Own {
    /// Whether the device was told that the copy is done, before it is.
    const fn is_deferred(self) -> bool {
        matches!(self, Self::Staged(_) | Self::Lasting(_))
    }
}

/// What a call's copies go to or come from.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// Nothing but what was put by.
    Nothing,
    /// It is filled.
    Into(&'a mut [u8]),
    /// It is copied out.
    From(&'a [u8]),
}

impl Buffer<'_> {
    fn reborrow(&mut self) -> Buffer<'_> {
        match self {
            Self::Nothing => Buffer::Nothing,
            Self::Into(bytes) => Buffer::Into(bytes),
            Self::From(bytes) => Buffer::From(bytes),
        }
    }
}

/// The hypervisor, and a window of pages that grants can be mapped to.
///
/// Places are offsets in the window, whose pages follow one another; only mapped ones are accessed, and only those that
/// are mapped for writing are written. The guest may change what is there at any time.
pub trait Platform {
    /// Maps grants of the guest into the window, and fills in `handle` and `status`.
    ///
    /// # Errors
    /// For the call as a whole: nothing was mapped.
    fn map(&self, mappings: &mut [Mapping]) -> Result<(), Errno>;

    /// Unmaps, and fills in `status`.
    ///
    /// # Errors
    /// For the call as a whole.
    fn unmap(&self, mappings: &mut [Mapping]) -> Result<(), Errno>;

    /// Copies, and fills in `status`. All own ends other than lasting memory are inside of `staged` or `buffer`.
    ///
    /// # Errors
    /// For the call as a whole.
    fn copy(&self, copies: &mut [Copy], staged: &[u8], buffer: Buffer<'_>) -> Result<(), Errno>;

    /// Where these bytes are, if they stay there as long as any copy may wait: storage of a device, say. If they change
    /// meanwhile, either content may be copied.
    fn lasting(&self, bytes: &[u8]) -> Option<u64>;

    /// Copies out of the window.
    fn read(&self, place: u64, into: &mut [u8]);

    /// Copies into the window.
    fn write(&self, place: u64, from: &[u8]);

    /// One aligned 16-bit load with acquire ordering.
    fn load_u16(&self, place: u64) -> u16;

    /// One aligned 16-bit store with release ordering.
    fn store_u16(&self, place: u64, value: u16);

    /// A full barrier.
    fn fence(&self);
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pages mapped.
    pub maps: u64,
    /// Pages unmapped.
    pub unmaps: u64,
    /// Pieces copied.
    pub copies: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Accesses to what is not granted, or not like that.
    pub refused: u64,
}

impl Counters {
    /// All of them, with their names in status reports.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("grant-maps", self.maps),
            ("grant-unmaps", self.unmaps),
            ("grant-copies", self.copies),
            ("grant-bytes", self.bytes),
            ("grant-refused", self.refused),
        ]
        .into_iter()
    }
}

/// What went wrong through no fault of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A hypercall.
    Call(Errno),
    /// An entry of one.
    Status(GrantStatus),
    /// A mapping that could not be ended is in the way.
    Stuck,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => write!(f, "a hypercall for grants failed: {error}"),
            Self::Status(status) => {
                write!(f, "mapping, unmapping or copying a grant failed: {status}")
            }
            Self::Stuck => f.write_str("a page of a former ring could not be unmapped"),
        }
    }
}

/// Whose doing it is that an entry was refused: the owner's, who has granted nothing there or not that, or has gone; or
/// that of the caller, who is short of room or has asked for something impossible.
#[must_use]
pub fn cause_of(status: GrantStatus) -> Cause {
    match status {
        GrantStatus::BAD_HANDLE
        | GrantStatus::BAD_VIRT_ADDR
        | GrantStatus::BAD_DEV_ADDR
        | GrantStatus::NO_DEVICE_SPACE
        | GrantStatus::BAD_COPY_ARG
        | GrantStatus::EAGAIN
        | GrantStatus::NO_SPACE => Cause::Platform,
        _ => Cause::NotGranted,
    }
}

/// Access to what one guest has granted; all its devices' share it. Each has [`Rings`] of its own.
pub struct Grants<P> {
    platform: P,
    scratch: RefCell<Scratch>,
    counters: Cell<Counters>,
    trouble: Cell<Option<Trouble>>,
}

impl<P: Platform> Grants<P> {
    /// Nothing is mapped yet.
    pub fn new(platform: P) -> Self {
        Self {
            platform,
            scratch: RefCell::new(Scratch::new()),
            counters: Cell::default(),
            trouble: Cell::default(),
        }
    }

    /// The memory of the device that has these rings.
    pub fn view<'a>(&'a self, rings: &'a Rings) -> View<'a, P> {
        View {
            grants: self,
            rings,
        }
    }

    /// Unmaps all rings of a device. Returns how many pages stay mapped, because Xen refuses.
    pub fn close_all(&self, rings: &Rings) -> usize {
        rings.close_all(self);
        rings.mapped()
    }

    /// The hypervisor.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// What went wrong last through no fault of the guest's, once.
    pub fn take_trouble(&self) -> Option<Trouble> {
        self.trouble.take()
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Takes note of a refusal; says whose doing it is.
    fn refused(&self, status: GrantStatus) -> Cause {
        let cause = cause_of(status);
        if cause == Cause::Platform {
            self.trouble.set(Some(Trouble::Status(status)));
        } else {
            self.count(|counters| add(&mut counters.refused, 1));
        }
        cause
    }

    /// A call as a whole has failed.
    fn failed(&self, error: Errno) -> Cause {
        self.trouble.set(Some(Trouble::Call(error)));
        Cause::Platform
    }
}

/// Adds to a counter. 64 bits do not overflow.
fn add(counter: &mut u64, more: u64) {
    *counter = counter.wrapping_add(more);
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
