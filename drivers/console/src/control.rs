//! Feature bits (virtio 1.3, 5.3.3) and control messages (5.3.6.2) of the console device.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, GuestMemory};

use crate::device::PORT_NAME_BYTES;

bitflags::bitflags! {
    /// Feature bits of the console device.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ConsoleFeatures: u64 {
        /// The configuration has the console's size.
        const SIZE = 1 << 0;
        /// There are control queues, and may be several ports.
        const MULTIPORT = 1 << 1;
        /// A character can be written into the configuration.
        const EMERG_WRITE = 1 << 2;
    }
}

/// The port number of messages that are about none.
pub const NO_PORT: u32 = u32::MAX;

/// What a control message says.
pub mod event {
    /// From the driver: it is ready for ports, or has failed.
    pub const DEVICE_READY: u16 = 0;
    /// To the driver: there is a port.
    pub const DEVICE_ADD: u16 = 1;
    /// To the driver: there is no such port any more. Not sent: ports stay.
    pub const DEVICE_REMOVE: u16 = 2;
    /// From the driver: it is ready for this port, or has failed.
    pub const PORT_READY: u16 = 3;
    /// To the driver: this port is a console.
    pub const CONSOLE_PORT: u16 = 4;
    /// To the driver: the console's size.
    pub const RESIZE: u16 = 5;
    /// Both ways: the port's other end is open, or not.
    pub const PORT_OPEN: u16 = 6;
    /// To the driver: the port's name.
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of a message without what may follow it.
const HEADER: usize = 8;

/// A message from the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) port: u32,
    pub(crate) event: u16,
    pub(crate) value: u16,
}

impl Received {
    /// Reads the message in a buffer; what may follow it is for later versions of the specification.
    pub(crate) fn read<M: GuestMemory + ?Sized>(mem: &M, chain: &Chain) -> Result<Self, FaultKind> {
        let ([p0, p1, p2, p3, e0, e1, v0, v1], _) =
            chain.readable().read_array::<M, HEADER>(mem)?;
        Ok(Self {
            port: u32::from_le_bytes([p0, p1, p2, p3]),
            event: u16::from_le_bytes([e0, e1]),
            value: u16::from_le_bytes([v0, v1]),
        })
    }
}

/// A message to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Add,
    Console,
    Name,
    Resize,
    Open(bool),
}

/// The bytes of a message.
pub(crate) type Bytes = heapless::Vec<u8, { HEADER + PORT_NAME_BYTES }>;

impl Message {
    /// Its bytes, followed by `more`, which fits.
    pub(crate) fn bytes(self, port: u32, more: &[u8]) -> Bytes {
        let (event, value) = match self {
            Self::Add => (event::DEVICE_ADD, 1),
            Self::Console => (event::CONSOLE_PORT, 1),
            Self::Name => (event::PORT_NAME, 1),
            Self::Resize => (event::RESIZE, 0),
            Self::Open(open) => (event::PORT_OPEN, u16::from(open)),
        };
        let mut bytes = Bytes::new();
        let parts: [&[u8]; 4] = [
            &port.to_le_bytes(),
            &u16::to_le_bytes(event),
            &u16::to_le_bytes(value),
            more,
        ];
        for part in parts {
            let _ = bytes.extend_from_slice(part);
        }
        bytes
    }
}
