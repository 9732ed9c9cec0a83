//! The buffered ioreq ring: writes that Xen posts without making the vCPU wait.
//!
//! Layout (`struct buffered_iopage`): `u32 read_pointer`, `u32 write_pointer`, then 511 entries of 8 bytes:
//! `type:8, pad:1, dir:1, size:2, addr:20, data:32`. A size of 3 means 8 bytes and takes two entries; the second
//! one's data is the upper half. Pointers run freely and are taken modulo 511. In atomic mode
//! (`HVM_IOREQSRV_BUFIOREQ_ATOMIC`, the one to create the server with) Xen subtracts the same multiple of 511 from
//! both now and then with one 64-bit exchange; hence both pointers are read with one load, and the read pointer is
//! moved by an atomic add, never stored. Without atomic mode the pointers wrap at 2^32, which 511 does not divide.
//!
//! The rule for a server that has both a ring and slots: when a slot is READY, *drain the ring again* before the slot
//! is acted upon. The vCPU's posted writes come before its blocking request, and they were in the ring when READY was
//! set; a drain before READY was seen may have missed them. So: drain, see READY, drain, answer.
//!
//! Invariant: whatever the page says, a call consumes no more writes than its budget, of two entries at most; no index leaves
//! the page, and after an
//! error the ring is empty and usable.

use crate::types::{Space, Width};

/// Entries in the ring.
pub const ENTRIES: u32 = 511;

/// A page with the buffered ring, shared with Xen.
pub trait BufferedPage {
    /// The first 8 bytes with one acquire load: read pointer in the low half, write pointer in the high one.
    fn pointers(&self) -> u64;
    /// Entry `index` (below [`ENTRIES`]) with one 8-byte volatile load.
    fn entry(&self, index: u32) -> u64;
    /// Adds to the read pointer with one atomic 32-bit add of at least release ordering.
    fn advance(&self, entries: u32);
}

/// One posted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostedWrite {
    /// Address space.
    pub space: Space,
    /// Address, below 1 MiB.
    pub addr: u64,
    /// Size.
    pub width: Width,
    /// The value, no wider than `width`.
    pub value: u64,
}

/// What a drain came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Writes reported.
    pub writes: u32,
    /// Entries dropped because they are no writes to ports or memory.
    pub strays: u32,
    /// Whether the budget ended the drain, so that more may be there.
    pub more: bool,
}

/// The ring's pointers make no sense, or an 8-byte write has lost its second half. The ring was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingCorrupt {
    /// The read pointer that was found.
    pub read_pointer: u32,
    /// The write pointer that was found.
    pub write_pointer: u32,
}

/// Consumes up to `budget` writes, oldest first. Each entry is given back to Xen after `report` has returned.
pub fn drain<P: BufferedPage + ?Sized>(
    page: &P,
    budget: u32,
    mut report: impl FnMut(PostedWrite),
) -> Result<Drained, RingCorrupt> {
    let mut done = Drained::default();
    loop {
        let (read_pointer, write_pointer) = split(page.pointers());
        let filled = write_pointer.wrapping_sub(read_pointer);
        let corrupt = RingCorrupt {
            read_pointer,
            write_pointer,
        };
        if filled > ENTRIES {
            page.advance(filled);
            return Err(corrupt);
        }
        if filled == 0 {
            return Ok(done);
        }
        if done.writes.saturating_add(done.strays) >= budget {
            done.more = true;
            return Ok(done);
        }
        let entry = Entry(page.entry(read_pointer.checked_rem(ENTRIES).unwrap_or(0)));
        let mut taken = 1;
        let mut value = entry.data();
        if entry.width() == Width::Qword {
            if filled < 2 {
                page.advance(filled);
                return Err(corrupt);
            }
            taken = 2;
            let second = Entry(
                page.entry(
                    read_pointer
                        .wrapping_add(1)
                        .checked_rem(ENTRIES)
                        .unwrap_or(0),
                ),
            );
            value |= second.data() << 32;
        }
        match entry.write(value) {
            Some(write) => {
                report(write);
                done.writes = done.writes.saturating_add(1);
            }
            None => done.strays = done.strays.saturating_add(1),
        }
        page.advance(taken);
    }
}

/// One 8-byte entry.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn width(self) -> Width {
        match (self.0 >> 10) & 3 {
            0 => Width::Byte,
            1 => Width::Word,
            2 => Width::Dword,
            _ => Width::Qword,
        }
    }

    fn data(self) -> u64 {
        self.0 >> 32
    }

    fn write(self, value: u64) -> Option<PostedWrite> {
        let space = match self.0 & 0xff {
            0 => Space::Port,
            1 => Space::Memory,
            _ => return None,
        };
        if self.0 & (1 << 9) != 0 {
            return None;
        }
        let width = self.width();
        Some(PostedWrite {
            space,
            addr: (self.0 >> 12) & 0xf_ffff,
            width,
            value: value & width.mask(),
        })
    }
}

fn split(pointers: u64) -> (u32, u32) {
    let [r0, r1, r2, r3, w0, w1, w2, w3] = pointers.to_le_bytes();
    (
        u32::from_le_bytes([r0, r1, r2, r3]),
        u32::from_le_bytes([w0, w1, w2, w3]),
    )
}
