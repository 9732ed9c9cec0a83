//! Decimal numbers in text: parsed in one place, as each type of number would be a parser of its own.

/// The number that a text is, as [`str::parse`] takes it, if it fits.
#[must_use]
pub fn parse<N: TryFrom<u64>>(text: &str) -> Option<N> {
    N::try_from(parse_u64(text)?).ok()
}

/// The number that digits are, without a sign, if it fits.
#[must_use]
pub fn parse_digits<N: TryFrom<u64>>(text: &[u8]) -> Option<N> {
    N::try_from(digits_u64(text)?).ok()
}

#[inline(never)]
fn digits_u64(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    parse_u64(core::str::from_utf8(text).ok()?)
}

#[inline(never)]
fn parse_u64(text: &str) -> Option<u64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_their_own_types_take() {
        for text in [
            "0",
            "7",
            "+7",
            "007",
            "255",
            "256",
            "65535",
            "65536",
            "4294967295",
            "4294967296",
            "18446744073709551615",
            "18446744073709551616",
            "",
            "+",
            "-0",
            "-1",
            " 1",
            "1 ",
            "1x",
            "0x1",
        ] {
            let signed = text.starts_with('+');
            let unsigned = text.parse::<u16>().ok().filter(|_| !signed);
            assert_eq!(parse_digits(text.as_bytes()), unsigned, "{text:?}");
            assert_eq!(parse::<u8>(text), text.parse().ok(), "{text:?}");
            assert_eq!(parse::<u16>(text), text.parse().ok(), "{text:?}");
            assert_eq!(parse::<u32>(text), text.parse().ok(), "{text:?}");
            assert_eq!(parse::<u64>(text), text.parse().ok(), "{text:?}");
        }
    }
}
