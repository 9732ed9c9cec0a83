//! One frame that a driver sends: a copy of its start, and what of its header is believed.
//!
//! Invariant: an [`Offload`] lies inside of the frame and behind its Ethernet header, and was negotiated by the sender.

use vd_virtio::{GuestMemory, MemError, Span};

use crate::bytes::{u8_at, u16_at};
use crate::features::NetFeatures;
use crate::header::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NetHeader};
use crate::wire::{ETHERNET, Ethernet, IPV4, IPV6, TCP};

/// Bytes of a frame's start that are copied and looked at: more than the headers of TCP over IPv4 or IPv6 with all
/// options and two VLAN tags.
pub(crate) const PREFIX: usize = 192;
/// Longest frame: the longest IP packet.
const MAX_LEN: usize = 65535 + 22;
/// Where TCP has its checksum.
const TCP_CHECKSUM: usize = 16;

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

    /// Reads and checks a frame that a driver with these features sends. Gives the part of it that is not in the
    /// prefix.
    pub(crate) fn read<'a, M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        header: &NetHeader,
        frame: Span<'a>,
        features: NetFeatures,
    ) -> Result<Result<Span<'a>, Bad>, MemError> {
        let len = match usize::try_from(frame.len()) {
            Ok(len) if len <= MAX_LEN => len,
            _ => return Ok(Err(Bad::Long)),
        };
        let copied = len.min(PREFIX);
        if let (Some((start, _)), Some(into)) = (
            frame.split_at(u64::try_from(copied).unwrap_or(0)),
            self.bytes.get_mut(..copied),
        ) {
            start.read(mem, into)?;
        }
        self.prefix = copied;
        self.len = len;
        let Some(ethernet) = Ethernet::parse(self.prefix()) else {
            return Ok(Err(Bad::Short));
        };
        self.ethernet = ethernet;
        let Some(offload) = self.offload(header, features) else {
            return Ok(Err(Bad::Offload));
        };
        self.offload = offload;
        if let Offload::Tcp(tcp) = offload {
            // The headers may be written anew, so that they are all that is kept.
            self.prefix = tcp.headers;
        }
        let rest = u64::try_from(self.prefix)
            .ok()
            .and_then(|prefix| frame.split_at(prefix));
        Ok(rest.map(|(_, rest)| rest).ok_or(Bad::Short))
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
            GSO_TCPV4 | GSO_TCPV6 => self.large_tcp(header, features, start).map(Offload::Tcp),
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
