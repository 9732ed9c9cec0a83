//! Cutting a large TCP segment for a receiver that takes only what fits on a wire.
//!
//! The headers of each part are written here; its checksum is left to whoever copies it, as with any frame.

use crate::bytes::{put, u8_at, u16_at, u32_at};
use crate::checksum::Sum;
use crate::packet::{LargeTcp, PREFIX, Packet};
use crate::wire::TCP;

/// Most parts of a segment: more than 64 KiB have at the smallest size that hosts have to take (536 bytes).
pub(crate) const MAX_PARTS: usize = 128;

/// Flags of a TCP header that only the first part keeps (CWR), and that only the last one does (FIN, PSH).
const FIRST_ONLY: u8 = 0x80;
const LAST_ONLY: u8 = 0x01 | 0x08;

/// One part.
pub(crate) struct Part {
    headers: [u8; PREFIX],
    len: usize,
    /// Bytes of data before it, and in it.
    pub(crate) skip: usize,
    pub(crate) data: usize,
}

impl Part {
    /// Its headers.
    pub(crate) fn headers(&self) -> &[u8] {
        self.headers.get(..self.len).unwrap_or(&[])
    }
}

/// How many parts there are.
pub(crate) fn count(packet: &Packet, tcp: &LargeTcp) -> usize {
    packet.body().div_ceil(tcp.part.max(1))
}

/// Bytes of data in a part.
pub(crate) fn data(packet: &Packet, tcp: &LargeTcp, number: usize) -> usize {
    let skip = number.saturating_mul(tcp.part);
    packet.body().saturating_sub(skip).min(tcp.part)
}

/// One of the parts.
pub(crate) fn part(packet: &Packet, tcp: &LargeTcp, number: usize) -> Part {
    let mut part = Part {
        headers: [0; PREFIX],
        len: packet.prefix().len(),
        skip: number.saturating_mul(tcp.part),
        data: data(packet, tcp, number),
    };
    for (to, from) in part.headers.iter_mut().zip(packet.prefix()) {
        *to = *from;
    }
    let last = part.skip.saturating_add(part.data) >= packet.body();
    // Headers and data are less than 64 KiB together.
    let transport = tcp
        .headers
        .saturating_sub(tcp.start)
        .saturating_add(part.data);
    let ip = packet.ethernet.len;
    if tcp.ipv6 {
        ipv6(&mut part.headers, ip, tcp.start, transport);
    } else {
        ipv4(&mut part.headers, ip, tcp.start, transport, number);
    }
    let (skip, start) = (part.skip, tcp.start);
    transport_header(&mut part.headers, start, skip, number == 0, last);
    let sum = pseudo_sum(&part.headers, ip, tcp.ipv6, TCP, transport);
    put(
        &mut part.headers,
        start.saturating_add(16),
        sum.folded().to_be_bytes(),
    );
    part
}

fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn ipv6(headers: &mut [u8], ip: usize, start: usize, transport: usize) {
    let extensions = start.saturating_sub(ip).saturating_sub(40);
    let payload = short(extensions.saturating_add(transport));
    put(headers, ip.saturating_add(4), payload.to_be_bytes());
}

fn ipv4(headers: &mut [u8], ip: usize, start: usize, transport: usize, number: usize) {
    let total = short(start.saturating_sub(ip).saturating_add(transport));
    put(headers, ip.saturating_add(2), total.to_be_bytes());
    let at = ip.saturating_add(4);
    let id = u16_at(headers, at).unwrap_or(0).wrapping_add(short(number));
    put(headers, at, id.to_be_bytes());
    let at = ip.saturating_add(10);
    put(headers, at, [0, 0]);
    let mut sum = Sum::default();
    sum.add(headers.get(ip..start).unwrap_or(&[]));
    put(headers, at, (!sum.folded()).to_be_bytes());
}

fn transport_header(headers: &mut [u8], start: usize, skip: usize, first: bool, last: bool) {
    let at = start.saturating_add(4);
    let skip = u32::try_from(skip).unwrap_or(0);
    let sequence = u32_at(headers, at).unwrap_or(0).wrapping_add(skip);
    put(headers, at, sequence.to_be_bytes());
    let at = start.saturating_add(13);
    let mut flags = u8_at(headers, at).unwrap_or(0);
    if !first {
        flags &= !FIRST_ONLY;
    }
    if !last {
        flags &= !LAST_ONLY;
    }
    put(headers, at, [flags]);
}

/// The sum over what a transport protocol's checksum covers besides the segment: addresses, length, protocol.
pub(crate) fn pseudo_sum(
    headers: &[u8],
    ip: usize,
    ipv6: bool,
    protocol: u8,
    transport: usize,
) -> Sum {
    let (from, to) = if ipv6 { (8, 40) } else { (12, 20) };
    let addresses = headers.get(ip.saturating_add(from)..ip.saturating_add(to));
    let mut sum = Sum::default();
    sum.add(addresses.unwrap_or(&[]));
    sum.add(&u32::try_from(transport).unwrap_or(0).to_be_bytes());
    sum.add(&[0, protocol]);
    sum
}
