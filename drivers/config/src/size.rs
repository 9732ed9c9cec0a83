//! Sizes as people write them: `64M`, `512`, `1G`.
//!
//! Invariant: formatting and parsing are inverse, and what does not fit 64 bits is refused, never wrapped.

use core::fmt;

use crate::error::{ConfigError, Excerpt};

/// The units, largest first.
const UNITS: [(u8, u64); 3] = [(b'G', 1 << 30), (b'M', 1 << 20), (b'K', 1 << 10)];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Parses a decimal number, optionally followed by K, M or G (or k, m, g) for powers of 1024.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let (digits, unit) = split_unit(text);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(ConfigError::BadSize(Excerpt::new(text)));
        }
        digits
            .iter()
            .try_fold(0_u64, |sum, digit| {
                let value = digit.checked_sub(b'0')?;
                sum.checked_mul(10)?.checked_add(u64::from(value))
            })
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| ConfigError::SizeTooLarge(Excerpt::new(text)))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

fn split_unit(text: &[u8]) -> (&[u8], u64) {
    let Some((last, digits)) = text.split_last() else {
        return (text, 1);
    };
    UNITS
        .iter()
        .find(|(letter, _)| *letter == last.to_ascii_uppercase())
        .map_or((text, 1), |(_, unit)| (digits, *unit))
}

impl fmt::Display for ByteSize {
    /// Writes the number with the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, unit) in UNITS {
            if self.0 != 0 && self.0.checked_rem(unit) == Some(0) {
                let number = self.0.checked_div(unit).unwrap_or_default();
                return write!(f, "{number}{}", char::from(letter));
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1K", 1024),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("3G", 3 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(
                ByteSize::parse(text.as_bytes()),
                Ok(ByteSize(bytes)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in [
            "", "M", "-1", "+1", "1.5G", "1 M", "0x10", "1KK", "1T", "M1",
        ] {
            let error = ByteSize::parse(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ConfigError::BadSize(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in [
            "18446744073709551616",
            "17179869184G",
            "99999999999999999999999M",
        ] {
            let error = ByteSize::parse(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(error, ConfigError::SizeTooLarge(_)),
                "{bad}: {error}"
            );
        }
        assert!(ByteSize::parse(b"17179869183G").is_ok());
    }
}
