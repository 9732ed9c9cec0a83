//! One device's access to its guest's memory.

use vd_virtio::{Cause, Gpa, GuestMemory, MemError, RingArea, Span};
use xen_hypercall::grant_table::GrantStatus;

use super::address::{self, Part};
use super::scratch::Scratch;
use super::{Buffer, Copy, Grants, Own, PAGE, Platform, Rings, add};

/// The memory of the device that has these rings.
pub struct View<'a, P> {
    pub(super) grants: &'a Grants<P>,
    pub(super) rings: &'a Rings,
}

/// The start of this domain's end of a transfer.
#[derive(Clone, Copy)]
struct End {
    own: Own,
    /// Its address, to know where pages end.
    address: u64,
}

impl End {
    /// The end of a piece `by` bytes further, and how many bytes its page has from there.
    fn after(self, by: usize) -> (Own, u64) {
        let distance = by as u64;
        let own = match self.own {
            Own::Into(at) => Own::Into(at.saturating_add(by)),
            Own::From(at) => Own::From(at.saturating_add(by)),
            Own::Staged(at) => Own::Staged(at.saturating_add(by)),
            Own::Lasting(at) => Own::Lasting(at.saturating_add(distance)),
        };
        let into_page = self.address.wrapping_add(distance) & (PAGE - 1);
        (own, PAGE.saturating_sub(into_page))
    }
}

impl<P: Platform> View<'_, P> {
    /// It is not granted at all.
    fn not_granted(&self, at: Gpa, len: u64) -> MemError {
        self.grants.count(|counters| add(&mut counters.refused, 1));
        MemError::because(Cause::NotGranted, at, len)
    }

    /// Copies between the pieces and `buffer`, or lets that wait, if `end` says so.
    fn transfer<I>(
        &self,
        scratch: &mut Scratch,
        pieces: I,
        end: End,
        mut buffer: Buffer<'_>,
    ) -> Result<(), MemError>
    where
        I: Iterator<Item = (Gpa, usize)> + Clone,
    {
        // All or nothing: no copy may wait whose buffer is gone.
        for (at, len) in pieces.clone() {
            if address::split(at, len as u64).is_none() {
                return Err(self.not_granted(at, len as u64));
            }
        }
        let mut done = 0_usize;
        for (at, len) in pieces {
            for part in address::split(at, len as u64).into_iter().flatten() {
                done = self.put(scratch, part, end, done, &mut buffer)?;
            }
        }
        if end.own.is_deferred() {
            return Ok(());
        }
        self.execute(scratch, buffer)
    }

    /// Adds copies for one page of the guest's; returns how much is done then.
    fn put(
        &self,
        scratch: &mut Scratch,
        part: Part,
        end: End,
        mut done: usize,
        buffer: &mut Buffer<'_>,
    ) -> Result<usize, MemError> {
        let (mut offset, mut left) = (part.offset, part.len);
        while left != 0 {
            if scratch.is_full() {
                self.execute(scratch, buffer.reborrow())?;
            }
            let (own, room) = end.after(done);
            let len = left.min(u16::try_from(room).unwrap_or(left));
            scratch.push(Copy {
                grant: part.grant,
                offset,
                len,
                own,
                status: GrantStatus::OKAY,
            });
            offset = offset.saturating_add(len);
            left = left.saturating_sub(len);
            done = done.saturating_add(len.into());
        }
        Ok(done)
    }

    /// Makes the copies that wait. If one fails that was said to be done, no request may be shown to the driver.
    fn execute(&self, scratch: &mut Scratch, buffer: Buffer<'_>) -> Result<(), MemError> {
        if scratch.is_empty() {
            return Ok(());
        }
        let grants = self.grants;
        let (copies, staged) = scratch.waiting();
        let called = grants.platform.copy(copies, staged, buffer);
        let mut first = None;
        for copy in copies.iter() {
            let cause = match (called, copy.status.check()) {
                (Ok(()), Ok(())) => {
                    grants.count(|counters| {
                        add(&mut counters.copies, 1);
                        add(&mut counters.bytes, copy.len.into());
                    });
                    continue;
                }
                (Ok(()), Err(status)) => grants.refused(status),
                (Err(error), _) => grants.failed(error),
            };
            let part = Part {
                grant: copy.grant,
                offset: copy.offset,
                len: copy.len,
            };
            let error = MemError::because(cause, part.address(), copy.len.into());
            if copy.own.is_deferred() {
                self.rings.poison(error);
            }
            first = first.or(Some(error));
        }
        scratch.clear();
        first.map_or(Ok(()), Err)
    }

    fn get<I>(&self, pieces: I, into: &mut [u8]) -> Result<(), MemError>
    where
        I: Iterator<Item = (Gpa, usize)> + Clone,
    {
        let scratch = &mut *self.grants.scratch.borrow_mut();
        let end = End {
            own: Own::Into(0),
            address: into.as_ptr().addr() as u64,
        };
        self.transfer(scratch, pieces, end, Buffer::Into(into))
    }

    fn set<I>(&self, pieces: I, from: &[u8]) -> Result<(), MemError>
    where
        I: Iterator<Item = (Gpa, usize)> + Clone,
    {
        let scratch = &mut *self.grants.scratch.borrow_mut();
        if let Some(address) = self.grants.platform.lasting(from) {
            let end = End {
                own: Own::Lasting(address),
                address,
            };
            return self.transfer(scratch, pieces, end, Buffer::Nothing);
        }
        if Scratch::is_small(from)
            && self.make_room(scratch, pieces.clone())?
            && let Some(at) = scratch.stage(from)
        {
            let address = scratch.staging_address().wrapping_add(at as u64);
            let end = End {
                own: Own::Staged(at),
                address,
            };
            return self.transfer(scratch, pieces, end, Buffer::Nothing);
        }
        let end = End {
            own: Own::From(0),
            address: from.as_ptr().addr() as u64,
        };
        self.transfer(scratch, pieces, end, Buffer::From(from))
    }

    /// Makes room for all copies of these pieces at once: what is put by for them has to be there when they are made.
    /// Returns whether there can be room for so many.
    fn make_room<I>(&self, scratch: &mut Scratch, pieces: I) -> Result<bool, MemError>
    where
        I: Iterator<Item = (Gpa, usize)>,
    {
        let pages = pieces
            .filter_map(|(at, len)| address::split(at, len as u64))
            .fold(0, |sum, parts| parts.count_pages().saturating_add(sum));
        // One of them may go over the end of a page of this domain's.
        let wanted = usize::try_from(pages.saturating_add(1)).unwrap_or(usize::MAX);
        if wanted > scratch.room() {
            self.execute(scratch, Buffer::Nothing)?;
        }
        Ok(wanted <= scratch.room())
    }
}

