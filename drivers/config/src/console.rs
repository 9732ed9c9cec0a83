//! What only console devices have: ports beside the console.

use core::fmt;

use crate::error::{ConfigError, Excerpt};

/// The name of a port: 1 to 32 letters, digits, dots, dashes and underscores, so that it needs no quoting anywhere. The first is
/// a letter: what begins with a digit is the number of a port.
pub type PortName = heapless::String<{ PortNames::LONGEST }>;

/// The names of a device's ports beside the console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNames(heapless::Vec<PortName, { PortNames::MOST }>);

impl PortNames {
    /// Most of them.
    pub const MOST: usize = 3;
    /// Most bytes of a name.
    pub const LONGEST: usize = 32;

    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::BadPorts(Excerpt::new(text));
        let mut names = heapless::Vec::new();
        for name in text.split(|byte| *byte == b'/') {
            let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
            let begins = name.first().is_some_and(u8::is_ascii_alphabetic);
            if !begins || !name.iter().all(allowed) {
                return Err(refuse());
            }
            let name = core::str::from_utf8(name).map_err(|_| refuse())?;
            let name = PortName::try_from(name).map_err(|_| refuse())?;
            if names.contains(&name) {
                return Err(refuse());
            }
            names.push(name).map_err(|_| refuse())?;
        }
        Ok(Self(names))
    }

    /// Each of them; the first is port 1.
    pub fn iter(&self) -> impl Iterator<Item = &PortName> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for PortNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slash = "";
        for name in self.iter() {
            write!(f, "{slash}{name}")?;
            slash = "/";
        }
        Ok(())
    }
}
