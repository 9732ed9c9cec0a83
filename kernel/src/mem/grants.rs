//! Grants of the guest: the hypercalls behind [`vd_kernel_core::granted`], and the window that rings are mapped to.
//!
//! Invariants: the window's pages have no RAM, and are accessed only where a grant is mapped; nobody holds a reference
//! into it. What the hypervisor copies to is a buffer that is borrowed for the call.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use vd_kernel_core::granted::{Buffer, COPIES, Copy, MAPPINGS, Mapping, Own, Platform};
use xen_hypercall::grant_table::{self, CopyOp, GrantStatus, MapOp, UnmapOp};
use xen_hypercall::{DomId, Errno, GrantRef};

use super::frames::FRAME;
use super::space::{self, SpaceError};
use crate::xen::XEN;

/// Access to what one guest grants.
pub struct Xen {
    guest: DomId,
    /// Address of the window, which is its guest-physical address as well.
    window: u64,
    pages: u32,
    /// Memory that stays where it is as long as the devices do.
    lasting: Vec<Range<u64>>,
    /// Room for one call's copies.
    copies: RefCell<Box<[CopyOp]>>,
}

impl Xen {
    /// A window of so many pages for grants of `guest`.
    ///
    /// # Errors
    /// The window cannot be made.
    pub fn new(guest: DomId, pages: u32, lasting: Vec<Range<u64>>) -> Result<Self, SpaceError> {
        Ok(Self {
            guest,
            window: space::grant_window(pages.into())?,
            pages,
            lasting,
            copies: RefCell::new(vec![CopyOp::default(); COPIES].into()),
        })
    }

    fn address(&self, page: u32) -> u64 {
        self.window + u64::from(page) * FRAME
    }

    /// A place in the window.
    fn place(&self, place: u64, len: usize) -> *mut u8 {
        assert!(place + len as u64 <= u64::from(self.pages) * FRAME);
        (self.window + place) as *mut u8
    }

    /// A number in the window. The reference is to an atomic, used at once, and goes no further.
    fn number(&self, place: u64) -> &AtomicU16 {
        let at = self.place(place, 2);
        assert!(at.cast::<u16>().is_aligned());
        // SAFETY: aligned, and mapped: only such places are asked for.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }
}

impl Platform for Xen {
    fn map(&self, mappings: &mut [Mapping]) -> Result<(), Errno> {
        let mut ops = [MapOp::default(); MAPPINGS];
        let ops = &mut ops[..mappings.len()];
        for (op, mapping) in ops.iter_mut().zip(&*mappings) {
            let (addr, gref) = (self.address(mapping.page), GrantRef(mapping.grant));
            *op = MapOp::new(addr, self.guest, gref, !mapping.writable);
        }
        // SAFETY: pages of the window, where nothing is mapped yet, so that nobody uses them.
        unsafe { grant_table::map(&XEN, ops) }?;
        for (op, mapping) in ops.iter().zip(mappings) {
            (mapping.handle, mapping.status) = (op.handle, GrantStatus(op.status));
        }
        Ok(())
    }

    fn unmap(&self, mappings: &mut [Mapping]) -> Result<(), Errno> {
        let mut ops = [UnmapOp::default(); MAPPINGS];
        let ops = &mut ops[..mappings.len()];
        for (op, mapping) in ops.iter_mut().zip(&*mappings) {
            *op = UnmapOp::new(self.address(mapping.page), mapping.handle);
        }
        // SAFETY: the ring that was there is closed: no place in it is asked for any more.
        unsafe { grant_table::unmap(&XEN, ops) }?;
        for (op, mapping) in ops.iter().zip(mappings) {
            mapping.status = GrantStatus(op.status);
        }
        Ok(())
    }

    fn copy(
        &self,
        copies: &mut [Copy],
        staged: &[u8],
        mut buffer: Buffer<'_>,
    ) -> Result<(), Errno> {
        let mut ops = self.copies.borrow_mut();
        let ops = &mut ops[..copies.len()];
        for (op, copy) in ops.iter_mut().zip(&*copies) {
            let Copy {
                grant, offset, len, ..
            } = *copy;
            let (guest, gref, size) = (self.guest, GrantRef(grant), usize::from(len));
            let own = match (copy.own, &mut buffer) {
                (Own::Into(at), Buffer::Into(bytes)) => {
                    let own = bytes[at..at + size].as_mut_ptr() as u64;
                    *op = CopyOp::from_grant(guest, gref, offset, own, len);
                    continue;
                }
                (Own::From(at), Buffer::From(bytes)) => bytes[at..at + size].as_ptr() as u64,
                (Own::Staged(at), _) => staged[at..at + size].as_ptr() as u64,
                (Own::Lasting(address), _) => address,
                (Own::Into(_) | Own::From(_), _) => return Err(Errno::EINVAL),
            };
            *op = CopyOp::to_grant(own, guest, gref, offset, len);
        }
        // SAFETY: own memory that is written is inside of the buffer that is borrowed for this call, which is mapped at
        // its guest-physical address like all RAM.
        unsafe { grant_table::copy(&XEN, ops) }?;
        for (op, copy) in ops.iter().zip(copies) {
            copy.status = GrantStatus(op.status);
        }
        Ok(())
    }

    fn lasting(&self, bytes: &[u8]) -> Option<u64> {
        let these = bytes.as_ptr_range();
        let (start, end) = (these.start as u64, these.end as u64);
        let contains = |range: &Range<u64>| range.start <= start && end <= range.end;
        self.lasting.iter().any(contains).then_some(start)
    }

    fn read(&self, place: u64, into: &mut [u8]) {
        let place = self.place(place, into.len());
        // SAFETY: mapped: only such places are asked for; `into` is not in the window.
        unsafe { super::copy(place, into.as_mut_ptr(), into.len()) };
    }

    fn write(&self, place: u64, from: &[u8]) {
        let place = self.place(place, from.len());
        // SAFETY: as in `read`, and mapped for writing.
        unsafe { super::copy(from.as_ptr(), place, from.len()) };
    }

    fn load_u16(&self, place: u64) -> u16 {
        u16::from_le(self.number(place).load(Ordering::Acquire))
    }

    fn store_u16(&self, place: u64, value: u16) {
        self.number(place).store(value.to_le(), Ordering::Release);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
