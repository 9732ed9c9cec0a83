//! For whom the driver domain works.

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::keys;
use crate::number::canonical;

/// First id that no domain can have (`DOMID_FIRST_RESERVED`).
const FIRST_RESERVED: u16 = 0x7FF0;

/// Domain id of the guest: never dom0, never a reserved id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(u16);

impl Target {
    /// The guest with that id, if a guest can have it.
    pub const fn new(domid: u16) -> Option<Self> {
        if domid > 0 && domid < FIRST_RESERVED {
            Some(Self(domid))
        } else {
            None
        }
    }

    /// The guest that `text` names: a decimal number without sign or leading zero.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(Self::new)
            .ok_or_else(|| ConfigError::BadTarget(Excerpt::new(text)))
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What kind of guest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetType {
    /// A fully virtualized guest: it finds the devices by an ACPI table and has an I/O APIC.
    Hvm,
    /// A guest without firmware and I/O APIC: it finds the devices by xenstore.
    Pvh,
}

impl TargetType {
    /// All of them.
    pub const ALL: [TargetType; 2] = [TargetType::Hvm, TargetType::Pvh];

    /// The text in xenstore.
    pub const fn as_str(self) -> &'static str {
        match self {
            TargetType::Pvh => "pvh",
            TargetType::Hvm => "hvm",
        }
    }

    /// The type that `text` stands for.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        match text {
            b"hvm" => Ok(TargetType::Hvm),
            b"pvh" => Ok(TargetType::Pvh),
            _ => Err(ConfigError::BadTargetType(Excerpt::new(text))),
        }
    }
}

/// Checks the value of [`keys::VERSION`].
pub fn check_version(text: &[u8]) -> Result<(), ConfigError> {
    let known = [keys::VERSION_VALUE, keys::VERSION_SUCCESSOR];
    if known.iter().any(|known| text == known.as_bytes()) {
        Ok(())
    } else {
        Err(ConfigError::BadVersion(Excerpt::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guests_are_targets() {
        assert_eq!(Target::parse(b"1").unwrap().get(), 1);
        assert_eq!(Target::parse(b"32751").unwrap().get(), 0x7FEF);
        for bad in [
            "",
            "0",
            "32752",
            "65536",
            "65537",
            "-1",
            "+1",
            "01",
            "1 ",
            "hvm",
            "99999999999999999999",
        ] {
            assert!(Target::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Target::parse(&[0xff, 0xfe]).is_err());
        assert!(Target::parse(&[b'1'; 5000]).is_err());
    }

    #[test]
    fn only_two_kinds_of_guests_and_version_1_are_known() {
        for kind in TargetType::ALL {
            assert_eq!(TargetType::parse(kind.as_str().as_bytes()), Ok(kind));
        }
        for bad in ["", "PVH", "pv", "HVM", "hvm\0"] {
            assert!(TargetType::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(check_version(b"1"), Ok(()));
        for bad in ["", "2", "1.0", "-1"] {
            assert!(check_version(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
