//! How a device and its driver notify one another: interrupts one way, doorbells the other; and how the device gets at
//! the driver's memory.
//!
//! Not every kind of guest can take every path; [`Interrupt::check`], [`Doorbell::check`] and [`Memory::check`] say why not.

use crate::error::{ConfigError, Excerpt};
use crate::target::TargetType;

/// How a device interrupts its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// A level-triggered line of the I/O APIC, up until it is acknowledged. What HVM guests get by default.
    Intx,
    /// The same line as a pulse.
    Edge,
    /// A vector of the guest's local APIC, which the guest's driver announces.
    Msi,
    /// An event channel, which the guest's driver makes. What PVH guests get by default.
    EventChannel,
}

impl Interrupt {
    /// All of them.
    pub const ALL: [Interrupt; 4] = [Self::Intx, Self::Edge, Self::Msi, Self::EventChannel];

    /// The text in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intx => "intx",
            Self::Edge => "edge",
            Self::Msi => "msi",
            Self::EventChannel => "event-channel",
        }
    }

    /// The path that `text` names.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|path| path.as_str().as_bytes() == text)
            .ok_or_else(|| ConfigError::BadInterrupt(Excerpt::new(text)))
    }

    /// What a guest of this type gets if nothing else is asked for.
    pub const fn default_for(guest: TargetType) -> Self {
        match guest {
            TargetType::Hvm => Self::Intx,
            TargetType::Pvh => Self::EventChannel,
        }
    }

    /// Whether a guest of this type can take it.
    ///
    /// # Errors
    /// It cannot; the error says what it can.
    pub const fn check(self, guest: TargetType) -> Result<(), ConfigError> {
        match (guest, self) {
            (TargetType::Hvm, Self::Intx | Self::Edge)
            | (TargetType::Pvh, Self::Msi | Self::EventChannel) => Ok(()),
            _ => Err(ConfigError::InterruptNotFor(guest, self)),
        }
    }
}

/// How a guest's driver says that there are requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Doorbell {
    /// The register QueueNotify; it always works, whatever else there is.
    #[default]
    Mmio,
    /// An I/O port as well.
    Port,
    /// An event channel for each queue as well.
    EventChannel,
    /// None while the device is busy: it looks by itself.
    Polled,
    /// All register writes are posted, QueueNotify among them: the registers are where Xen takes writes without making the
    /// guest wait. For HVM guests without VGA.
    Posted,
}

impl Doorbell {
    /// All of them.
    pub const ALL: [Doorbell; 5] = [
        Self::Mmio,
        Self::Port,
        Self::EventChannel,
        Self::Polled,
        Self::Posted,
    ];

    /// The text in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Port => "port",
            Self::EventChannel => "event-channel",
            Self::Polled => "polled",
            Self::Posted => "posted",
        }
    }

    /// The doorbell that `text` names.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|doorbell| doorbell.as_str().as_bytes() == text)
            .ok_or_else(|| ConfigError::BadDoorbell(Excerpt::new(text)))
    }

    /// Whether a guest of this type can ring it: some the driver has to learn of through xenstore, and some Xen has for
    /// one type only.
    ///
    /// # Errors
    /// It cannot; the error says what it can.
    pub const fn check(self, guest: TargetType) -> Result<(), ConfigError> {
        match (guest, self) {
            (TargetType::Hvm, Self::Port | Self::EventChannel)
            | (TargetType::Pvh, Self::Posted) => Err(ConfigError::DoorbellNotFor(guest, self)),
            _ => Ok(()),
        }
    }
}

/// What it costs a driver to read a device's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reads {
    /// Each read waits for the device.
    #[default]
    Trapped,
    /// While a driver uses the device, those that it reads then are in the guest's memory. For posted writes.
    Memory,
}

impl Reads {
    /// All of them.
    pub const ALL: [Reads; 2] = [Self::Trapped, Self::Memory];

    /// The text in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trapped => "trapped",
            Self::Memory => "memory",
        }
    }

    /// The way that `text` names.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|reads| reads.as_str().as_bytes() == text)
            .ok_or_else(|| ConfigError::BadRegisters(Excerpt::new(text)))
    }
}

/// How a device gets at its driver's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Memory {
    /// All of the guest's memory is the device's to map: addresses are guest-physical.
    #[default]
    Foreign,
    /// Addresses are grant references (bit 63 set), and nothing else of the guest's memory is touched. The driver has to
    /// choose `VIRTIO_F_ACCESS_PLATFORM`.
    Grants,
}

impl Memory {
    /// All of them.
    pub const ALL: [Memory; 2] = [Self::Foreign, Self::Grants];

    /// The text in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Grants => "grants",
        }
    }

    /// The way that `text` names.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|memory| memory.as_str().as_bytes() == text)
            .ok_or_else(|| ConfigError::BadMemory(Excerpt::new(text)))
    }

    /// Whether the driver of a guest of this type can learn that it has to grant its memory: by xenbus only.
    ///
    /// # Errors
    /// It cannot.
    pub const fn check(self, guest: TargetType) -> Result<(), ConfigError> {
        match (guest, self) {
            (TargetType::Hvm, Self::Grants) => Err(ConfigError::GrantsNotForHvm),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back_are_the_same() {
        for path in Interrupt::ALL {
            assert_eq!(Interrupt::parse(path.as_str().as_bytes()), Ok(path));
        }
        for doorbell in Doorbell::ALL {
            assert_eq!(Doorbell::parse(doorbell.as_str().as_bytes()), Ok(doorbell));
        }
        for memory in Memory::ALL {
            assert_eq!(Memory::parse(memory.as_str().as_bytes()), Ok(memory));
        }
        for reads in Reads::ALL {
            assert_eq!(Reads::parse(reads.as_str().as_bytes()), Ok(reads));
        }
        for bad in ["", "level", "MSI", "msi ", "event_channel", "\0"] {
            assert!(Reads::parse(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(Interrupt::parse(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(Doorbell::parse(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(Memory::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_kind_of_guest_can_take_its_default_and_not_everything() {
        for guest in TargetType::ALL {
            assert_eq!(Interrupt::default_for(guest).check(guest), Ok(()));
            assert_eq!(Doorbell::default().check(guest), Ok(()));
            assert_eq!(Memory::default().check(guest), Ok(()));
            assert!(Interrupt::ALL.iter().any(|path| path.check(guest).is_err()));
        }
        let fits = |guest| {
            Interrupt::ALL
                .map(|path| path.check(guest).is_ok())
                .into_iter()
                .chain(Doorbell::ALL.map(|doorbell| doorbell.check(guest).is_ok()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            fits(TargetType::Hvm),
            [true, true, false, false, true, false, false, true, true]
        );
        assert_eq!(
            fits(TargetType::Pvh),
            [false, false, true, true, true, true, true, true, false]
        );
        assert_eq!(Memory::Grants.check(TargetType::Pvh), Ok(()));
        assert_eq!(
            Memory::Grants.check(TargetType::Hvm),
            Err(ConfigError::GrantsNotForHvm)
        );
    }
}
