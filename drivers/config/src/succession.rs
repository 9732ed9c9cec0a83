//! How `vdom` leads a guest from one driver domain to another: what it orders, how far they are, and where their memory is.
//!
//! One node for each direction and domain, one word at a time: [`crate::keys::ORDER`] and [`crate::keys::STATUS_STAGE`].

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::number::canonical_u64;
use crate::slot::SlotIndex;

/// What `vdom` orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Nothing.
    None,
    /// To either: say where your memory is.
    Prepare,
    /// To the old one: take no more requests, and finish those that you have.
    Quiesce,
    /// To the new one: connect your disks; the old one has let them go.
    Connect,
    /// To the old one, when the guest is paused: write down where the devices stand.
    Export,
    /// To the new one: read that, and serve the guest.
    TakeOver,
    /// To the old one: the guest is another's.
    Release,
    /// To the old one: go on, nothing has come of it.
    Resume,
}

impl Order {
    /// All of them.
    pub const ALL: [Order; 8] = [
        Order::None,
        Order::Prepare,
        Order::Quiesce,
        Order::Connect,
        Order::Export,
        Order::TakeOver,
        Order::Release,
        Order::Resume,
    ];

    /// The text in xenstore.
    pub const fn as_str(self) -> &'static str {
        match self {
            Order::None => "",
            Order::Prepare => "prepare",
            Order::Quiesce => "quiesce",
            Order::Connect => "connect",
            Order::Export => "export",
            Order::TakeOver => "take-over",
            Order::Release => "release",
            Order::Resume => "resume",
        }
    }

    /// The order that `text` stands for.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|order| order.as_str().as_bytes() == text)
    }
}

/// How far a driver domain is with what was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It has nothing to do with that.
    None,
    /// It has said where its memory is.
    Prepared,
    /// It takes no requests and has none.
    Quiesced,
    /// Its disks are connected.
    Connected,
    /// It has written down where the devices stand, and does nothing more for the guest.
    Exported,
    /// It cannot do what was ordered; [`crate::keys::STATUS_ERROR`] says why.
    Refused,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 6] = [
        Stage::None,
        Stage::Prepared,
        Stage::Quiesced,
        Stage::Connected,
        Stage::Exported,
        Stage::Refused,
    ];

    /// The text in xenstore.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::None => "",
            Stage::Prepared => "prepared",
            Stage::Quiesced => "quiesced",
            Stage::Connected => "connected",
            Stage::Exported => "exported",
            Stage::Refused => "refused",
        }
    }

    /// The stage that `text` stands for.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.as_str().as_bytes() == text)
    }
}

/// What a piece of memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Where the devices stand.
    State,
    /// What is stored on the disk in this slot.
    Disk(SlotIndex),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("state"),
            Self::Disk(slot) => slot.fmt(f),
        }
    }
}

/// A piece of a driver domain's memory that another one has a counterpart of: in xenstore, `USE=START+LENGTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is for.
    pub of: Use,
    /// Guest-physical address: the start of a page.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Bytes of a page.
const PAGE: u64 = 4096;

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}+{}", self.of, self.start, self.len)
    }
}

impl Piece {
    /// The pieces that a text names, with blanks between them. Nothing may be there that makes no sense.
    pub fn parse_all(text: &[u8]) -> impl Iterator<Item = Result<Self, ConfigError>> {
        text.split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty())
            .map(|word| Self::parse(word).ok_or_else(|| ConfigError::BadPiece(Excerpt::new(word))))
    }

    fn parse(word: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(word).ok()?;
        let (of, place) = text.split_once('=')?;
        let (start, len) = place.split_once('+')?;
        let of = match of {
            "state" => Use::State,
            slot => Use::Disk(SlotIndex::parse(slot.as_bytes()).ok()?),
        };
        let (start, len) = (
            canonical_u64(start.as_bytes())?,
            canonical_u64(len.as_bytes())?,
        );
        let fits = start.is_multiple_of(PAGE) && start.checked_add(len)? <= 1 << 52;
        (fits && len != 0).then_some(Self { of, start, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        for order in Order::ALL {
            assert_eq!(Order::parse(order.as_str().as_bytes()), Some(order));
        }
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str().as_bytes()), Some(stage));
        }
        assert_eq!(Order::parse(b"Quiesce"), None);
        assert_eq!(Stage::parse(b"ready"), None);
        assert_eq!(Stage::parse(&[0xff; 3000]), None);
    }

    #[test]
    fn pieces_and_back() {
        let slot = SlotIndex::parse(b"15").unwrap();
        let pieces = [
            Piece {
                of: Use::State,
                start: 4096,
                len: 65536,
            },
            Piece {
                of: Use::Disk(slot),
                start: 1 << 32,
                len: 1000,
            },
        ];
        let text = format!("{} {}", pieces[0], pieces[1]);
        let parsed: Vec<_> = Piece::parse_all(text.as_bytes()).collect();
        assert_eq!(parsed, pieces.map(Ok));
        assert_eq!(Piece::parse_all(b"").count(), 0);
        for bad in [
            "state",
            "state=4096",
            "state=1+1",
            "state=4096+0",
            "state=4096+-1",
            "state=4096+18446744073709551615",
            "state=4503599627370496+1",
            "32=4096+1",
            "=4096+1",
            "state=+1",
        ] {
            assert!(
                Piece::parse_all(bad.as_bytes()).any(|piece| piece.is_err()),
                "{bad}"
            );
        }
    }
}
