//! The entropy device: as many bytes as are asked for, and never the same.

use std::fs::File;
use std::io::{self, Read};

/// What it has given.
pub(crate) type Numbers = [u8; 64];

/// Reads numbers that must be others than those before. Without such a device there are none.
pub(crate) fn use_it(before: Option<Numbers>) -> io::Result<Option<Numbers>> {
    let current = std::fs::read_to_string("/sys/class/misc/hw_random/rng_current");
    if !current.is_ok_and(|name| name.starts_with("virtio_rng")) {
        return match before {
            None => Ok(None),
            Some(_) => Err(io::Error::other("the device has gone")),
        };
    }
    let mut numbers = [0; 64];
    File::open("/dev/hwrng")?.read_exact(&mut numbers)?;
    if before == Some(numbers) || numbers == [0; 64] {
        return Err(io::Error::other("the same numbers again"));
    }
    Ok(Some(numbers))
}
