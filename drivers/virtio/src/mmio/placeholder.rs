//! A register window without a device: drivers read DeviceID 0 and leave it alone (virtio 1.3, 4.2.3.1.1).

use super::{MAGIC, Register, VENDOR, VERSION};
use crate::device::DeviceId;

/// The registers of a device that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Placeholder;

impl Placeholder {
    /// The driver reads; writes have no effect.
    pub fn read(self, offset: u64, size: u64) -> u64 {
        let register = if size == 4 {
            Register::at(offset)
        } else {
            None
        };
        match register {
            Some(Register::MagicValue) => MAGIC.into(),
            Some(Register::Version) => VERSION.into(),
            Some(Register::DeviceId) => DeviceId::RESERVED.0.into(),
            Some(Register::VendorId) => VENDOR.into(),
            _ => 0,
        }
    }
}
