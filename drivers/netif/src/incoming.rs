//! Putting a frame together from what the back end says of it, slot by slot.
//!
//! Invariant: at most [`MAX_SLOTS`] slots with data, and each kind of extra information once.

use crate::pages::NONE;
use crate::wire::{Extra, Gso, MAX_SLOTS, RxResponse, rx};

/// What the next slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The start of a frame, or more of it.
    Data,
    /// Extra information.
    Extra,
}

/// The back end has said something that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense(pub &'static str);

/// A frame that is being put together.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// Address in own memory and bytes of each part.
    pub(crate) pieces: heapless::Vec<(u32, u32), MAX_SLOTS>,
    /// First and last of its pages.
    pub(crate) first: u16,
    pub(crate) last: u16,
    expect: Expect,
    slots: usize,
    more: bool,
    /// Kinds of extra information that were there, as bits.
    kinds: u8,
    pub(crate) blank: bool,
    pub(crate) gso: Option<Gso>,
    /// The back end had an error with a part.
    pub(crate) failed: bool,
}

impl Incoming {
    pub(crate) const NEW: Self = Self {
        pieces: heapless::Vec::new(),
        first: NONE,
        last: NONE,
        expect: Expect::Data,
        slots: 0,
        more: true,
        kinds: 0,
        blank: false,
        gso: None,
        failed: false,
    };

    /// What the next slot is; None if the frame is whole.
    pub(crate) fn expects(&self) -> Option<Expect> {
        (self.expect == Expect::Extra || self.more).then_some(self.expect)
    }

    /// How many pages it is in, with those that hold nothing.
    pub(crate) fn pages(&self) -> u16 {
        u16::try_from(self.slots).unwrap_or(u16::MAX)
    }

    /// A slot with data, in a page at `address`.
    pub(crate) fn data(&mut self, response: &RxResponse, address: u32) -> Result<(), Nonsense> {
        let RxResponse {
            offset,
            flags,
            size,
            ..
        } = *response;
        if self.slots == MAX_SLOTS {
            return Err(Nonsense("a frame of too many slots"));
        }
        if flags & rx::GSO_PREFIX != 0 {
            return Err(Nonsense(
                "a kind of extra information that was not asked for",
            ));
        }
        if self.slots == 0 {
            self.blank = flags & rx::CSUM_BLANK != 0;
            if flags & rx::EXTRA_INFO != 0 {
                self.expect = Expect::Extra;
            }
        } else if flags & rx::EXTRA_INFO != 0 {
            return Err(Nonsense("extra information in the middle of a frame"));
        }
        self.slots = self.slots.saturating_add(1);
        self.more = flags & rx::MORE_DATA != 0;
        let Some(size) = size else {
            self.failed = true;
            return Ok(());
        };
        if u32::from(offset).saturating_add(size.into()) > 4096 {
            return Err(Nonsense("data beyond the end of a page"));
        }
        if size != 0 {
            let at = address.saturating_add(offset.into());
            // There are no more slots than fit.
            let _ = self.pieces.push((at, size.into()));
        }
        Ok(())
    }

    /// A slot with extra information.
    pub(crate) fn extra(&mut self, bytes: [u8; 8]) -> Result<(), Nonsense> {
        let extra = Extra::decode(bytes).ok_or(Nonsense(
            "extra information of an unknown kind, or without sense",
        ))?;
        let bit = 1u8.checked_shl(extra.kind.into()).unwrap_or(0);
        if self.kinds & bit != 0 {
            return Err(Nonsense("extra information of one kind twice"));
        }
        self.kinds |= bit;
        self.gso = self.gso.or(extra.gso);
        if !extra.more {
            self.expect = Expect::Data;
        }
        Ok(())
    }
}
