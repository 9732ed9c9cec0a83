//! The layout of one ioreq slot (`struct ioreq`, Xen `public/hvm/ioreq.h`), decoded from a copy.
//!
//! Invariant: a changed state keeps every other bit of the control byte, and nothing here can produce a new
//! `vp_eport`: Xen refuses a vCPU's next request when the emulator has changed that field.

use crate::types::{Direction, EvtchnPort};

/// Size of one slot in bytes.
pub const SLOT_SIZE: usize = 32;
/// Slots in one page, which is what Xen hands out.
pub const SLOTS_PER_PAGE: usize = 128;
/// Byte offset of `data` in a slot.
pub const DATA_OFFSET: usize = 8;
/// Byte offset of `vp_eport` in a slot.
pub const VP_EPORT_OFFSET: usize = 24;
/// Byte offset of the byte with state, data_is_ptr, dir and df.
pub const CONTROL_OFFSET: usize = 30;

/// A slot's state. The numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// `STATE_IOREQ_NONE`: nothing asked.
    None = 0,
    /// `STATE_IOREQ_READY`: Xen has put a request.
    Ready = 1,
    /// `STATE_IOREQ_INPROCESS`: taken over by the emulator.
    InProcess = 2,
    /// `STATE_IORESP_READY`: answered.
    RespReady = 3,
}

/// Byte 30 of a slot: `state:4, data_is_ptr:1, dir:1, df:1, pad:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Control(pub u8);

impl Control {
    const STATE: u8 = 0x0f;
    const DATA_IS_PTR: u8 = 1 << 4;
    const DIR: u8 = 1 << 5;
    const DF: u8 = 1 << 6;

    /// The state, or `None` for one of the twelve values that the protocol does not know.
    pub const fn state(self) -> Option<State> {
        match self.0 & Self::STATE {
            0 => Some(State::None),
            1 => Some(State::Ready),
            2 => Some(State::InProcess),
            3 => Some(State::RespReady),
            _ => None,
        }
    }

    /// The same byte with another state.
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Control((self.0 & !Self::STATE) | state as u8)
    }

    /// Whether `data` is a guest-physical address rather than the data.
    pub const fn data_is_ptr(self) -> bool {
        self.0 & Self::DATA_IS_PTR != 0
    }

    /// The direction.
    pub const fn dir(self) -> Direction {
        if self.0 & Self::DIR != 0 {
            Direction::Read
        } else {
            Direction::Write
        }
    }

    /// Whether a repeated access goes downwards (the direction flag).
    pub const fn df(self) -> bool {
        self.0 & Self::DF != 0
    }
}

/// The type of a request, byte 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `IOREQ_TYPE_PIO`.
    Pio,
    /// `IOREQ_TYPE_COPY`: memory-mapped I/O.
    Copy,
    /// `IOREQ_TYPE_PCI_CONFIG`.
    PciConfig,
    /// `IOREQ_TYPE_TIMEOFFSET`.
    TimeOffset,
    /// `IOREQ_TYPE_INVALIDATE`: mappings of the guest's memory may be stale.
    Invalidate,
    /// Any other number.
    Unknown(u8),
}

impl Kind {
    /// The type with number `byte`.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Kind::Pio,
            1 => Kind::Copy,
            2 => Kind::PciConfig,
            7 => Kind::TimeOffset,
            8 => Kind::Invalidate,
            other => Kind::Unknown(other),
        }
    }
}

/// A private copy of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioreq {
    /// Address of the (first) access.
    pub addr: u64,
    /// The data, or its guest-physical address.
    pub data: u64,
    /// Number of accesses (rep prefix).
    pub count: u32,
    /// Bytes an access.
    pub size: u32,
    /// The port in the guest that belongs to the slot.
    pub vp_eport: EvtchnPort,
    /// State and flags.
    pub control: Control,
    /// What is asked.
    pub kind: Kind,
}

impl Ioreq {
    /// Decodes the four words of a slot. Every bit pattern decodes to something.
    pub const fn decode(words: [u64; 4]) -> Self {
        let [addr, data, lengths, rest] = words;
        let [c0, c1, c2, c3, s0, s1, s2, s3] = lengths.to_le_bytes();
        let [p0, p1, p2, p3, _, _, control, kind] = rest.to_le_bytes();
        Ioreq {
            addr,
            data,
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            size: u32::from_le_bytes([s0, s1, s2, s3]),
            vp_eport: EvtchnPort(u32::from_le_bytes([p0, p1, p2, p3])),
            control: Control(control),
            kind: Kind::from_byte(kind),
        }
    }
}
