//! Lines between a program in dom0 and a port of a guest's console device, over the PV console of the driver domain.
//!
//! Everything is lines of text among the log's and the operator's, so that nothing has to be held back for them: what the
//! driver domain says here begins with [`MARK`], as no other line does; bytes are in base64. Each side may send as many bytes as
//! the other has granted: so no buffer on the way overflows (xenconsoled's drops what is too much), and a port that nobody reads does not
//! stand in the way of other lines.

use core::fmt;

use crate::number;

/// What each line of the driver domain begins with.
pub const MARK: char = '@';
/// Bytes that the driver domain may send before it was granted more.
pub const WINDOW: u64 = 32 << 10;
/// Most bytes in a line to the driver domain: it takes lines of 80 characters.
pub const PAYLOAD: usize = 57;

/// A line to the driver domain, once a port is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Bytes for the guest, encoded.
    Data(&'a str),
    /// So many bytes more may be sent.
    Credit(u64),
    /// The terminal has so many columns and rows.
    Resize(u16, u16),
    /// The program leaves.
    End,
}

impl<'a> Request<'a> {
    /// What a line says, unless it is something else.
    pub fn parse(line: &'a str) -> Option<Self> {
        match line.split_at_checked(1)? {
            ("=", data) => Some(Self::Data(data)),
            ("+", bytes) => number::parse(bytes).map(Self::Credit),
            ("!", size) => {
                let (columns, rows) = size.split_once('x')?;
                Some(Self::Resize(number::parse(columns)?, number::parse(rows)?))
            }
            (".", "") => Some(Self::End),
            _ => None,
        }
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "={data}"),
            Self::Credit(bytes) => write!(f, "+{bytes}"),
            Self::Resize(columns, rows) => write!(f, "!{columns}x{rows}"),
            Self::End => f.write_str("."),
        }
    }
}

/// A line of the driver domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The port is linked.
    Linked {
        /// The number that the program has given with its command.
        nonce: u64,
        /// Bytes that may be sent.
        credit: u64,
        /// Bytes that may be sent when the guest has read everything.
        capacity: u64,
    },
    /// It cannot be.
    Refused {
        /// The number that the program has given with its command.
        nonce: u64,
        /// Why not.
        why: &'a str,
    },
    /// Bytes of the guest, encoded.
    Data(&'a str),
    /// So many bytes more may be sent.
    Credit(u64),
    /// So many bytes were lost before those that come next.
    Lost(u64),
    /// The guest has closed the port; everything that it had written before has been sent.
    Closed,
    /// The link has ended.
    Ended {
        /// Bytes sent.
        sent: u64,
        /// Bytes taken, without those that the guest's driver has thrown away.
        taken: u64,
        /// Why.
        why: &'a str,
    },
}

impl<'a> Reply<'a> {
    /// What a line says, unless it is somebody else's.
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.strip_prefix(MARK)?;
        if let Some(data) = line.strip_prefix('=') {
            return Some(Self::Data(data));
        }
        if let Some(bytes) = line.strip_prefix('+') {
            return number::parse(bytes).map(Self::Credit);
        }
        let mut words = line.splitn(4, ' ');
        let word = words.next()?;
        let mut number = || number::parse(words.next()?);
        match word {
            "linked" => Some(Self::Linked {
                nonce: number()?,
                credit: number()?,
                capacity: number()?,
            }),
            "refused" => {
                let (nonce, why) = line.strip_prefix("refused ")?.split_once(' ')?;
                let nonce = number::parse(nonce)?;
                Some(Self::Refused { nonce, why })
            }
            "lost" => Some(Self::Lost(number()?)),
            "closed" => Some(Self::Closed),
            "end" => Some(Self::Ended {
                sent: number()?,
                taken: number()?,
                why: words.next()?,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linked {
                nonce,
                credit,
                capacity,
            } => write!(f, "{MARK}linked {nonce} {credit} {capacity}"),
            Self::Refused { nonce, why } => write!(f, "{MARK}refused {nonce} {why}"),
            Self::Data(data) => write!(f, "{MARK}={data}"),
            Self::Credit(bytes) => write!(f, "{MARK}+{bytes}"),
            Self::Lost(bytes) => write!(f, "{MARK}lost {bytes}"),
            Self::Closed => write!(f, "{MARK}closed"),
            Self::Ended { sent, taken, why } => write!(f, "{MARK}end {sent} {taken} {why}"),
        }
    }
}

/// Characters that so many bytes become.
pub const fn encoded_len(bytes: usize) -> usize {
    bytes.div_ceil(3).saturating_mul(4)
}

/// Bytes that become no more than so many characters.
pub const fn fitting(characters: usize) -> usize {
    (characters / 4).saturating_mul(3)
}

/// Bytes in base64 (RFC 4648, section 4).
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a>(pub &'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for piece in self.0.chunks(3) {
            let byte = |at: usize| u32::from(piece.get(at).copied().unwrap_or(0));
            let word = byte(0) << 16 | byte(1) << 8 | byte(2);
            for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let here = at <= piece.len();
                f.write_char(if here { digit(word >> shift & 63) } else { '=' })?;
            }
        }
        Ok(())
    }
}

