//! The xenbus device by which a PVH guest finds a virtio-mmio device: nodes in xenstore, and states.
//!
//! `vdom` makes both directories. The back end's (the driver domain's) says where the registers are, in [`BASE`] and
//! [`SIZE`]; the driver makes an event channel, says which in [`EVENT_CHANNEL`] of the front end's directory, and goes
//! to [`BusState::Initialised`]; the driver domain binds it and goes to [`BusState::Connected`]. This follows the
//! patch "virtio-mmio: add xenbus probing" for Linux (April 2026). The other keys are this project's own, and a driver
//! that does not know them can leave them alone.

use core::fmt;

use crate::device::DeviceType;
use crate::slot::{SlotIndex, WINDOW_SIZE};

/// The class of the device: the name of its directory.
pub const CLASS: &str = "virtio";

/// In both directories: a [`BusState`].
pub const STATE: &str = "state";
/// In the front end's: the back end's directory.
pub const BACKEND: &str = "backend";
/// In the front end's: the back end's domain.
pub const BACKEND_ID: &str = "backend-id";
/// In the back end's: the front end's directory.
pub const FRONTEND: &str = "frontend";
/// In the back end's: the front end's domain.
pub const FRONTEND_ID: &str = "frontend-id";

/// In the back end's: guest-physical address of the registers, hexadecimal with `0x`.
pub const BASE: &str = "base";
/// In the back end's: bytes of the registers, decimal.
pub const SIZE: &str = "size";
/// In the back end's, for a guest with an I/O APIC: the global system interrupt, decimal.
pub const IRQ: &str = "irq";
/// In the back end's: whether the toolstack wants the device, `1` or `0`.
pub const ONLINE: &str = "online";
/// In the back end's: why there can be no such device, in words.
pub const ERROR: &str = "error";
/// In the back end's: the name of an [`Interrupt`](crate::Interrupt).
pub const INTERRUPT: &str = "interrupt";
/// In the back end's: the name of a [`Doorbell`](crate::Doorbell).
pub const DOORBELL: &str = "doorbell";
/// In the back end's: the I/O port to write a queue's number to, decimal.
pub const DOORBELL_PORT: &str = "doorbell-port";
/// In the back end's, if the driver has to share its memory by grant: the name of that
/// [`Memory`](crate::Memory).
pub const MEMORY: &str = "memory";

/// In the back end's, for the toolstack: [`DeviceKind`].
pub const TYPE: &str = "type";
/// In the back end's, for the toolstack: [`TRANSPORT_VALUE`].
pub const TRANSPORT: &str = "transport";
/// The value of [`TRANSPORT`].
pub const TRANSPORT_VALUE: &str = "mmio";
/// In the back end's, for the toolstack: whether memory is shared by grant, `1` or `0`.
pub const GRANT_USAGE: &str = "grant_usage";

/// What libxl calls a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKind(pub DeviceType);

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{GENERIC}{:x}", self.0.virtio_id())
    }
}

/// What libxl calls a device of no particular kind.
pub const GENERIC: &str = "virtio,device";

/// In the front end's: the port of the event channel that interrupts the guest, decimal.
pub const EVENT_CHANNEL: &str = "event-channel";
/// In the front end's: where to send the message-signalled interrupt, decimal.
pub const MSI_ADDRESS: &str = "msi-address";
/// In the front end's: what to send there, decimal.
pub const MSI_DATA: &str = "msi-data";
/// In the front end's, followed by a queue's number: the port of the event channel that is the queue's doorbell.
pub const DOORBELL_EVENT_CHANNEL: &str = "doorbell-event-channel-";

/// The value of [`SIZE`].
pub const SIZE_VALUE: u64 = WINDOW_SIZE;

/// How far one end of a xenbus device is (public/io/xenbus.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BusState {
    /// No state, or none that makes sense.
    #[default]
    Unknown = 0,
    /// It has only just begun.
    Initialising = 1,
    /// The back end waits for the front end.
    InitWait = 2,
    /// All it has to say is in its directory.
    Initialised = 3,
    /// It works.
    Connected = 4,
    /// It is about to end.
    Closing = 5,
    /// It has ended, and may begin again.
    Closed = 6,
    /// Something changes.
    Reconfiguring = 7,
    /// Something has changed.
    Reconfigured = 8,
}

impl BusState {
    /// The state that `text` stands for; other values than 1 to 8 are [`BusState::Unknown`].
    pub const fn parse(text: &[u8]) -> Self {
        match text {
            b"1" => Self::Initialising,
            b"2" => Self::InitWait,
            b"3" => Self::Initialised,
            b"4" => Self::Connected,
            b"5" => Self::Closing,
            b"6" => Self::Closed,
            b"7" => Self::Reconfiguring,
            b"8" => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// The text in xenstore.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

/// The front end's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendPath {
    /// The guest.
    pub guest: u16,
    /// The device.
    pub slot: SlotIndex,
}

impl fmt::Display for FrontendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "/local/domain/{}/device/{CLASS}/{}",
            self.guest, self.slot
        )
    }
}

/// The back end's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPath {
    /// The driver domain; `None` for a path relative to its home.
    pub driver: Option<u16>,
    /// The guest.
    pub guest: u16,
    /// The device.
    pub slot: SlotIndex,
}

impl fmt::Display for BackendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(driver) = self.driver {
            write!(f, "/local/domain/{driver}/")?;
        }
        write!(f, "backend/{CLASS}/{}/{}", self.guest, self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_back_are_the_same() {
        for number in 0..=255_u8 {
            let state = BusState::parse(number.to_string().as_bytes());
            let expected = if (1..=8).contains(&number) { number } else { 0 };
            assert_eq!(state as u8, expected);
            assert_eq!(state.as_str(), expected.to_string());
        }
        for bad in ["", "4 ", "04", "+4", "x", "4\0"] {
            assert_eq!(
                BusState::parse(bad.as_bytes()),
                BusState::Unknown,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn kinds_are_what_libxl_calls_them() {
        let kinds = [
            (DeviceType::Net, "virtio,device1"),
            (DeviceType::Blk, "virtio,device2"),
            (DeviceType::Console, "virtio,device3"),
            (DeviceType::Rng, "virtio,device4"),
        ];
        for (kind, text) in kinds {
            assert_eq!(DeviceKind(kind).to_string(), text);
        }
    }

    #[test]
    fn directories_are_where_xenbus_has_them() {
        let slot = SlotIndex::new(3).unwrap();
        assert_eq!(
            FrontendPath { guest: 7, slot }.to_string(),
            "/local/domain/7/device/virtio/3"
        );
        let of = |driver| BackendPath {
            driver,
            guest: 7,
            slot,
        };
        assert_eq!(of(None).to_string(), "backend/virtio/7/3");
        assert_eq!(
            of(Some(5)).to_string(),
            "/local/domain/5/backend/virtio/7/3"
        );
    }
}
