//! Numbers of network interfaces, as the toolstack counts them.
//!
//! The first interface of xl's `vif=` is number 0, unless its `devid=` says otherwise.

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::number::canonical;

/// An interface that the toolstack has given to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualInterface(u16);

impl VirtualInterface {
    /// More than a domain has.
    const END: u16 = 256;

    /// Reads a number.
    ///
    /// # Errors
    /// [`ConfigError::BadInterface`].
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(Self::from_number)
            .ok_or_else(|| ConfigError::BadInterface(Excerpt::new(text)))
    }

    /// The interface of that number, if it can be one.
    pub const fn from_number(number: u16) -> Option<Self> {
        if number < Self::END {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number: the last part of its path in xenstore.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VirtualInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_one_form_only() {
        for number in [0, 1, 255] {
            let text = format!("{number}");
            let vif = VirtualInterface::parse(text.as_bytes()).unwrap();
            assert_eq!((vif.number(), vif.to_string()), (number, text));
        }
        for text in [
            "", "00", "-1", "256", "+1", " 1", "1 ", "vif0", "eth0", "65536",
        ] {
            let error = VirtualInterface::parse(text.as_bytes()).expect_err(text);
            assert!(error.to_string().contains("backend=vif:0"), "{error}");
        }
    }
}
