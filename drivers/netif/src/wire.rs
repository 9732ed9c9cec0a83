//! Requests, responses and extra information on the rings (public/io/netif.h).
//!
//! Bytes at fixed offsets: a request is put together here and copied to the ring, a response is copied from it and taken
//! apart here.

/// Bytes of a request to send, and of its response.
pub const TX_REQUEST: usize = 12;
/// Bytes of the response to it.
pub const TX_RESPONSE: usize = 4;
/// Bytes of a buffer to receive into.
pub const RX_REQUEST: usize = 8;
/// Bytes of the response to it.
pub const RX_RESPONSE: usize = 8;

/// Longest frame that goes out: what the field for its size holds.
pub const MAX_TX: usize = 0xffff;
/// Most slots with data of one frame that every end has to take (`XEN_NETIF_NR_SLOTS_MIN`).
pub const MAX_SLOTS: usize = 18;

/// Flags of a request to send (`NETTXF_*`).
pub mod tx {
    /// The checksum is left to the other end.
    pub const CSUM_BLANK: u16 = 1;
    /// The data needs no check.
    pub const DATA_VALIDATED: u16 = 2;
    /// The frame goes on in the next request.
    pub const MORE_DATA: u16 = 4;
    /// Extra information comes in the next slot.
    pub const EXTRA_INFO: u16 = 8;
}

/// Flags of a received buffer (`NETRXF_*`).
pub mod rx {
    /// The data needs no check.
    pub const DATA_VALIDATED: u16 = 1;
    /// The checksum is left to this end.
    pub const CSUM_BLANK: u16 = 2;
    /// The frame goes on in the next buffer.
    pub const MORE_DATA: u16 = 4;
    /// Extra information comes in the next slot.
    pub const EXTRA_INFO: u16 = 8;
    /// An older form of extra information, which nobody asks for here.
    pub const GSO_PREFIX: u16 = 16;
}

/// Kinds of extra information (`XEN_NETIF_EXTRA_TYPE_*`): the first and the first that does not exist.
const EXTRA_GSO: u8 = 1;
const EXTRA_END: u8 = 6;
/// More of it comes.
const EXTRA_MORE: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_*`
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 2;

/// A request to send a part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxRequest {
    /// The page.
    pub gref: u32,
    /// Where the part is in it.
    pub offset: u16,
    /// [`tx`]
    pub flags: u16,
    /// What the response names.
    pub id: u16,
    /// Bytes: of the whole frame in its first request, of the part in the others.
    pub size: u16,
}

impl TxRequest {
    /// Its bytes.
    pub fn encode(self) -> [u8; TX_REQUEST] {
        let [g0, g1, g2, g3] = self.gref.to_le_bytes();
        let [o0, o1] = self.offset.to_le_bytes();
        let [f0, f1] = self.flags.to_le_bytes();
        let [i0, i1] = self.id.to_le_bytes();
        let [s0, s1] = self.size.to_le_bytes();
        [g0, g1, g2, g3, o0, o1, f0, f1, i0, i1, s0, s1]
    }
}

/// How sending went (`NETIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Sent.
    Okay,
    /// Dropped.
    Dropped,
    /// Failed; also for numbers that have no meaning.
    Error,
    /// The answer to a slot with extra information; its other fields mean nothing.
    Null,
}

/// The response to a request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxResponse {
    /// Of the request.
    pub id: u16,
    /// How it went.
    pub status: Status,
}

impl TxResponse {
    /// From its bytes.
    pub fn decode(bytes: [u8; TX_RESPONSE]) -> Self {
        let [i0, i1, s0, s1] = bytes;
        Self {
            id: u16::from_le_bytes([i0, i1]),
            status: match i16::from_le_bytes([s0, s1]) {
                0 => Status::Okay,
                1 => Status::Null,
                -2 => Status::Dropped,
                _ => Status::Error,
            },
        }
    }
}

/// A buffer to receive into: a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxRequest {
    /// What the response names.
    pub id: u16,
    /// The page.
    pub gref: u32,
}

impl RxRequest {
    /// Its bytes.
    pub fn encode(self) -> [u8; RX_REQUEST] {
        let [i0, i1] = self.id.to_le_bytes();
        let [g0, g1, g2, g3] = self.gref.to_le_bytes();
        [i0, i1, 0, 0, g0, g1, g2, g3]
    }
}

/// A received part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxResponse {
    /// Of the buffer.
    pub id: u16,
    /// Where the part is in it.
    pub offset: u16,
    /// [`rx`]
    pub flags: u16,
    /// Bytes; None if there was an error.
    pub size: Option<u16>,
}

impl RxResponse {
    /// From its bytes.
    pub fn decode(bytes: [u8; RX_RESPONSE]) -> Self {
        let [i0, i1, o0, o1, f0, f1, s0, s1] = bytes;
        Self {
            id: u16::from_le_bytes([i0, i1]),
            offset: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            size: u16::try_from(i16::from_le_bytes([s0, s1])).ok(),
        }
    }
}

/// A large TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Over IPv6.
    pub ipv6: bool,
    /// Bytes of data of each part; not zero.
    pub size: u16,
}

/// Extra information on a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra {
    /// What it says of a large segment, if it is about that. Other kinds say nothing that is needed here.
    pub gso: Option<Gso>,
    /// Which kind it is.
    pub kind: u8,
    /// More of it comes.
    pub more: bool,
}

impl Extra {
    /// The slot that says that a frame to be sent is a large segment.
    pub fn encode(gso: Gso) -> [u8; TX_REQUEST] {
        let [s0, s1] = gso.size.to_le_bytes();
        let kind = if gso.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        [EXTRA_GSO, 0, s0, s1, kind, 0, 0, 0, 0, 0, 0, 0]
    }

    /// From a slot that came in. None if it makes no sense.
    pub fn decode(bytes: [u8; RX_RESPONSE]) -> Option<Self> {
        let [kind, flags, s0, s1, gso, ..] = bytes;
        if kind == 0 || kind >= EXTRA_END {
            return None;
        }
        let size = u16::from_le_bytes([s0, s1]);
        let gso = match (kind, gso) {
            (EXTRA_GSO, GSO_TCPV4 | GSO_TCPV6) if size != 0 => Some(Gso {
                ipv6: gso == GSO_TCPV6,
                size,
            }),
            (EXTRA_GSO, _) => return None,
            _ => None,
        };
        Some(Self {
            gso,
            kind,
            more: flags & EXTRA_MORE != 0,
        })
    }
}
