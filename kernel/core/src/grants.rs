//! The own grant table: which entries are free, and how an entry is given and taken back.
//!
//! The table itself is memory that Xen changes too; whoever has it gives [`Entries`]. Version 1 of the layout
//! (public/grant_table.h): a word of 32 bits with the flags and the domain, then the frame.
//!
//! Invariants: an entry is in use by one grant or free; what the other domain still has mapped stays in use.

use alloc::vec::Vec;

/// Entries on one page.
pub const PER_FRAME: u32 = 512;
/// Entries that the toolstack fills: the console's and xenstore's rings (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const RESERVED: u32 = 8;

/// `GTF_permit_access`
const PERMIT_ACCESS: u32 = 1;
/// `GTF_readonly`
const READONLY: u32 = 1 << 2;
/// `GTF_reading`, `GTF_writing`: the domain has it mapped.
const IN_USE: u32 = 1 << 3 | 1 << 4;

/// The table in memory.
pub trait Entries {
    /// Stores the frame of an entry that is not valid.
    fn set_frame(&self, entry: u32, frame: u32);

    /// Stores flags (lower half) and domain (upper half) of an entry; what was stored before is seen before.
    fn publish(&self, entry: u32, head: u32);

    /// Replaces the head of an entry by 0 if it is `head`; otherwise gives what it is. A full barrier.
    ///
    /// # Errors
    /// What the head is.
    fn revoke(&self, entry: u32, head: u32) -> Result<(), u32>;

    /// The head of an entry.
    fn head(&self, entry: u32) -> u32;
}

/// Which entries are free.
#[derive(Debug, Default)]
pub struct Grants {
    free: Vec<u32>,
    frames: u32,
}

impl Grants {
    /// A table without pages.
    pub const fn new() -> Self {
        Self {
            free: Vec::new(),
            frames: 0,
        }
    }

    /// How many pages it has.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// How many entries are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// The table has one more page.
    pub fn grow(&mut self) {
        let first = self.frames.saturating_mul(PER_FRAME);
        let end = first.saturating_add(PER_FRAME);
        // The lowest are used first.
        let entries = first.max(RESERVED)..end;
        let mut free: Vec<u32> = entries.rev().collect();
        free.append(&mut self.free);
        self.free = free;
        self.frames = self.frames.saturating_add(1);
    }

    /// Lets `domain` into a frame, to read and, unless `readonly`, to write. None if no entry is free, or the frame has no
    /// number of 32 bits.
    pub fn give(
        &mut self,
        table: &impl Entries,
        domain: u16,
        frame: u64,
        readonly: bool,
    ) -> Option<u32> {
        let frame = u32::try_from(frame).ok()?;
        let entry = self.free.pop()?;
        table.set_frame(entry, frame);
        let flags = PERMIT_ACCESS | if readonly { READONLY } else { 0 };
        table.publish(entry, flags | u32::from(domain).wrapping_shl(16));
        Some(entry)
    }

