//! A hypervisor and a guest for tests: pages that are granted or not, and calls that fail when they are told to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::prelude::v1::*;

use xen_hypercall::Errno;
use xen_hypercall::grant_table::GrantStatus;

use super::address::{GRANTED, split};
use super::{Buffer, Copy, Mapping, Own, PAGE, Platform};
use vd_virtio::Gpa;

/// A page of the guest's.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) readonly: bool,
    /// How often it is mapped.
    pub(super) mapped: u32,
}

/// What a hypercall was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Map(usize),
    Unmap(usize),
    Copy(usize),
}

/// What goes wrong with a hypercall.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    All(Errno),
    /// The last of its entries.
    Last(GrantStatus),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapped {
    grant: u32,
    writable: bool,
    handle: u32,
}

pub(super) struct Fake {
    pub(super) granted: RefCell<BTreeMap<u32, Page>>,
    window: RefCell<Vec<Option<Mapped>>>,
    calls: RefCell<Vec<Call>>,
    fail_at: Cell<Option<(usize, Failure)>>,
    lasting: RefCell<Lasting>,
    last_handle: Cell<u32>,
}

/// Where memory that stays is, and what is in it.
#[derive(Default)]
struct Lasting {
    start: usize,
    bytes: Vec<u8>,
}

/// Storage of a device's that stays. The hypervisor sees what was in it when the device touched it last: while a device
/// has hold of it, nobody else can look.
pub(super) struct Storage<'a> {
    guest: &'a Fake,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Storage<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Storage<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.guest.keep(&self.bytes);
        &mut self.bytes
    }
}

impl Fake {
    pub(super) fn new(window: usize) -> Self {
        Self {
            granted: RefCell::default(),
            window: RefCell::new(vec![None; window]),
            calls: RefCell::default(),
            fail_at: Cell::default(),
            lasting: RefCell::default(),
            last_handle: Cell::new(100),
        }
    }

    /// These bytes stay where they are.
    pub(super) fn keep(&self, bytes: &[u8]) {
        *self.lasting.borrow_mut() = Lasting {
            start: bytes.as_ptr().addr(),
            bytes: bytes.into(),
        };
    }

    /// A device keeps these bytes.
    pub(super) fn storage(&self, bytes: Vec<u8>) -> Storage<'_> {
        self.keep(&bytes);
        Storage { guest: self, bytes }
    }

    /// The guest grants `count` pages from reference `first` on; returns their address.
    pub(super) fn grant(&self, first: u32, count: u32, readonly: bool) -> u64 {
        for reference in first..first + count {
            let page = Page {
                bytes: vec![0; PAGE as usize],
                readonly,
                mapped: 0,
            };
            self.granted.borrow_mut().insert(reference, page);
        }
        GRANTED | u64::from(first) << 12
    }

    /// The guest writes.
    pub(super) fn put(&self, at: u64, from: &[u8]) {
        let mut rest = from;
        for part in split(Gpa(at), from.len() as u64).unwrap() {
            let (here, more) = rest.split_at(part.len.into());
            let mut granted = self.granted.borrow_mut();
            let page = granted.get_mut(&part.grant).unwrap();
            page.bytes[usize::from(part.offset)..][..here.len()].copy_from_slice(here);
            rest = more;
        }
    }

    /// The guest reads.
    pub(super) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in split(Gpa(at), len as u64).unwrap() {
            let granted = self.granted.borrow();
            let page = &granted[&part.grant];
            bytes.extend(&page.bytes[usize::from(part.offset)..][..part.len.into()]);
        }
        bytes
    }

    /// Makes the n-th hypercall from now on fail; the first is 0.
    pub(super) fn fail_at(&self, n: usize, failure: Failure) {
        self.fail_at
            .set(Some((self.calls.borrow().len() + n, failure)));
    }

    /// The hypercalls since the last time.
    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.borrow_mut())
    }

    /// Pages of the window with something in them.
    pub(super) fn mapped(&self) -> usize {
        let in_window = self.window.borrow().iter().flatten().count();
        let granted = self.granted.borrow();
        let in_use: u32 = granted.values().map(|page| page.mapped).sum();
        assert_eq!(in_window, in_use as usize);
        in_window
    }

    fn call(&self, call: Call) -> Option<Failure> {
        let n = self.calls.borrow().len();
        self.calls.borrow_mut().push(call);
        let (at, failure) = self.fail_at.get()?;
        (at == n).then_some(failure)
    }

    /// Makes `each` for every entry, unless that is to fail.
    fn each<T>(
        &self,
        call: Call,
        entries: &mut [T],
        status: impl Fn(&mut T) -> &mut GrantStatus,
        each: impl Fn(&mut T) -> GrantStatus,
    ) -> Result<(), Errno> {
        let failure = self.call(call);
        if let Some(Failure::All(error)) = failure {
            return Err(error);
        }
        let count = entries.len();
        assert_ne!(count, 0, "a hypercall for nothing");
        for (n, entry) in entries.iter_mut().enumerate() {
            let result = match failure {
                Some(Failure::Last(status)) if n + 1 == count => status,
                _ => each(entry),
            };
            *status(entry) = result;
        }
        Ok(())
    }

    fn locate(&self, place: u64, len: u64, write: bool) -> Vec<(u32, usize)> {
        (place..place + len)
            .map(|at| {
                let page = self.window.borrow()[(at / PAGE) as usize];
                let page = page.expect("mapped");
                assert!(page.writable || !write, "mapped read-only");
                (page.grant, (at % PAGE) as usize)
            })
            .collect()
    }
}

