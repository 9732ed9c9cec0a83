//! The Internet checksum (RFC 1071), summed up while bytes pass by.
//!
//! Own code: it is a dozen lines, and crates that have it index slices, assert, or bring a network stack along.

/// A sum over some bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    total: u64,
    /// An odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Adds bytes that follow those added before.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.odd
            && let [first, more @ ..] = rest
        {
            self.put((*first).into());
            self.odd = false;
            rest = more;
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            self.put(u32::from_be_bytes(*word).into());
        }
        let (halves, rest) = rest.as_chunks::<2>();
        for half in halves {
            self.put(u16::from_be_bytes(*half).into());
        }
        if let [last] = rest {
            self.put(u16::from_be_bytes([*last, 0]).into());
            self.odd = true;
        }
    }

    /// A sum of 2^32 words does not wrap, and no frame is that long.
    fn put(&mut self, word: u64) {
        self.total = self.total.wrapping_add(word);
    }

    /// The sum in 16 bits.
    pub(crate) fn folded(self) -> u16 {
        let mut sum = self.total;
        while let Some(carry @ 1..) = sum.checked_shr(16) {
            sum = (sum & 0xffff).saturating_add(carry);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// What to put into the checksum's field. Zero, which is "no checksum" in UDP, is written as its other form.
    pub(crate) fn checksum(self) -> u16 {
        match !self.folded() {
            0 => u16::MAX,
            sum => sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        /// However the bytes are cut.
        #[test]
        fn pieces_make_the_same_sum(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(0usize..40, 0..20),
        ) {
            let mut sum = Sum::default();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (here, more) = rest.split_at(cut.min(rest.len()));
                sum.add(here);
                rest = more;
            }
            sum.add(rest);
            let (a, b) = (sum.folded(), slow(&bytes));
            // The two forms of zero are one number.
            prop_assert_eq!(a % 0xffff, b % 0xffff);
            prop_assert_eq!(a == 0, b == 0);
        }
    }

    #[test]
    fn rfc_1071_has_an_example() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), !0xddf2);
        sum.add(&[0x22, 0x0d]);
        assert_eq!((sum.folded(), sum.checksum()), (0xffff, 0xffff));
    }
}