    /// Takes a grant back. False if the domain still has the frame mapped: nothing is changed then.
    pub fn end(&mut self, table: &impl Entries, entry: u32) -> bool {
        let mut head = table.head(entry);
        // Xen sets and clears bits meanwhile, at the other domain's wish, which must not keep this side busy.
        for _ in 0..16 {
            if head & IN_USE != 0 {
                return false;
            }
            match table.revoke(entry, head) {
                Ok(()) => {
                    self.free.push(entry);
                    return true;
                }
                Err(now) => head = now,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::vec;

    use super::*;

    /// Heads and frames. `busy` makes the next so many attempts to take one back fail.
    struct Table {
        entries: RefCell<Vec<(u32, u32)>>,
        busy: Cell<u32>,
    }

    impl Table {
        fn new(frames: u32) -> Self {
            Self {
                entries: RefCell::new(vec![(0, 0); (frames * PER_FRAME) as usize]),
                busy: Cell::new(0),
            }
        }

        fn at(&self, entry: u32) -> (u32, u32) {
            self.entries.borrow()[entry as usize]
        }

        fn set_bits(&self, entry: u32, bits: u32) {
            self.entries.borrow_mut()[entry as usize].0 |= bits;
        }

        fn clear_bits(&self, entry: u32, bits: u32) {
            self.entries.borrow_mut()[entry as usize].0 &= !bits;
        }
    }

    impl Entries for Table {
        fn set_frame(&self, entry: u32, frame: u32) {
            assert_eq!(self.at(entry).0, 0, "the entry is valid");
            self.entries.borrow_mut()[entry as usize].1 = frame;
        }

        fn publish(&self, entry: u32, head: u32) {
            self.entries.borrow_mut()[entry as usize].0 = head;
        }

        fn revoke(&self, entry: u32, head: u32) -> Result<(), u32> {
            if self.busy.get() != 0 {
                self.busy.set(self.busy.get() - 1);
                return Err(head);
            }
            let entry = &mut self.entries.borrow_mut()[entry as usize];
            if entry.0 != head {
                return Err(entry.0);
            }
            entry.0 = 0;
            Ok(())
        }

        fn head(&self, entry: u32) -> u32 {
            self.at(entry).0
        }
    }

    #[test]
    fn every_entry_but_the_toolstacks_is_used_once() {
        let (mut grants, table) = (Grants::new(), Table::new(2));
        assert_eq!(grants.give(&table, 3, 7, false), None, "there is no page");
        grants.grow();
        grants.grow();
        let count = 2 * PER_FRAME - RESERVED;
        let entries: BTreeSet<u32> = (0..count)
            .map(|n| grants.give(&table, 3, u64::from(n), false).unwrap())
            .collect();
        assert_eq!(entries, (RESERVED..2 * PER_FRAME).collect());
        assert_eq!(
            (grants.give(&table, 3, 7, false), grants.available()),
            (None, 0)
        );
        assert_eq!(table.at(RESERVED), (3 << 16 | PERMIT_ACCESS, 0));
        assert_eq!(table.at(RESERVED + 1).1, 1);
        for entry in entries {
            assert!(grants.end(&table, entry));
            assert_eq!(table.at(entry).0, 0);
        }
        assert_eq!(grants.available(), count as usize);
    }

    #[test]
    fn what_is_only_read_says_so() {
        let (mut grants, table) = (Grants::new(), Table::new(1));
        grants.grow();
        let entry = grants.give(&table, 5, 0x1234, true).unwrap();
        assert_eq!(
            table.at(entry),
            (5 << 16 | PERMIT_ACCESS | READONLY, 0x1234)
        );
        assert!(grants.end(&table, entry));
        assert_eq!(table.at(entry).0, 0);
    }

    #[test]
    fn what_is_mapped_stays() {
        let (mut grants, table) = (Grants::new(), Table::new(1));
        grants.grow();
        let entry = grants.give(&table, 0, 0x1234, false).unwrap();
        let available = grants.available();
        for bit in [1 << 3, 1 << 4] {
            table.set_bits(entry, bit);
            assert!(!grants.end(&table, entry));
            assert_eq!(
                (table.at(entry).0, grants.available()),
                (PERMIT_ACCESS | bit, available)
            );
            table.clear_bits(entry, bit);
        }
        table.busy.set(3);
        assert!(grants.end(&table, entry));
        assert_eq!(grants.available(), available + 1);
    }

    #[test]
    fn a_domain_that_never_stands_still_keeps_nobody_busy() {
        let (mut grants, table) = (Grants::new(), Table::new(1));
        grants.grow();
        let entry = grants.give(&table, 0, 1, false).unwrap();
        table.busy.set(u32::MAX);
        assert!(!grants.end(&table, entry));
        assert_eq!(grants.available(), (PER_FRAME - RESERVED - 1) as usize);
    }

    #[test]
    fn frames_beyond_32_bits_are_not_granted() {
        let (mut grants, table) = (Grants::new(), Table::new(1));
        grants.grow();
        let available = grants.available();
        assert_eq!(grants.give(&table, 0, 1 << 32, false), None);
        assert_eq!(grants.available(), available);
    }
}
