//! One frame that a driver sends: a copy of its start, and what of its header is believed.
//!
//! Invariant: an [`Offload`] lies inside of the frame and behind its Ethernet header, and was negotiated by the sender.

use vd_virtio::{GuestMemory, MemError};

use crate::bytes::{put, u8_at, u16_at};
use crate::features::NetFeatures;
use crate::header::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NetHeader};
use crate::place::{self, Frames, Piece};
use crate::segment::pseudo_sum;
use crate::wire::{ETHERNET, Ethernet, IPV4, IPV6, TCP, UDP};

/// Bytes of a frame's start that are copied and looked at: more than the headers of TCP over IPv4 or IPv6 with all
/// options and two VLAN tags.
pub(crate) const PREFIX: usize = 192;
/// Longest frame: the longest IP packet.
const MAX_LEN: usize = 65535 + 22;
/// Where TCP and UDP have their checksums.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// What is said of a frame by who brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim {
    /// A driver, in its header.
    Header(NetHeader),
    /// An uplink.
    Uplink {
        /// The checksum has to be filled in.
        blank: bool,
        /// It is a large TCP segment: whether over IPv6, and the bytes of data of each part.
        large: Option<(bool, u16)>,
    },
}

/// TCP or UDP right behind an IP header, in a packet that is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) ipv6: bool,
    pub(crate) protocol: u8,
    /// Where its header is.
    pub(crate) start: usize,
    /// Where its checksum goes.
    pub(crate) field: usize,
    /// Bytes of header and data, as the IP header has it.
    pub(crate) len: usize,
}

/// What a sender left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// Nothing.
    None,
    /// The checksum from `start` on, to be put at `field`.
    Checksum { start: usize, field: usize },
    /// Cutting TCP data into parts.
    Tcp(LargeTcp),
}

/// A large TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LargeTcp {
    pub(crate) ipv6: bool,
    /// Where the TCP header is.
    pub(crate) start: usize,
    /// Bytes of all headers.
    pub(crate) headers: usize,
    /// Most bytes of data in a part.
    pub(crate) part: usize,
}

impl LargeTcp {
    /// Where its checksum goes.
    pub(crate) fn checksum(&self) -> usize {
        self.start.saturating_add(TCP_CHECKSUM)
    }

    /// The feature without which a receiver does not take it.
    pub(crate) fn guest_feature(&self) -> NetFeatures {
        if self.ipv6 {
            NetFeatures::GUEST_TSO6
        } else {
            NetFeatures::GUEST_TSO4
        }
    }
}

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Short,
    Long,
    Offload,
}

/// The start of a frame, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    bytes: [u8; PREFIX],
    prefix: usize,
    /// Bytes of the whole frame.
    pub(crate) len: usize,
    pub(crate) ethernet: Ethernet,
    pub(crate) offload: Offload,
}

