//! What only network devices have: an address and an MTU.

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::number::canonical;

/// The Ethernet address of one station: no group, and not all zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Checks and takes an address.
    pub const fn new(bytes: [u8; 6]) -> Option<Self> {
        if bytes[0] & 1 != 0 || matches!(bytes, [0, 0, 0, 0, 0, 0]) {
            None
        } else {
            Some(Self(bytes))
        }
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::BadMac(Excerpt::new(text));
        let mut bytes = [0; 6];
        let mut parts = text.split(|byte| *byte == b':');
        for byte in &mut bytes {
            let [high, low] = parts.next().ok_or_else(refuse)? else {
                return Err(refuse());
            };
            let [high, low] = [*high, *low].map(|digit| char::from(digit).to_digit(16));
            let value = high.zip(low).map(|(high, low)| high << 4 | low);
            *byte = value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(refuse)?;
        }
        if parts.next().is_some() {
            return Err(refuse());
        }
        Self::new(bytes).ok_or_else(refuse)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Most bytes of a frame behind its Ethernet header: 1280, which IPv6 needs, to 9216.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu(u16);

impl Mtu {
    /// Checks and takes a number.
    pub const fn new(bytes: u16) -> Option<Self> {
        if bytes < 1280 || bytes > 9216 {
            None
        } else {
            Some(Self(bytes))
        }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u16 {
        self.0
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(Self::new)
            .ok_or_else(|| ConfigError::BadMtu(Excerpt::new(text)))
    }
}

impl Default for Mtu {
    fn default() -> Self {
        Self(1500)
    }
}
