//! Addresses that stand for grants.
//!
//! Bit 63 is set, bits 12 to 62 are the grant reference, bits 0 to 11 the offset in its page. What goes over the end of
//! a page goes on in the page of the next reference: a driver that shares several pages at once takes references that
//! follow one another. A reference has 32 bits; an address with more has no page.

use vd_virtio::Gpa;

use super::PAGE;

/// The bit that all such addresses have.
pub const GRANTED: u64 = 1 << 63;
/// log2 of the bytes in a page.
const SHIFT: u32 = 12;

/// The part of a range that is in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The page's grant reference.
    pub grant: u32,
    /// How many bytes into the page.
    pub offset: u16,
    /// How many bytes.
    pub len: u16,
}

impl Part {
    /// The address that this part starts at.
    #[must_use]
    pub fn address(&self) -> Gpa {
        Gpa(GRANTED | u64::from(self.grant) << SHIFT | u64::from(self.offset))
    }
}

/// The parts of a range, one a page.
#[derive(Clone, Debug)]
pub struct Parts {
    grant: u64,
    offset: u64,
    left: u64,
}

/// Takes a range apart. None if it is not one of grants from its first byte to its last.
#[must_use]
pub fn split(at: Gpa, len: u64) -> Option<Parts> {
    let last = at.0.checked_add(len.saturating_sub(1))?;
    let reference = |address: u64| (address & !GRANTED) >> SHIFT;
    if at.0 & GRANTED == 0 || reference(last) > u32::MAX.into() {
        return None;
    }
    Some(Parts {
        grant: reference(at.0),
        offset: at.0 & (PAGE - 1),
        left: len,
    })
}

impl Parts {
    /// How many there are.
    #[must_use]
    pub fn count_pages(&self) -> u64 {
        if self.left == 0 {
            0
        } else {
            self.offset.saturating_add(self.left).div_ceil(PAGE)
        }
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.left == 0 {
            return None;
        }
        let len = PAGE.saturating_sub(self.offset).min(self.left);
        let part = Part {
            grant: u32::try_from(self.grant).ok()?,
            offset: u16::try_from(self.offset).ok()?,
            len: u16::try_from(len).ok()?,
        };
        self.grant = self.grant.saturating_add(1);
        self.offset = 0;
        self.left = self.left.saturating_sub(len);
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use std::prelude::v1::*;

    use super::*;

    fn parts(at: u64, len: u64) -> Option<Vec<(u32, u16, u16)>> {
        let parts = split(Gpa(at), len)?;
        let count = parts.count_pages();
        let all: Vec<_> = parts.map(|p| (p.grant, p.offset, p.len)).collect();
        assert_eq!(all.len() as u64, count);
        Some(all)
    }

    #[test]
    fn a_range_goes_on_in_the_next_reference() {
        let at = GRANTED | 9 << 12;
        assert_eq!(parts(at, 4096), Some(vec![(9, 0, 4096)]));
        assert_eq!(parts(at | 0xfff, 1), Some(vec![(9, 0xfff, 1)]));
        assert_eq!(
            parts(at | 0xff0, 0x1020),
            Some(vec![(9, 0xff0, 0x10), (10, 0, 0x1000), (11, 0, 0x10)])
        );
        assert_eq!(parts(at, 0), Some(vec![]));
    }

    /// Attack case 4: outside, straddling the end, wrapping.
    #[test]
    fn row4_no_grant_no_parts() {
        let top = GRANTED | u64::from(u32::MAX) << 12;
        assert_eq!(parts(top | 0xfff, 1), Some(vec![(u32::MAX, 0xfff, 1)]));
        for (at, len) in [
            // Without the bit: a guest-physical address.
            (0, 1),
            (0x1000, 16),
            (GRANTED - 1, 1),
            (GRANTED - 1, 2),
            // References beyond 32 bits, from the start on or later.
            (top | 0xfff, 2),
            (top + 0x1000, 1),
            (GRANTED | 1 << 44, 1),
            (GRANTED, 1 << 45),
            (u64::MAX, 1),
            // Wrapping.
            (u64::MAX, 2),
            (u64::MAX - 7, 16),
            (top, u64::MAX),
        ] {
            assert_eq!(parts(at, len), None, "{at:#x} {len}");
        }
    }

    #[test]
    fn parts_have_addresses() {
        let at = Gpa(GRANTED | 7 << 12 | 5);
        let starts: Vec<_> = split(at, 5000)
            .into_iter()
            .flatten()
            .map(|p| p.address())
            .collect();
        assert_eq!(starts, [at, Gpa(GRANTED | 8 << 12)]);
    }
}