impl Packet {
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; PREFIX],
        prefix: 0,
        len: 0,
        ethernet: Ethernet {
            to: crate::wire::Mac([0; 6]),
            from: crate::wire::Mac([0; 6]),
            kind: 0,
            len: ETHERNET,
        },
        offload: Offload::None,
    };

    /// Reads and checks a frame that a port with these features sends. Leaves in `pieces` what is not in the prefix.
    pub(crate) fn read<M: GuestMemory + ?Sized, const N: usize>(
        &mut self,
        mem: &Frames<'_, M>,
        claim: &Claim,
        pieces: &mut heapless::Vec<Piece, N>,
        features: NetFeatures,
    ) -> Result<Result<(), Bad>, MemError> {
        let len = pieces
            .iter()
            .fold(0usize, |len, piece| len.saturating_add(piece.len()));
        if len > MAX_LEN {
            return Ok(Err(Bad::Long));
        }
        self.prefix = len.min(PREFIX);
        self.len = len;
        self.read_prefix(mem, pieces)?;
        let Some(ethernet) = Ethernet::parse(self.prefix()) else {
            return Ok(Err(Bad::Short));
        };
        self.ethernet = ethernet;
        let header = match claim {
            Claim::Header(header) => Some(*header),
            Claim::Uplink { blank, large } => self.header(*blank, *large),
        };
        let Some(offload) = header.and_then(|header| self.offload(&header, features)) else {
            return Ok(Err(Bad::Offload));
        };
        self.offload = offload;
        if let Offload::Tcp(tcp) = offload {
            // The headers may be written anew, so that they are all that is kept.
            self.prefix = tcp.headers;
        }
        place::skip(pieces, self.prefix);
        Ok(Ok(()))
    }

    fn read_prefix<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        pieces: &[Piece],
    ) -> Result<(), MemError> {
        let mut rest = self.bytes.get_mut(..self.prefix).unwrap_or(&mut []);
        for piece in pieces {
            let here = piece.len().min(rest.len());
            let Some((into, more)) = rest.split_at_mut_checked(here).filter(|_| here != 0) else {
                break;
            };
            mem.read(piece.at, into)?;
            rest = more;
        }
        Ok(())
    }

    /// The transport header, if it is one whose place follows from the frame alone.
    pub(crate) fn transport(&self) -> Option<Transport> {
        let frame = self.prefix();
        let ip = self.ethernet.len;
        let ipv6 = self.ethernet.kind == IPV6;
        let (header, protocol, len) = match self.ethernet.kind {
            IPV4 if u16_at(frame, ip.saturating_add(6))? & 0x3fff == 0 => {
                let words = usize::from(u8_at(frame, ip)? & 0xf);
                let header = words.saturating_mul(4);
                let total = usize::from(u16_at(frame, ip.saturating_add(2))?);
                let len = total.checked_sub(header)?;
                (header, u8_at(frame, ip.saturating_add(9))?, len)
            }
            IPV6 => {
                let len = usize::from(u16_at(frame, ip.saturating_add(4))?);
                (40, u8_at(frame, ip.saturating_add(6))?, len)
            }
            _ => return None,
        };
        let version = u8_at(frame, ip)? >> 4;
        let start = ip.saturating_add(header);
        let field = match protocol {
            TCP => start.saturating_add(TCP_CHECKSUM),
            UDP => start.saturating_add(UDP_CHECKSUM),
            _ => return None,
        };
        let right = version == if ipv6 { 6 } else { 4 }
            && header >= 20
            && field.saturating_add(2) <= frame.len();
        right.then_some(Transport {
            ipv6,
            protocol,
            start,
            field,
            len,
        })
    }

    /// The header that a driver would have written for a frame that comes in by an uplink; None if there is none. What a
    /// blank checksum's field has to hold (the sum over what is not in the segment) is put there, whatever was there.
    fn header(&mut self, blank: bool, large: Option<(bool, u16)>) -> Option<NetHeader> {
        if !blank && large.is_none() {
            return Some(NetHeader::default());
        }
        let transport = self.transport()?;
        let Transport {
            ipv6, start, field, ..
        } = transport;
        let ip = self.ethernet.len;
        let sum = pseudo_sum(&self.bytes, ip, ipv6, transport.protocol, transport.len);
        put(&mut self.bytes, field, sum.folded().to_be_bytes());
        let (gso_type, gso_size) = match large {
            None => (GSO_NONE, 0),
            Some((false, size)) => (GSO_TCPV4, size),
            Some((true, size)) => (GSO_TCPV6, size),
        };
        Some(NetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            gso_size,
            csum_start: u16::try_from(start).ok()?,
            csum_offset: u16::try_from(field.saturating_sub(start)).ok()?,
            ..NetHeader::default()
        })
    }

    /// The copy of its start.
    pub(crate) fn prefix(&self) -> &[u8] {
        self.bytes.get(..self.prefix).unwrap_or(&[])
    }

    /// Bytes behind the prefix.
    pub(crate) fn body(&self) -> usize {
        self.len.saturating_sub(self.prefix)
    }

    /// Bytes of the longest frame that it becomes on a wire.
    pub(crate) fn wire_len(&self) -> usize {
        match self.offload {
            Offload::Tcp(tcp) => self.len.min(tcp.headers.saturating_add(tcp.part)),
            Offload::None | Offload::Checksum { .. } => self.len,
        }
    }

    /// Whether it fits an MTU.
    pub(crate) fn fits(&self, mtu: u16) -> bool {
        self.wire_len() <= self.ethernet.len.saturating_add(mtu.into())
    }

    /// What the header asks for, if that can be meant.
    fn offload(&self, header: &NetHeader, features: NetFeatures) -> Option<Offload> {
        let needs = header.flags & NEEDS_CSUM != 0;
        if !needs {
            return (header.gso_type == GSO_NONE).then_some(Offload::None);
        }
        let start = usize::from(header.csum_start);
        let field = start.checked_add(header.csum_offset.into())?;
        let end = field.checked_add(2)?;
        if !features.contains(NetFeatures::CSUM) || start < self.ethernet.len || end > self.len {
            return None;
        }
        match header.gso_type {
            GSO_NONE => Some(Offload::Checksum { start, field }),
            GSO_TCPV4 | GSO_TCPV6 => {
                let tcp = self.large_tcp(header, features, start)?;
                // What is in one part already has nothing to be cut. That the size of a part is less than what there is
                // also keeps numbers that mean something else (Linux: 0xffff) from whoever cuts it.
                Some(if self.len.saturating_sub(tcp.headers) > tcp.part {
                    Offload::Tcp(tcp)
                } else {
                    Offload::Checksum { start, field }
                })
            }
            _ => None,
        }
    }

    fn large_tcp(
        &self,
        header: &NetHeader,
        features: NetFeatures,
        start: usize,
    ) -> Option<LargeTcp> {
        let frame = self.prefix();
        let ip = self.ethernet.len;
        let ipv6 = header.gso_type == GSO_TCPV6;
        let (kind, feature, length, protocol) = if ipv6 {
            (IPV6, NetFeatures::HOST_TSO6, 40, ip.saturating_add(6))
        } else {
            let words = usize::from(u8_at(frame, ip)? & 0xf);
            let length = words.saturating_mul(4);
            (IPV4, NetFeatures::HOST_TSO4, length, ip.saturating_add(9))
        };
        let version = u8_at(frame, ip)? >> 4;
        let right = features.contains(feature)
            && self.ethernet.kind == kind
            && version == if ipv6 { 6 } else { 4 }
            && length >= 20
            && start == ip.saturating_add(length)
            && u8_at(frame, protocol)? == TCP
            && usize::from(header.csum_offset) == TCP_CHECKSUM
            && header.gso_size != 0;
        let words = u16_at(frame, start.saturating_add(12))? >> 12;
        let headers = start.saturating_add(usize::from(words).saturating_mul(4));
        if !right || words < 5 || headers > frame.len() || headers >= self.len {
            return None;
        }
        Some(LargeTcp {
            ipv6,
            start,
            headers,
            part: header.gso_size.into(),
        })
    }
}
