//! What a frame says of itself: Ethernet addresses, where its network header is, which flow it belongs to.

use core::fmt;

use crate::bytes::{array, u8_at, u16_at, u32_at};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All of them.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether it stands for a group of stations.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether one station can have it.
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether it is one of the groups that bridges keep to themselves: 01:80:c2:00:00:00 to 0f.
    pub(crate) const fn is_reserved(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
const TAG: usize = 4;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ethernet {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// What comes after it.
    pub(crate) kind: u16,
    /// Its bytes, with at most two tags.
    pub(crate) len: usize,
}

impl Ethernet {
    /// The header of a frame that starts like this; None if it is too short for one.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let mut len = ETHERNET;
        let mut kind = u16_at(frame, 12)?;
        for _ in 0..2 {
            // 802.1Q and 802.1ad
            if !matches!(kind, 0x8100 | 0x88a8) {
                break;
            }
            let Some(inner) = u16_at(frame, len.saturating_add(2)) else {
                break;
            };
            kind = inner;
            len = len.saturating_add(TAG);
        }
        Some(Self {
            to: Mac(array(frame, 0)?),
            from: Mac(array(frame, 6)?),
            kind,
            len,
        })
    }
}

/// A number that both directions of a flow have in common.
pub(crate) fn flow(frame: &[u8], ethernet: &Ethernet) -> u32 {
    let at = ethernet.len;
    addresses_and_ports(frame, ethernet.kind, at).unwrap_or_else(|| {
        let [a, b] = [ethernet.from, ethernet.to].map(|mac| {
            let [_, _, c, d, e, f] = mac.0;
            u32::from_be_bytes([c, d, e, f])
        });
        mix(a ^ b)
    })
}

fn addresses_and_ports(frame: &[u8], kind: u16, at: usize) -> Option<u32> {
    let (addresses, protocol, ports) = match kind {
        IPV4 => {
            let header = usize::from(u8_at(frame, at)? & 0xf).saturating_mul(4);
            let words = [at.saturating_add(12), at.saturating_add(16)];
            let mut addresses = 0;
            for word in words {
                addresses ^= u32_at(frame, word)?;
            }
            // All fragments belong to one flow, and only the first of them has ports.
            let fragment = u16_at(frame, at.saturating_add(6))? & 0x3fff != 0;
            let protocol = u8_at(frame, at.saturating_add(9))?;
            (addresses, if fragment { 0 } else { protocol }, header)
        }
        IPV6 => {
            let mut addresses = 0;
            for word in (at.saturating_add(8)..at.saturating_add(40)).step_by(4) {
                addresses ^= u32_at(frame, word)?;
            }
            (addresses, u8_at(frame, at.saturating_add(6))?, 40)
        }
        _ => return None,
    };
    let ports = match protocol {
        TCP | UDP => {
            let at = at.saturating_add(ports);
            u16_at(frame, at)? ^ u16_at(frame, at.saturating_add(2))?
        }
        _ => 0,
    };
    Some(mix(addresses
        ^ u32::from(ports)
        ^ u32::from(protocol) << 16))
}

/// Spreads a number over all bits.
pub(crate) fn mix(value: u32) -> u32 {
    let value = (value ^ value >> 16).wrapping_mul(0x7feb_352d);
    let value = (value ^ value >> 15).wrapping_mul(0x846c_a68b);
    value ^ value >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(ports: [u8; 4], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 14];
        frame[12..].copy_from_slice(&[8, 0]);
        frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, TCP, 0, 0]);
        frame.extend(from.into_iter().chain(to).chain(ports));
        frame
    }

    fn number(frame: &[u8]) -> u32 {
        flow(frame, &Ethernet::parse(frame).unwrap())
    }

    #[test]
    fn both_directions_are_one_flow() {
        let there = number(&ipv4([1, 2, 3, 4], [10, 0, 0, 1], [10, 0, 0, 2]));
        let back = number(&ipv4([3, 4, 1, 2], [10, 0, 0, 2], [10, 0, 0, 1]));
        let other = number(&ipv4([1, 3, 3, 4], [10, 0, 0, 1], [10, 0, 0, 2]));
        assert_eq!(there, back);
        assert_ne!(there, other);
    }

    #[test]
    fn tags_are_passed_over() {
        let mut frame = vec![0; 12];
        frame.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0, 0x45]);
        let header = Ethernet::parse(&frame).unwrap();
        assert_eq!((header.kind, header.len), (IPV4, 22));
        let header = Ethernet::parse(&frame[..16]).unwrap();
        assert_eq!((header.kind, header.len), (0x88a8, 14), "cut short");
        assert_eq!(Ethernet::parse(&frame[..13]), None);
    }

    #[test]
    fn groups_and_stations() {
        assert!(Mac::BROADCAST.is_group() && !Mac::BROADCAST.is_station());
        assert!(!Mac([0; 6]).is_station() && !Mac([0; 6]).is_group());
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_station());
        assert!(Mac([1, 0x80, 0xc2, 0, 0, 0xf]).is_reserved());
        assert!(!Mac([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved());
        assert_eq!(
            Mac([0, 0x16, 0x3e, 1, 2, 0xff]).to_string(),
            "00:16:3e:01:02:ff"
        );
    }
}
