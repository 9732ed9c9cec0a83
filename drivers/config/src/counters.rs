//! The counters of a device as xenstore has them: all in one node, `NAME=VALUE` with a blank between two.
//!
//! xenstored bounds the number of nodes that a domain may have, 1000 by default: a node for each counter of 32 devices would be
//! too many. It takes 2048 bytes a node, by far more than a device's counters need.

use core::fmt;

use crate::number::canonical_u64;

/// Names and values, to be written.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'a>(pub &'a [(&'a str, u64)]);

impl fmt::Display for Counters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blank = "";
        self.0.iter().try_for_each(|(name, value)| {
            write!(f, "{blank}{name}={value}")?;
            blank = " ";
            Ok(())
        })
    }
}

/// What was written, as far as it makes sense: a driver domain that means harm may have written anything.
pub fn parse(text: &str) -> impl Iterator<Item = (&str, u64)> {
    let is_part = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    text.split_ascii_whitespace()
        .filter_map(|item| item.split_once('='))
        .filter(move |(name, _)| !name.is_empty() && name.bytes().all(is_part))
        .filter_map(|(name, value)| Some((name, canonical_u64(value.as_bytes())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let counters = [("kicks", 12), ("bytes-read", u64::MAX), ("faults", 0)];
        let text = Counters(&counters).to_string();
        assert_eq!(text, "kicks=12 bytes-read=18446744073709551615 faults=0");
        assert!(parse(&text).eq(counters));
        assert_eq!(Counters(&[]).to_string(), "");
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let text = "kicks passes= =3 requests=x faults=-1 resets=18446744073709551616\n reads=7  a\u{1b}[2J=1 B=2 é=3";
        assert!(parse(text).eq([("reads", 7)]));
        assert_eq!(parse("").count(), 0);
    }
}
