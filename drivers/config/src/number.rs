//! Numbers in their one canonical form: decimal digits, no sign, no leading zero, nothing around.

/// The number that `text` is, if it is canonical and fits.
pub(crate) fn canonical(text: &[u8]) -> Option<u16> {
    canonical_u32(text).and_then(|number| number.try_into().ok())
}

/// The same with 32 bits.
#[must_use]
pub fn canonical_u32(text: &[u8]) -> Option<u32> {
    canonical_u64(text).and_then(|number| number.try_into().ok())
}

/// The same with 64 bits.
pub(crate) fn canonical_u64(text: &[u8]) -> Option<u64> {
    let canonical = match text {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    canonical
        .then(|| core::str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}
