//! The header before every frame in a buffer (virtio 1.3, 5.1.6).

/// Its bytes, with VERSION_1 and without hash reports.
pub const HEADER: usize = 12;

/// Flag: the checksum from `csum_start` on is to be put at `csum_start + csum_offset`.
pub const NEEDS_CSUM: u8 = 1;
/// No large segment.
pub const GSO_NONE: u8 = 0;
/// A large TCP segment over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// A large TCP segment over IPv6.
pub const GSO_TCPV6: u8 = 4;

/// `virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// [`NEEDS_CSUM`], and others that mean nothing from a driver.
    pub flags: u8,
    /// One of the `GSO` numbers.
    pub gso_type: u8,
    /// A hint how long the frame's headers are; not believed.
    pub hdr_len: u16,
    /// Bytes of TCP data in each part.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// How far from there its field is.
    pub csum_offset: u16,
    /// How many buffers the frame takes.
    pub num_buffers: u16,
}

impl NetHeader {
    /// From its bytes.
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers: u16::from_le_bytes([n0, n1]),
        }
    }

    /// To its bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [
            self.flags,
            self.gso_type,
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
            n0,
            n1,
        ]
    }
}