/// As many pieces as fit into `len` bytes.
fn fitting<'a>(span: Span<'a>, len: usize) -> impl Iterator<Item = (Gpa, usize)> + Clone + 'a {
    span.pieces().scan(len, |left, (at, len)| {
        *left = left.checked_sub(len)?;
        Some((at, len))
    })
}

impl<P: Platform> GuestMemory for View<'_, P> {
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        if let Some(place) = self.rings.place(from, into.len() as u64, false) {
            self.grants.platform.read(place, into);
            return Ok(());
        }
        if let Some(bytes) = self.grants.scratch.borrow().in_table(from.0, into.len()) {
            into.copy_from_slice(bytes);
            return Ok(());
        }
        let len = into.len();
        self.get(core::iter::once((from, len)), into)
    }

    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        if let Some(place) = self.rings.place(to, from.len() as u64, true) {
            self.grants.platform.write(place, from);
            return Ok(());
        }
        self.set(core::iter::once((to, from.len())), from)
    }

    fn read_span(&self, from: Span<'_>, into: &mut [u8]) -> Result<(), MemError> {
        let pieces = fitting(from, into.len());
        self.get(pieces, into)
    }

    fn write_span(&self, to: Span<'_>, from: &[u8]) -> Result<(), MemError> {
        self.set(fitting(to, from.len()), from)
    }

    fn prefetch(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        let scratch = &mut *self.grants.scratch.borrow_mut();
        let Some((mut table, bytes)) = scratch.take_table(len) else {
            return Ok(());
        };
        let Some(into) = table.get_mut(..bytes) else {
            return Ok(());
        };
        let end = End {
            own: Own::Into(0),
            address: into.as_ptr().addr() as u64,
        };
        let pieces = core::iter::once((at, bytes));
        let done = self.transfer(scratch, pieces, end, Buffer::Into(into));
        scratch.return_table(table, done.is_ok().then_some((at.0, bytes)));
        done
    }

    fn flush(&self) -> Result<(), MemError> {
        let scratch = &mut *self.grants.scratch.borrow_mut();
        scratch.forget_table();
        self.execute(scratch, Buffer::Nothing)?;
        self.rings.poisoned().map_or(Ok(()), Err)
    }

    fn open_ring(&self, id: u32, areas: &[RingArea; 3]) -> Result<(), MemError> {
        self.rings.open(self.grants, id, areas)
    }

    fn close_ring(&self, id: u32) {
        self.rings.close(self.grants, id);
    }

    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        let place = self.number(at, false)?;
        Ok(self.grants.platform.load_u16(place))
    }

    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        let place = self.number(at, true)?;
        self.grants.platform.store_u16(place, value);
        Ok(())
    }

    /// Whether it could be granted: Xen says whether it is when it is accessed.
    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        match address::split(at, len) {
            Some(_) => Ok(()),
            None => Err(self.not_granted(at, len)),
        }
    }

    fn fence(&self) {
        self.grants.platform.fence();
    }
}

impl<P: Platform> View<'_, P> {
    /// Where an aligned number of a ring is. Others are never loaded or stored in one access.
    fn number(&self, at: Gpa, write: bool) -> Result<u64, MemError> {
        let place = if at.0.is_multiple_of(2) {
            self.rings.place(at, 2, write)
        } else {
            None
        };
        place.ok_or_else(|| self.not_granted(at, 2))
    }
}
