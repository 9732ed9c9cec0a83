//! What a device type supplies; everything else is the transport's.

use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::GuestMemory;

/// The number of a device type (virtio 1.3, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// No device: drivers skip it.
    pub const RESERVED: DeviceId = DeviceId(0);
    /// Block device.
    pub const BLOCK: DeviceId = DeviceId(2);
}

/// A device type.
pub trait Device {
    /// Its number.
    fn id(&self) -> DeviceId;

    /// The features it offers, besides [`Features::CORE`].
    fn features(&self) -> Features;

    /// Copies configuration space from `offset` on; what is past its end reads as zeroes.
    fn read_config(&self, offset: usize, into: &mut [u8]);

    /// The driver writes to configuration space. Returns whether that means anything.
    fn write_config(&mut self, offset: usize, from: &[u8]) -> bool {
        let _ = (offset, from);
        false
    }

    /// The driver is done with the set-up.
    fn activate(&mut self, features: Features) {
        let _ = features;
    }

    /// The driver starts over: everything it has negotiated is forgotten.
    fn reset(&mut self) {}

    /// Serves one request of one queue; returns how many bytes were written into its buffers.
    ///
    /// # Errors
    /// A fault of the driver, which breaks the device. Trouble of the device itself is told to the driver inside of
    /// the request.
    fn serve<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &M,
        queue: u16,
        chain: &Chain,
    ) -> Result<u32, FaultKind>;
}