/// Takes base64 apart; says how many bytes it is. `None` if it is no base64, or more than `into` holds.
pub fn decode(text: &str, into: &mut [u8]) -> Option<usize> {
    let (pieces, rest) = text.as_bytes().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut len = 0_usize;
    for (at, piece) in pieces.iter().enumerate() {
        let padding = piece.iter().rev().take_while(|c| **c == b'=').count();
        let is_last = at.checked_add(1) == Some(pieces.len());
        if padding > 2 || padding > 0 && !is_last {
            return None;
        }
        let mut word = 0_u32;
        for character in piece.iter().take(4_usize.saturating_sub(padding)) {
            word = word << 6 | value(*character)?;
        }
        word = match padding {
            0 => word,
            1 => word << 6,
            _ => word << 12,
        };
        let [_, bytes @ ..] = word.to_be_bytes();
        let (bytes, none) = bytes.split_at_checked(3_usize.saturating_sub(padding))?;
        // Bits that say nothing say 0: there is one text for what is meant.
        if none.iter().any(|byte| *byte != 0) {
            return None;
        }
        let end = len.checked_add(bytes.len())?;
        into.get_mut(len..end)?.copy_from_slice(bytes);
        len = end;
    }
    Some(len)
}

const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn digit(value: u32) -> char {
    let at = usize::try_from(value).unwrap_or(usize::MAX);
    char::from(DIGITS.as_bytes().get(at).copied().unwrap_or(b'='))
}

fn value(digit: u8) -> Option<u32> {
    let (base, first) = match digit {
        b'A'..=b'Z' => (b'A', 0),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' => return Some(62),
        b'/' => return Some(63),
        _ => return None,
    };
    Some(u32::from(digit.wrapping_sub(base)).wrapping_add(first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(Encoded(bytes.as_bytes()).to_string(), text);
        }
        assert_eq!(Encoded(&[0xfb, 0xff, 0xfe]).to_string(), "+//+");
        for bad in [
            "Z", "Zg=", "Zg==Zg==", "Z===", "====", "Zh==", "Zm9=", "Zm 9", "Zm9*",
        ] {
            assert_eq!(decode(bad, &mut [0; 9]), None, "{bad}");
        }
        assert_eq!(decode("Zm9v", &mut [0; 2]), None, "no room");
    }

    #[test]
    fn lines_fit() {
        let data = Encoded(&[0xff; PAYLOAD]).to_string();
        assert!(Request::Data(&data).to_string().len() < 80);
    }

    #[test]
    fn lines_are_what_they_say() {
        for request in [
            Request::Data("Zm9v"),
            Request::Data(""),
            Request::Credit(7),
            Request::Resize(80, 25),
            Request::End,
        ] {
            assert_eq!(Request::parse(&request.to_string()), Some(request));
        }
        let why = "there is no port 7";
        for reply in [
            Reply::Linked {
                nonce: 7,
                credit: 1,
                capacity: u64::MAX,
            },
            Reply::Refused { nonce: 7, why },
            Reply::Data("Zm9v"),
            Reply::Credit(9),
            Reply::Lost(9),
            Reply::Closed,
            Reply::Ended {
                sent: 1,
                taken: 2,
                why,
            },
        ] {
            assert_eq!(Reply::parse(&reply.to_string()), Some(reply));
        }
        for other in [
            "",
            "help",
            "+",
            "+x",
            "!80",
            "!80x",
            "!80x70000",
            ".x",
            "é",
            "slot 0",
        ] {
            assert_eq!(Request::parse(other), None, "{other}");
        }
        for other in [
            "",
            "@",
            "@what",
            "[    1.000] state: ready",
            "@linked 1 2",
            "@lost",
        ] {
            assert_eq!(Reply::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = Encoded(&bytes).to_string();
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert!(fitting(text.len()) >= bytes.len());
            let mut into = [0; 200];
            let len = decode(&text, &mut into);
            prop_assert_eq!(len.map(|len| &into[..len]), Some(&bytes[..]));
        }

        /// There is one text for what is meant, and no text does harm.
        #[test]
        fn what_is_decoded_is_encoded(text in "[A-Za-z0-9+/=é ]{0,20}") {
            let mut into = [0; 20];
            if let Some(len) = decode(&text, &mut into) {
                prop_assert_eq!(Encoded(&into[..len]).to_string(), text.clone());
            }
            let _ = (Request::parse(&text), Reply::parse(&format!("@{text}")));
        }
    }
}