/// Bytes, and their address.
fn located(bytes: &[u8]) -> (usize, &[u8]) {
    (bytes.as_ptr().addr(), bytes)
}

impl Platform for &Fake {
    fn map(&self, mappings: &mut [Mapping]) -> Result<(), Errno> {
        let call = Call::Map(mappings.len());
        self.each(
            call,
            mappings,
            |m| &mut m.status,
            |mapping| {
                let mut granted = self.granted.borrow_mut();
                let Some(page) = granted.get_mut(&mapping.grant) else {
                    return GrantStatus::BAD_GNTREF;
                };
                if page.readonly && mapping.writable {
                    return GrantStatus::GENERAL_ERROR;
                }
                let mut window = self.window.borrow_mut();
                let place = &mut window[mapping.page as usize];
                assert_eq!(*place, None, "something is mapped there");
                self.last_handle.set(self.last_handle.get() + 1);
                mapping.handle = self.last_handle.get();
                *place = Some(Mapped {
                    grant: mapping.grant,
                    writable: mapping.writable,
                    handle: mapping.handle,
                });
                page.mapped += 1;
                GrantStatus::OKAY
            },
        )
    }

    fn unmap(&self, mappings: &mut [Mapping]) -> Result<(), Errno> {
        let call = Call::Unmap(mappings.len());
        self.each(
            call,
            mappings,
            |m| &mut m.status,
            |mapping| {
                let place = self.window.borrow_mut()[mapping.page as usize].take();
                let mapped = place.expect("something is mapped there");
                assert_eq!(mapped.handle, mapping.handle);
                let mut granted = self.granted.borrow_mut();
                granted.get_mut(&mapped.grant).unwrap().mapped -= 1;
                GrantStatus::OKAY
            },
        )
    }

    fn copy(
        &self,
        copies: &mut [Copy],
        staged: &[u8],
        mut buffer: Buffer<'_>,
    ) -> Result<(), Errno> {
        let call = Call::Copy(copies.len());
        let buffer = RefCell::new(&mut buffer);
        self.each(
            call,
            copies,
            |copy| &mut copy.status,
            |copy| {
                let (offset, len) = (usize::from(copy.offset), usize::from(copy.len));
                assert!(len != 0 && offset + len <= PAGE as usize);
                let mut granted = self.granted.borrow_mut();
                let Some(page) = granted.get_mut(&copy.grant) else {
                    return GrantStatus::BAD_GNTREF;
                };
                let theirs = &mut page.bytes[offset..offset + len];
                let in_a_page = |ours: usize| {
                    let at = ours % PAGE as usize;
                    assert!(at + len <= PAGE as usize, "over the end of an own page");
                };
                let buffer = &mut *buffer.borrow_mut();
                let lasting = self.lasting.borrow();
                let (from, ours) = match (copy.own, &mut **buffer) {
                    (Own::Into(at), Buffer::Into(bytes)) => {
                        let ours = &mut bytes[at..at + len];
                        in_a_page(ours.as_ptr().addr());
                        ours.copy_from_slice(theirs);
                        return GrantStatus::OKAY;
                    }
                    (Own::From(at), Buffer::From(bytes)) => located(&bytes[at..at + len]),
                    (Own::Staged(at), _) => located(&staged[at..at + len]),
                    (Own::Lasting(address), _) => {
                        let at = address as usize - lasting.start;
                        (address as usize, &lasting.bytes[at..at + len])
                    }
                    (own, buffer) => std::panic!("{own:?} {buffer:?}"),
                };
                in_a_page(from);
                if page.readonly {
                    return GrantStatus::GENERAL_ERROR;
                }
                theirs.copy_from_slice(ours);
                GrantStatus::OKAY
            },
        )
    }

    fn lasting(&self, bytes: &[u8]) -> Option<u64> {
        let lasting = self.lasting.borrow();
        let at = bytes.as_ptr().addr().checked_sub(lasting.start)?;
        let inside = at + bytes.len() <= lasting.bytes.len() && !lasting.bytes.is_empty();
        inside.then(|| bytes.as_ptr().addr() as u64)
    }

    fn read(&self, place: u64, into: &mut [u8]) {
        let places = self.locate(place, into.len() as u64, false);
        for (byte, (grant, at)) in into.iter_mut().zip(places) {
            *byte = self.granted.borrow()[&grant].bytes[at];
        }
    }

    fn write(&self, place: u64, from: &[u8]) {
        for (byte, (grant, at)) in from.iter().zip(self.locate(place, from.len() as u64, true)) {
            self.granted.borrow_mut().get_mut(&grant).unwrap().bytes[at] = *byte;
        }
    }

    fn load_u16(&self, place: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(place, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn store_u16(&self, place: u64, value: u16) {
        self.write(place, &value.to_le_bytes());
    }

    fn fence(&self) {}
}
